"""Local web server of a vote: one page, and requests for pairs, images, votes and undo; every request needs a token."""

import errno
import hmac
import json
import secrets
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from srpo_ray.votes.session import BadRequestError, Session, StaleTicketError

DEFAULT_PORT = 8420
_PORTS = 20
"""Ports that are tried one after the other if none was given."""
_LONGEST_BODY = 4096
_PAGE = Path(__file__).with_name("page")
_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'nonce-{nonce}';"
    " script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class VoteServer(ThreadingHTTPServer):
    """Server of one session, which holds its port from the start.

    Args:
        address: Host and port; port 0 takes a free one.
        token: Secret that every request must carry.
    """

    daemon_threads = True
    session: Session
    """Session that is served."""

    def __init__(self, address: tuple[str, int], token: str) -> None:
        super().__init__(address, _Handler)
        self.token = token
        self.stopped = False

    def serve(self, session: Session, poll_s: float = 0.5) -> None:
        """Serve a session until `shutdown` or an interrupt, and close the server.

        Args:
            session: Votes of all persons, and what they are shown.
            poll_s: Seconds between two looks for `shutdown`.
        """
        self.session = session
        try:
            self.serve_forever(poll_s)
        finally:
            self.server_close()

    def server_close(self) -> None:
        """Close the server; connections that browsers keep open are closed at their next request."""
        self.stopped = True
        super().server_close()

    @property
    def url(self) -> str:
        """Address of the page, token included."""
        host, port = str(self.server_address[0]), int(self.server_address[1])
        host = socket.gethostname() if host == "0.0.0.0" else host
        return f"http://{host}:{port}/?token={quote(self.token, safe='')}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closed its connection; report other errors as the base class does."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def open_server(host: str, port: int | None, token: str | None) -> VoteServer:
    """Open a server, which answers once it serves a session.

    Args:
        host: Address to listen on.
        port: Port; None takes the first free one from `DEFAULT_PORT`.
        token: Secret of the address; None makes one at random.

    Raises:
        ValueError: If the port is taken or the address is not one of this machine.
    """
    secret = token or secrets.token_urlsafe(16)
    candidates = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS) if port is None else [port]
    for candidate in candidates:
        try:
            return VoteServer((host, candidate), secret)
        except (OSError, OverflowError) as error:
            if port is None and isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                continue
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            raise ValueError(
                f"expected a free port of this machine, got {host}:{candidate} ({reason}); give another --port, or none"
                f" to take the first free one from {DEFAULT_PORT}"
            ) from error
    raise ValueError(f"expected a free port from {DEFAULT_PORT} to {candidates[-1]}, got none; give one with --port")


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: VoteServer  # pyright: ignore[reportIncompatibleVariableOverride] # the only server that uses this class
    protocol_version = "HTTP/1.1"
    server_version = "srpo-ray"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        """Serve the page, the current pair or an image."""
        if not self._is_allowed():
            return
        path = self._url.path
        if path == "/":
            self._send_page()
        elif path == "/next":
            self._answer(lambda: self.server.session.current(self._query.get("rater", "")))
        elif path.startswith("/image/"):
            self._send_image(path.removeprefix("/image/"))
        else:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "There is nothing here."})

    def do_POST(self) -> None:
        """Take a vote or an undo."""
        if not self._is_allowed():
            return
        path, body = self._url.path, self._body()
        if body is None:
            self.close_connection = True
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": "Expected a small JSON object."})
        elif path == "/vote":
            self._answer(lambda: self.server.session.vote(body["rater"], body["ticket"], body["choice"]))
        elif path == "/undo":
            self._answer(lambda: self.server.session.undo(body["rater"]))
        else:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "There is nothing here."})

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: addresses contain the token."""

    @property
    def _url(self) -> SplitResult:
        return urlsplit(self.path)

    @property
    def _query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(self._url.query).items()}

    def _is_allowed(self) -> bool:
        """Check the token in constant time; without it, nothing is read and nothing told."""
        if self.server.stopped:
            self.close_connection = True
            error = "The server was stopped. Your earlier votes are stored."
            self._send_json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": error})
            return False
        if hmac.compare_digest(self._query.get("token", "").encode(), self.server.token.encode()):
            return True
        self.close_connection = True
        text = "403: this address lacks its token. Open the whole address that srpo-ray vote printed."
        self._send(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", text.encode())
        return False

    def _body(self) -> dict[str, str] | None:
        """The request's JSON object of texts; None if it is anything else."""
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if not length.isdecimal() or int(length) > _LONGEST_BODY or kind != "application/json":
            return None
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            return None
        if not isinstance(body, dict) or not all(isinstance(value, str) for value in body.values()):
            return None
        return dict.fromkeys(("rater", "ticket", "choice"), "") | body

    def _answer(self, act: Callable[[], dict[str, object]]) -> None:
        try:
            self._send_json(HTTPStatus.OK, act())
        except StaleTicketError as error:
            self._send_json(HTTPStatus.CONFLICT, {"error": str(error)})
        except BadRequestError as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except OSError as error:
            reason = error.strerror or str(error)
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"The vote was not stored: {reason}."})

    def _send_page(self) -> None:
        nonce = secrets.token_urlsafe(12)
        page = (_PAGE / "vote.html").read_text(encoding="utf-8")
        for name in ("vote.css", "vote.js"):
            page = page.replace(f"{{{{ {name} }}}}", (_PAGE / name).read_text(encoding="utf-8"))
        body = page.replace("{{ nonce }}", nonce).encode()
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", body, _POLICY.format(nonce=nonce))

    def _send_image(self, name: str) -> None:
        try:
            png = self.server.session.image(name)
        except (OSError, ValueError) as error:
            reason = f"The image cannot be read: {type(error).__name__}."
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": reason})
            return
        if png is None:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "There is nothing here."})
        else:
            self._send(HTTPStatus.OK, "image/png", png)

    def _send_json(self, status: HTTPStatus, content: dict[str, object]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
