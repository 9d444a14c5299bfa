"""A local HTTP server with real sockets that stands in for a VLM server or a reward server."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """Answer of the server, or a failure of it."""

    body: Any = None
    """Value that is sent as JSON; bytes are sent as they are."""
    status: int = 200
    delay_s: float = 0.0
    hang_up: bool = False
    """Close the connection without an answer."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """Requests that a server has received."""

    url: str
    bodies: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def http_server(answer: Callable[[Any], Reply]) -> Iterator[Seen]:
    """Serve `answer(body of the request)` on a free port of this machine."""
    lock, now = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                now[0] += 1
                seen.most_at_once = max(seen.most_at_once, now[0])
                seen.bodies.append(body)
                seen.paths.append(self.path)
                seen.headers.append(dict(self.headers))
                reply = answer(body)
            time.sleep(reply.delay_s)
            with lock:
                now[0] -= 1
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            if reply.hang_up:
                self.close_connection = True
                return
            sent = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(sent))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Print nothing when a client has given up."""

    server = Server(("127.0.0.1", 0), Handler)
    seen = Seen(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat_answer(*tokens: str | Mapping[str, float], text: str | None = None) -> dict[str, Any]:
    """Answer of the chat API: each token is a text with probability 1, or the probabilities of several."""
    choices = [{token: 1.0} if isinstance(token, str) else token for token in tokens]
    content = [_position(choice) for choice in choices]
    written = "".join(position["token"] for position in content) if text is None else text
    return {"choices": [{"message": {"content": written}, "logprobs": {"content": content}}]}


def _position(choice: Mapping[str, float]) -> dict[str, Any]:
    ranked: Sequence[tuple[str, float]] = sorted(choice.items(), key=lambda pair: -pair[1])
    top = [{"token": token, "logprob": math.log(chance)} for token, chance in ranked]
    return {**top[0], "top_logprobs": top}
