"""Nodes of a cluster that are all this machine: each a home folder and the processes that were started for it.

Ray's launcher and its autoscaler take it as an external provider, so `ray up`, the autoscaler's nodes and `ray down` go
through the same code as on a cloud, with a command runner in place of ssh.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import psutil
from ray.autoscaler._private.command_runner import _with_environment_variables
from ray.autoscaler.command_runner import CommandRunnerInterface
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

from tests.helpers.cluster.proxy import Proxy

MARK = "SRPO_TEST_NODE"
"""In the environment of every process of a node."""


class LocalProvider(NodeProvider):
    """Keeps the nodes in `provider.folder`, for the launcher and for the head's autoscaler alike."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._folder = Path(provider_config["folder"])
        self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _nodes(self) -> Iterator[dict[str, dict[str, str]]]:
        """Tags by node; changes are kept."""
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = self._folder / "nodes.json"
            nodes = json.loads(file.read_text()) if file.exists() else {}
            before = json.dumps(nodes)
            yield nodes
            if json.dumps(nodes) != before:
                file.write_text(json.dumps(nodes))

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self._nodes() as nodes:
            return [name for name, tags in nodes.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        with self._nodes() as nodes:
            return node_id in nodes

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        with self._nodes() as nodes:
            return nodes[node_id]

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        with self._nodes() as nodes:
            if node_id in nodes:
                nodes[node_id] |= tags

    def external_ip(self, node_id: str) -> str:
        return "127.0.0.1"

    def internal_ip(self, node_id: str) -> str:
        return "127.0.0.1"

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        with self._nodes() as nodes, (self._folder / "launched").open("a") as launched:
            for _ in range(count):
                name = f"node-{len(list(self._folder.glob('node-*')))}"
                self.home(name).mkdir()
                nodes[name] = dict(tags)
                launched.write(f"{tags[TAG_RAY_USER_NODE_TYPE]}\n")

    def terminate_node(self, node_id: str) -> None:
        for process in processes_of(str(self.home(node_id))):
            process.kill()
        with self._nodes() as nodes:
            nodes.pop(node_id, None)

    def home(self, node_id: str) -> Path:
        return self._folder / node_id

    def get_command_runner(self, log_prefix: str, node_id: str, *_: Any, **__: Any) -> CommandRunnerInterface:
        return LocalRunner(self.home(node_id))

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config


class LocalRunner(CommandRunnerInterface):
    """Runs a node's commands in its home folder."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        cmd: str | None = None,
        timeout: int = 120,
        exit_on_fail: bool = False,
        port_forward: Any = None,
        with_output: bool = False,
        environment_variables: dict[str, object] | None = None,
        *_: Any,
        **__: Any,
    ) -> str:
        if port_forward:
            # The port that the launcher takes a dashboard to have may be that of another Ray of this machine.
            for local, _ in port_forward:
                Proxy(int((self._home / "dashboard_port").read_text()), local)
            cmd = cmd or "sleep 86400"
        assert cmd
        # It ends every Ray of the machine, those of others too.
        cmd = re.sub(r"\bray stop\b", "true", cmd)
        if environment_variables:
            cmd = _with_environment_variables(cmd, environment_variables)
        environment = {**os.environ, "HOME": str(self._home), MARK: str(self._home)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", cmd], env=environment, cwd=self._home, capture_output=not port_forward, check=False
        )
        with (self._home / "commands").open("ab") as record:
            record.write(f"$ {cmd}\n".encode() + (done.stdout or b"") + (done.stderr or b""))
        if done.returncode:
            raise click.ClickException(f"exit code {done.returncode} of {cmd}: {(done.stderr or b'')[-500:]}")
        return (done.stdout or b"").decode() if with_output else ""

    def run_rsync_up(self, source: str, target: str, options: Any = None) -> None:
        there = self._there(target)
        there.parent.mkdir(parents=True, exist_ok=True)
        if Path(source).resolve() != there.resolve():
            shutil.copy(source, there)

    def run_rsync_down(self, source: str, target: str, options: Any = None) -> None:
        shutil.copy(self._there(source), target)

    def remote_shell_command_str(self) -> str:
        return "bash"

    def _there(self, path: str) -> Path:
        return Path(path.replace("~", str(self._home), 1))


def processes_of(home: str) -> list[psutil.Process]:
    """The processes of a node, or of all nodes below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            node = process.environ().get(MARK, "")
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
        if node == home or node.startswith(f"{home}/"):
            found.append(process)
    return found
