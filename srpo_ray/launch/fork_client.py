"""Python executable of Ray's workers that lets the fork server start them: it waits for the end of its worker.

    python -I -S fork_client.py SOCKET SECONDS FILE ARGUMENT...

It imports the standard library only, as it starts once for each worker. Without an answer after SECONDS it runs the
file itself.
"""

import json
import os
import resource
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
        server = _ask(path, float(seconds), command)
    except OSError:
        os.execv(sys.executable, [sys.executable, *command])
    pid = _receive(server)
    if pid is None:
        # The worker may run or not, and must not run twice.
        return 1
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    code = _receive(server)
    return 1 if code is None else code


def _ask(path: str, seconds: float, command: list[str]) -> socket.socket:
    """Ask the server for a worker.

    Returns:
        Connection that receives the id of the worker's process, and then its exit code.

    Raises:
        OSError: If the server does not answer.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.settimeout(seconds)
    server.connect(path)
    with open("/proc/self/oom_score_adj") as file:
        oom_score = file.read()
    request = {
        "command": command,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "max_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "oom_score": oom_score,
    }
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    # The server tests that this process still waits.
    if not server.recv(1):
        raise ConnectionResetError
    server.send(b"!")
    server.settimeout(None)
    return server


def _receive(server: socket.socket) -> int | None:
    """The next number from the server; None if the server has ended."""
    try:
        message = server.recv(16)
    except ConnectionResetError:
        return None
    return int(message) if message else None


if __name__ == "__main__":
    sys.exit(main())
