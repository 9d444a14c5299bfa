"""The web server of a vote, from outside: token, paths, bodies, ports."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.votes.ledger import open_ledger, read_votes
from srpo_ray.votes.server import VoteServer, open_server
from srpo_ray.votes.session import Session
from tests.helpers.ballots import ballot

TOKEN = "geheim-é"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VoteServer]:
    with open_ledger(tmp_path) as ledger:
        opened, session = open_server("127.0.0.1", 0, TOKEN), Session(ballot(tmp_path, ["base", "tuned"]), ledger, [])
        thread = threading.Thread(target=opened.serve, args=(session, 0.01), daemon=True)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def ask(
    server: VoteServer, method: str, path: str, body: Any = None, kind: str = "application/json"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.server_address[1]), timeout=10)
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, content, {"Content-Type": kind} if content is not None else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def with_token(path: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}token=geheim-%C3%A9"


@pytest.mark.parametrize("path", ["/", "/next?rater=Ada", "/image/x", "/?token=", "/?token=wrong", "/nothing"])
def test_request_without_the_token_is_refused(server: VoteServer, path: str) -> None:
    assert ask(server, "GET", path)[0] == 403
    assert ask(server, "POST", path, {"rater": "Ada"})[0] == 403


def test_no_path_leads_to_a_file(server: VoteServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for path in ("/secret", "/image/../secret", "/image/..%2fsecret", f"/image/{tmp_path}/secret", "//etc/passwd"):
        status, body = ask(server, "GET", with_token(path))
        assert (status, b"secret" in body) == (404, False)


def test_body_that_is_not_a_small_json_object_of_texts_is_refused(server: VoteServer, tmp_path: Path) -> None:
    bodies = [b"", b"[]", b"{", b'{"rater": 1}', b"[" * 4000, b'{"rater": "' + b"x" * 5000 + b'"}', b'{"rater": "a"}']
    for body in bodies:
        status, answer = ask(server, "POST", with_token("/vote"), body)
        assert status in (400, 409), body
        assert json.loads(answer)["error"]
    # A form of another site can send no JSON.
    good = {"rater": "Ada", "ticket": "x", "choice": "left"}
    assert ask(server, "POST", with_token("/vote"), good, kind="text/plain")[0] == 400
    assert read_votes(tmp_path) == []


def test_vote_is_on_disk_when_it_is_acknowledged(server: VoteServer, tmp_path: Path) -> None:
    status, body = ask(server, "GET", with_token("/next?rater=Ada"))
    state = json.loads(body)
    assert status == 200
    image = ask(server, "GET", with_token(f"/image/{state['left']}"))
    assert (image[0], image[1][:8]) == (200, b"\x89PNG\r\n\x1a\n")
    # Pixels alone: no text chunk that could name a system.
    assert not [chunk for chunk in (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"tIME") if chunk in image[1]]
    assert (
        ask(server, "POST", with_token("/vote"), {"rater": "Ada", "ticket": state["ticket"], "choice": "tie"})[0] == 200
    )
    assert [(each.rater, each.choice) for each in read_votes(tmp_path)] == [("Ada", "tie")]


def test_page_loads_nothing_from_elsewhere_and_allows_no_other_site(server: VoteServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.server_address[1]), timeout=10)
    connection.request("GET", with_token("/"), headers={"Origin": "http://evil.example"})
    answer = connection.getresponse()
    page = answer.read().decode()
    assert "{{" not in page
    assert "http://" not in page
    assert "https://" not in page
    headers = {name.lower(): value for name, value in answer.getheaders()}
    assert "access-control-allow-origin" not in headers
    assert headers["content-security-policy"].startswith("default-src 'none'")


def test_taken_port_is_refused_and_without_a_port_the_next_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        with pytest.raises(ValueError, match=f"expected a free port of this machine, got 127.0.0.1:{port}"):
            open_server("127.0.0.1", port, None)
        monkeypatch.setattr("srpo_ray.votes.server.DEFAULT_PORT", port)
        server = open_server("127.0.0.1", None, None)
        assert port < int(server.server_address[1]) < port + 20
        server.server_close()
        server = open_server("0.0.0.0", 0, "a b&c")
        assert server.url == f"http://{socket.gethostname()}:{server.server_address[1]}/?token=a%20b%26c"
        server.server_close()
    for port in (-1, 70000):
        with pytest.raises(ValueError, match="expected a free port"):
            open_server("127.0.0.1", port, None)
    # An address that is reserved for documentation, so of no machine.
    with pytest.raises(ValueError, match=r"got 203\.0\.113\.1:0"):
        open_server("203.0.113.1", 0, None)
