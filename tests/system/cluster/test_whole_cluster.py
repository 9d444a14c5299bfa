"""A cluster from `ray up` over a sweep sent from another folder to `ray down`, by Ray's own launcher and autoscaler."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import ROOT
from tests.helpers.cluster.head import free_port
from tests.helpers.cluster.local_provider import processes_of
from tests.helpers.small_world_sweep import small_world_sweep

pytestmark = pytest.mark.timeout(2400)

SWEEP = [
    "configs/sweep/flux_lora_cluster.yaml",
    *small_world_sweep(),
    # The local nodes have two slots each. Two trials request two trainer nodes, and may start on the first with a slot
    # each; there is one replica for the reward node.
    "training.num_workers={min: 1, max: 2}",
    "experiment.max_concurrent_trials=2",
    "rewards.pool.num_replicas=1",
]
"""The sweep of the FLUX cluster, with its slots, on the small world."""


@dataclass(frozen=True)
class Laptop:
    """Environment of a user: a copy of the tree, a home folder with the token, a cluster file."""

    tree: Path
    nodes: Path
    file: Path
    environment: dict[str, str]

    def run(self, *command: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.tree,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ray(self, *words: str) -> str:
        done = self.run(sys.executable, "-m", "ray.scripts.scripts", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def node_kinds(self) -> list[str]:
        nodes = json.loads((self.nodes / "nodes.json").read_text())
        return sorted(tags["ray-user-node-type"] for tags in nodes.values())


@pytest.fixture
def laptop() -> Iterator[Laptop]:
    # A socket's path has room for about a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="srpo", dir="/tmp"))
    for name in ("srpo_ray", "configs", "experiments"):
        shutil.copytree(ROOT / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "home" / ".ray").mkdir(parents=True)
    (folder / "home" / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    (folder / "tree" / "cluster.yaml").write_text(yaml.safe_dump(local_cluster(folder)))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_UP_enable_autoscaler_v2": "1",
    }
    yield Laptop(folder / "tree", folder / "nodes", folder / "tree" / "cluster.yaml", environment)
    for process in processes_of(str(folder / "nodes")):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def local_cluster(folder: Path) -> dict[str, Any]:
    """cluster.yaml with its node types as they are, in numbers, names, labels and priorities, on this machine."""
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for kind in cluster["available_node_types"].values():
        slots = {name: 2 for name in kind["resources"] if name.endswith("_slot")}
        kind["node_config"], kind["resources"] = {}, {"CPU": 4, **slots}
    port, dashboard = free_port(), free_port()
    # Each of these is one for a whole machine by default, and this one has all nodes.
    ports = "--min-worker-port=0 --max-worker-port=0 --disable-usage-stats --object-store-memory=100000000"
    free = "from tests.helpers.cluster.head import free_port; print(free_port())"
    agent = f"--dashboard-agent-listen-port=$(python -c '{free}')"
    # A folder for each node: one that starts clears the working folders of jobs in its own.
    start = f"export RAY_AUTH_MODE=token; ray start --temp-dir={folder}/$RAY_CLOUD_INSTANCE_ID"
    return {
        "cluster_name": "here",
        "max_workers": cluster["max_workers"],
        "idle_timeout_minutes": 0.25,
        "provider": {
            "type": "external",
            "module": "tests.helpers.cluster.local_provider.LocalProvider",
            "folder": str(folder / "nodes"),
        },
        "auth": {"ssh_user": "nobody"},
        "available_node_types": cluster["available_node_types"],
        "head_node_type": "head",
        "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            f"{start} --head --port={port} --dashboard-port={dashboard} {agent} {ports}"
            f" --ray-client-server-port={free_port()} --autoscaling-config=~/ray_bootstrap_config.yaml",
            f"export RAY_AUTH_MODE=token; python -m srpo_ray.cluster.node_types ~/ray_bootstrap_config.yaml"
            f" 127.0.0.1:{port}",
            f"echo {dashboard} > ~/dashboard_port",
        ],
        "worker_start_ray_commands": [f"{start} --address=$RAY_HEAD_IP:{port} {agent} {ports}"],
    }


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(1)


def test_cluster_comes_up_runs_a_sweep_sent_to_it_shrinks_and_goes(laptop: Laptop) -> None:
    laptop.ray("up", "--yes", str(laptop.file))
    assert laptop.node_kinds() == ["head"]

    sweep = [*SWEEP, "--cluster", str(laptop.file)]
    done = laptop.run(sys.executable, "experiments/sweep.py", *sweep)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # The on-demand types have the higher priority. One such trainer node exists, so the second trial has a spot node.
    launched = sorted((laptop.nodes / "launched").read_text().split())
    assert launched == ["head", "reward", "trainer", "trainer_spot"]
    here = laptop.tree / "runs" / "flux_lora_cluster"
    assert "report and tables are now here: runs/flux_lora_cluster" in done.stdout
    assert "SRPO_trial_1" in (here / "report.html").read_text()
    (search,) = json.loads((here / "results.json").read_text())["searches"]
    assert len(search["rows"]) == 2
    assert (here / "best.yaml").is_file()

    wait_until(lambda: laptop.node_kinds() == ["head"], 120, "idle nodes stayed")
    too_many = [*sweep[:-2], "training.resources.trainer_slot=3", "experiment.name=too_many", *sweep[-2:]]
    refused = laptop.run(sys.executable, "experiments/sweep.py", *too_many)
    assert refused.returncode == 2
    assert "node types of the cluster: head (CPU 4; at most 1), " in refused.stdout
    assert "trainer (CPU 4, trainer_slot 2; at most 1)" in refused.stdout

    laptop.ray("down", "--yes", str(laptop.file))
    assert laptop.node_kinds() == []
    wait_until(lambda: not processes_of(str(laptop.nodes)), 30, "processes stayed")
    gone = laptop.run(sys.executable, "experiments/sweep.py", *sweep)
    assert gone.returncode == 2
    assert "expected a running cluster of" in gone.stderr
