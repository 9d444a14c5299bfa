"""Server that forks Ray workers from one process with imported packages, so that none of them repeats the imports.

    python -m srpo_ray.launch.fork_server SOCKET PACKAGE...

`forking` starts it, and `fork_client` asks it for a worker. It ends when its standard input does. It must not import
Ray, which reads the environment of a worker when it is imported.
"""

import importlib
import json
import os
import resource
import runpy
import selectors
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from srpo_ray.imports import large_imports

MAX_REQUEST = 1 << 20
"""Maximum bytes of a request; the system's own limit is lower."""
ANSWER_S = 5.0
"""Seconds until a client that does not answer is taken for gone."""


class Request(NamedTuple):
    """Worker that a client asks for, with what it takes over from the client."""

    client: socket.socket
    command: list[str]
    """Path of a Python file and its arguments."""
    environment: dict[str, str]
    folder: str
    max_files: tuple[int, int]
    """Limits of open files, `RLIMIT_NOFILE`, which Ray raises."""
    oom_score: str
    """Content of `/proc/self/oom_score_adj`: Ray lets the system end workers first when memory is short."""
    streams: list[int]
    """File descriptors of standard input, output and error."""


class Child(NamedTuple):
    """Forked process whose exit code its client waits for."""

    pid: int
    client: socket.socket


def main(arguments: Sequence[str]) -> None:
    """Import packages, then fork a process for each request until standard input ends.

    Args:
        arguments: Path of the socket, then names of packages.
    """
    path, *packages = arguments
    # A system that lacks it fails here, before a client waits.
    os.close(os.pidfd_open(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        # Before the imports, so that clients wait for them.
        listener.bind(path)
        listener.listen(64)
        _import(packages)
        request = serve(listener)
    if not request:
        # A driver that was killed has left its temporary folder.
        with suppress(OSError):
            Path(path).unlink()
            Path(path).parent.rmdir()
    else:
        # The frames of the server are gone: the process is a worker now.
        runpy.run_path(request.command[0], run_name="__main__")


def _import(packages: Sequence[str]) -> None:
    with large_imports():
        for name in packages:
            importlib.import_module(name)
    if "ray" in sys.modules:
        raise RuntimeError(f"expected packages that do not import Ray, got {', '.join(packages)}")


def serve(listener: socket.socket) -> Request | None:
    """Fork a process for each request.

    Args:
        listener: Socket of the server.

    Returns:
        In a forked process its request, and None in the server when its standard input has ended.
    """
    children: dict[int, Child] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return None
                if key.fileobj is not listener:
                    selector.unregister(key.fd)
                    _report_end(key.fd, children.pop(key.fd))
                elif request := _accept(listener):
                    pid = os.fork()
                    if not pid:
                        for descriptor, child in children.items():
                            os.close(descriptor)
                            child.client.close()
                        _become(request)
                        return request
                    for stream in request.streams:
                        os.close(stream)
                    ended = os.pidfd_open(pid)
                    selector.register(ended, selectors.EVENT_READ)
                    children[ended] = Child(pid, request.client)
                    _send(request.client, pid)


def _accept(listener: socket.socket) -> Request | None:
    """Read the request of a client; None if it no longer waits."""
    client, _ = listener.accept()
    client.settimeout(ANSWER_S)
    streams: list[int] = []
    # A client that is gone has closed its connection.
    with suppress(OSError):
        message, streams, *_ = socket.recv_fds(client, MAX_REQUEST, 3)
        client.send(b"?")
        if client.recv(1):
            values: dict[str, Any] = json.loads(message)
            return Request(client, streams=streams, **values)
    client.close()
    for stream in streams:
        os.close(stream)
    return None


def _become(request: Request) -> None:
    """Take over the command, streams, limits, environment and folder of a request in a forked process."""
    request.client.close()
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, request.max_files)
    # Where a container forbids it, Ray could not set it either.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(request.oom_score)
    if "numpy.random" in sys.modules:
        # Otherwise all workers draw the same numbers. Python's own generator does this itself.
        sys.modules["numpy.random"].seed()
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = request.command
    sys.path[0] = str(Path(request.command[0]).parent)


def _report_end(descriptor: int, child: Child) -> None:
    _, status = os.waitpid(child.pid, 0)
    os.close(descriptor)
    _send(child.client, os.waitstatus_to_exitcode(status))
    child.client.close()


def _send(client: socket.socket, number: int) -> None:
    # Ray may have killed the client; it notices the end of its worker by itself.
    with suppress(OSError):
        client.send(str(number).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
