"""Python executable of Ray's workers that lets the fork server start them: it waits for the end of its worker.

    python -I -S fork_client.py SOCKET SECONDS FILE ARGUMENT...

It imports the standard library only, as it starts once for each worker. Without an answer after SECONDS it runs the
file itself.
"""

import json
import os
import signal
import socket
import sys


def main() -> int:
    """Start a worker and wait for it.

    Returns:
        Exit code of the worker.
    """
    _, path, seconds, *command = sys.argv
    try:
        server, pid = _fork(path, float(seconds), command)
    except (OSError, ValueError):
        os.execv(sys.executable, [sys.executable, *command])
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    code = server.recv(16)
    return int(code) if code else 1


def _fork(path: str, seconds: float, command: list[str]) -> tuple[socket.socket, int]:
    """Ask the server for a worker.

    Returns:
        Connection that receives the exit code of the worker, and the id of its process.

    Raises:
        OSError, ValueError: If the server does not answer.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.settimeout(seconds)
    server.connect(path)
    request = {"command": command, "environment": dict(os.environ), "folder": os.getcwd()}
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    # The server tests that this process still waits.
    if not server.recv(1):
        raise ConnectionResetError
    server.send(b"!")
    server.settimeout(None)
    return server, int(server.recv(16))


if __name__ == "__main__":
    sys.exit(main())
