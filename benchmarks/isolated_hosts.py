"""Hosts on one machine that share neither network, loopback, processes, memory nor /tmp: namespaces of Linux.

Nothing of them is seen outside, and they end with the process that made them, however that ends.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SHARED = Path("/mnt")
"""The one folder that all hosts see, in memory; it stands for storage on their network."""

_INSIDE = "ISOLATED_HOSTS_INSIDE"
_UNSHARE = ("unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")

# A host's name leads to its loopback, as Debian installs it: what asks for the name to find its own address fails.
_SET_UP = """
mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm && mkdir /tmp/home
hostname {name}
printf '127.0.0.1 localhost\\n127.0.1.1 {name}\\n' > /tmp/hosts && mount --bind /tmp/hosts /etc/hosts
test ! -e /etc/resolv.conf || mount --bind /dev/null /etc/resolv.conf
ip link set lo up
echo ready
exec sleep infinity
"""


@dataclass(frozen=True)
class Host:
    """One host."""

    name: str
    address: str
    process: "subprocess.Popen[str]"
    """Holds its namespaces; they end with it."""

    def command(self, words: Sequence[str]) -> list[str]:
        """Prepend the words that run a command on the host, in the working folder of this process."""
        namespaces = ("--net", "--mount", "--uts", "--ipc", f"--wd={os.getcwd()}")
        pid = self.process.pid
        return ["nsenter", f"--target={pid}", *namespaces, f"--pid=/proc/{pid}/ns/pid_for_children", "--", *words]

    def run(self, *words: str, timeout_s: float = 60) -> str:
        """Run a command on the host to its end; what it printed.

        Raises:
            RuntimeError: If it fails.
        """
        environment = {**os.environ, "HOME": "/tmp/home"}
        done = subprocess.run(
            self.command(words), env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {shlex.join(words)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command on the host."""
        environment = {**os.environ, "HOME": "/tmp/home"}
        return subprocess.Popen(self.command(words), env=environment, stdout=subprocess.DEVNULL, text=True)


def cannot_isolate() -> str | None:
    """Find the reason why this machine cannot have such hosts; None if it can."""
    if sys.platform != "linux":
        return "namespaces are of Linux"
    try:
        command = [*_UNSHARE, *_as_root(), "ip", "link", "add", "probe0", "type", "bridge"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else None


def enter_isolation() -> None:
    """Go on in namespaces in which hosts can be made: this program starts anew in them, and this call returns there.

    Raises:
        RuntimeError: If there can be none here.
    """
    if os.environ.pop(_INSIDE, None):
        _check(["mount", "-t", "tmpfs", "tmpfs", str(SHARED)])
        _check(["ip", "link", "add", "switch", "type", "bridge"])
        _check(["ip", "link", "set", "switch", "up"])
        return
    reason = cannot_isolate()
    if reason:
        raise RuntimeError(f"expected to be allowed to make namespaces, got: {reason}; run as root, with iproute2")
    os.environ[_INSIDE] = "yes"
    _become([*_UNSHARE, *_as_root(), sys.executable, *sys.argv])


def add_host(name: str, number: int) -> Host:
    """Make a host, on a network with those before it; only after `enter_isolation`.

    Args:
        name: Its host name.
        number: Last part of its address, 1 to 254.
    """
    command = [*_UNSHARE, "--uts", "--ipc", "sh", "-ec", _SET_UP.format(name=name)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"host {name} could not be made")
    host = Host(name, f"10.77.0.{number}", process)
    port = f"port{number}"
    _check(["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid)])
    _check(["ip", "link", "set", port, "master", "switch", "up"])
    host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    return host


def sent_bytes(host: Host) -> int:
    """Bytes that the host has sent to others so far."""
    shown = host.run("ip", "-json", "-statistics", "link", "show", "eth0")
    return json.loads(shown)[0]["stats64"]["tx"]["bytes"]


def _as_root() -> tuple[str, ...]:
    return () if os.geteuid() == 0 else ("--user", "--map-root-user")


def _become(command: list[str]) -> NoReturn:
    os.execvp(command[0], command)


def _check(command: list[str]) -> None:
    subprocess.run(command, check=True)
