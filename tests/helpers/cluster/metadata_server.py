"""A metadata service as the three clouds have it, for tests to set the answers of."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, str]


class MetadataServer:
    """Answers requests as a rule says; keeps what was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[str, str, dict[str, str]], Answer] = self._nothing
        """Method, path and lower-case headers -> status and body. Status 0 breaks the connection off."""
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                owner.asked.append(f"{self.command} {self.path}")
                status, body = owner.answer(self.command, self.path, headers)
                if status == 0:
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            do_PUT = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Not to the test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _nothing(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        return 404, ""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class AwsRules:
    """Answers of EC2: none without a token that it has issued."""

    def __init__(self) -> None:
        self.action = ""
        """Body of spot/instance-action; empty where there is none."""
        self.tokens: set[str] = set()

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if path == "/latest/api/token":
            if method != "PUT":
                return 405, ""
            if not 1 <= int(headers.get("x-aws-ec2-metadata-token-ttl-seconds", "0")) <= 21600:
                return 400, ""
            token = f"token-{time.monotonic_ns()}"
            self.tokens.add(token)
            return 200, token
        if headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return 401, ""
        if path == "/latest/meta-data/spot/instance-action" and self.action:
            return 200, self.action
        return 404, ""


class GcpRules:
    """Answers of Compute Engine: none without its header."""

    def __init__(self) -> None:
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("metadata-flavor") != "Google":
            return 403, ""
        folder, _, name = path.rpartition("/")
        return (200, self.values[name]) if folder == "/computeMetadata/v1/instance" else (404, "")


class AzureRules:
    """Answers of Azure: none without its header."""

    def __init__(self) -> None:
        self.events = '{"DocumentIncarnation": 1, "Events": []}'

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("metadata") != "true":
            return 400, ""
        if path.startswith("/metadata/instance/compute/name?api-version=") and path.endswith("&format=text"):
            return 200, "trainers_7"
        return (200, self.events) if path == "/metadata/scheduledevents?api-version=2020-07-01" else (404, "")
