"""One training run over three hosts with addresses of their own, against the same run on one.

    python benchmarks/two_hosts.py [--json FILE] [a.b=value ...]

Two trainer workers (ZeRO-3, gloo) on two hosts, the reward replica on a third, MLflow's server and the driver on the
first; token authentication; one folder that all hosts see. The hosts are namespaces on this machine
(`isolated_hosts.py`), so this needs root, or a system that lets users make them. Exit status 1 says that the weights
or the metrics differ.
"""

import argparse
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from isolated_hosts import SHARED, Host, add_host, enter_isolation, sent_bytes

PYTHON = sys.executable
RAY = (PYTHON, "-m", "ray.scripts.scripts")
RAY_PORT, MLFLOW_PORT = 6379, 5000
TOLERANCE = 1e-6
SMALL = (
    "training.num_workers=2",
    "training.num_updates=4",
    "training.batch_size=4",
    "training.checkpoint_interval=2",
    "rollout.num_steps=4",
    "evaluation.num_prompts=4",
    "evaluation.samples_per_prompt=1",
    "evaluation.num_steps=4",
    "evaluation.interval=2",
    "evaluation.gallery_size=2",
)
"""Overrides that make the small world's run short."""


def start_cluster(trainers: list[Host], reward: Host) -> str:
    """Start Ray on all hosts, the first being the head; its address."""
    head, *others = trainers
    address = f"{head.address}:{RAY_PORT}"
    shared = ("--num-cpus=4", "--object-store-memory=200000000", "--disable-usage-stats")
    trainer, replica = '--resources={"trainer_slot": 1}', '--resources={"reward_slot": 1}'
    start = (*RAY, "start", f"--node-ip-address={head.address}", "--head", f"--port={RAY_PORT}")
    head.run(*start, "--include-dashboard=false", trainer, *shared, timeout_s=120)
    for host, slots in [*((host, trainer) for host in others), (reward, replica)]:
        start = (*RAY, "start", f"--node-ip-address={host.address}", f"--address={address}")
        host.run(*start, slots, *shared, timeout_s=120)
    return address


def start_mlflow(host: Host, folder: Path) -> str:
    """Start MLflow's server on the host; its address once it answers."""
    uri = f"http://{host.address}:{MLFLOW_PORT}"
    server = (PYTHON, "-m", "mlflow", "server", "--host", host.address, "--port", str(MLFLOW_PORT), "--workers", "1")
    allowed = f"{host.address}:{MLFLOW_PORT}"
    store = (
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "kept"),
    )
    host.start(*server, "--allowed-hosts", allowed, *store)
    ask = f"import requests, sys; sys.exit(not requests.get('{uri}/health', timeout=2).ok)"
    deadline = time.monotonic() + 180
    while True:
        try:
            host.run(PYTHON, "-c", ask)
            return uri
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def train(host: Host, config: str, run_root: Path, overrides: list[str], *words: str) -> Path:
    """Train on a host; the run's folder."""
    changes = [*SMALL, *overrides, f"run_root={run_root}", "name=run"]
    host.run(PYTHON, "-m", "srpo_ray.cli", "train", config, *changes, *words, timeout_s=900)
    return run_root / "run"


def differences(one: Path, several: Path) -> dict[str, float]:
    """Largest differences of the last weights, of the optimizer's state, and of the metrics that are not times."""
    from srpo_ray.runs.checkpoint import read_checkpoint
    from srpo_ray.runs.checkpoint_files import complete_checkpoints
    from srpo_ray.runs.folder import RunFolder
    from srpo_ray.runs.storage import Storage

    found = {}
    places = [Storage(RunFolder(run).checkpoints) for run in (one, several)]
    last = [read_checkpoint(place, complete_checkpoints(place)[-1]) for place in places]
    for name in ("weights", "optimizer"):
        first, second = (getattr(checkpoint, name) for checkpoint in last)
        assert first.keys() == second.keys()
        found[name] = max(float((first[key] - second[key]).abs().max()) for key in first)
    for file in ("updates.jsonl", "evaluations.jsonl"):
        rows = [[json.loads(line) for line in (run / file).read_text().splitlines()] for run in (one, several)]
        assert [row["update"] for row in rows[0]] == [row["update"] for row in rows[1]]
        found[file] = max(
            abs(value - again[key])
            for row, again in zip(*rows, strict=True)
            for key, value in row.items()
            if isinstance(value, float) and not key.startswith(("time/", "memory/", "speed/"))
        )
    return found


def measure(config: str, overrides: list[str], shared: Path) -> dict[str, Any]:
    """Both runs, and how they differ."""
    trainers, reward = [add_host("trainer-a", 1), add_host("trainer-b", 2)], add_host("reward-c", 3)
    alone = add_host("alone", 4)
    begin = time.monotonic()
    one = train(alone, config, shared / "one", overrides)
    seconds = {"one host": time.monotonic() - begin}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    begin = time.monotonic()
    address, uri = start_cluster(trainers, reward), start_mlflow(trainers[0], shared)
    seconds["starting Ray and MLflow"] = time.monotonic() - begin
    begin = time.monotonic()
    placed = ["training.resources={trainer_slot: 1}", "rewards.pool.resources={reward_slot: 1}", f"tracking.uri={uri}"]
    several = train(trainers[0], config, shared / "several", [*overrides, *placed], "--address", address)
    seconds["three hosts"] = time.monotonic() - begin
    return {
        "seconds": seconds,
        "sent_mb": {host.name: sent_bytes(host) / 1e6 for host in (*trainers, reward)},
        "differences": differences(one, several),
        "spool_left": (several / "mlflow_spool.jsonl").exists(),
    }


def main() -> int:
    """Parse, enter the namespaces, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/small_world.yaml")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    parsed = parser.parse_args()
    enter_isolation()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    result = measure(parsed.config, parsed.overrides, SHARED)
    for what, seconds in result["seconds"].items():
        print(f"{what}: {seconds:.0f} s")
    for host, sent in result["sent_mb"].items():
        print(f"{host} sent {sent:.1f} MB")
    for what, difference in result["differences"].items():
        print(f"largest difference of {what}: {difference:g}")
    if parsed.json:
        parsed.json.write_text(json.dumps(result, indent=2))
    return int(result["spool_left"] or max(result["differences"].values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
