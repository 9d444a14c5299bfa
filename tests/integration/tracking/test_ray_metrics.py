"""Gauges of a run in the text that Ray exports for Prometheus, against the dashboard that shows them."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT

RUN = "my run"
METRICS = {
    "time/update": 1.5,
    "speed/tflops": 2.5,
    "speed/images_per_second": 0.75,
    "speed/reward_wait_share": 0.125,
    "reward/total": 0.375,
    "reward/total/denoise": 0.5,
    "reward/total/relative": 7.0,
    "evaluator/held_out/relative": 8.0,
    "evaluator/held_out": 0.625,
    "loss/denoise": 9.0,
}
CODE = f"""
import sys, ray
from srpo_ray.launch.local_ray import on_loopback
from srpo_ray.training.ray_metrics import RayMetrics
assert RayMetrics.of("no Ray yet") is None
fast = {{"metrics_report_interval_ms": 500}}
with on_loopback():
    ray.init(
        "local", num_cpus=1, include_dashboard=False, _metrics_export_port=int(sys.argv[1]), _system_config=fast
    )
gauges = RayMetrics.of({RUN!r})
gauges.set(3, {METRICS!r})
gauges.set(0, {{}})
print("ready", flush=True)
sys.stdin.read()
"""
GPU_METRICS = {"ray_node_gpus_utilization", "ray_node_gram_used"}
"""Metrics that Ray exports on nodes with GPUs only."""


def exported(port: int) -> dict[str, list[tuple[str, float]]]:
    """Samples of Prometheus' text format by name: labels and value."""
    found: dict[str, list[tuple[str, float]]] = {}
    for line in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text.splitlines():
        sample = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line)
        if sample:
            found.setdefault(sample[1], []).append((sample[2], float(sample[3])))
    return found


@pytest.fixture(scope="module")
def samples() -> dict[str, list[tuple[str, float]]]:
    """All that a Ray without dashboard exports, once the gauges of a run are among it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", CODE, str(port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, **pipes) as child:
        assert child.stdout
        while "ready" not in (line := child.stdout.readline()):
            assert line
        deadline = time.monotonic() + 120
        found: dict[str, list[tuple[str, float]]] = {}
        while not {"ray_srpo_evaluator", "ray_node_cpu_utilization", "ray_node_mem_used"} <= found.keys():
            assert time.monotonic() < deadline, sorted(found)
            time.sleep(0.5)
            try:
                found = exported(port)
            except requests.RequestException:
                continue
        child.communicate("", timeout=120)
    return found


def test_gauges_have_the_values_of_the_run_and_its_name(samples: dict[str, list[tuple[str, float]]]) -> None:
    values = {
        (name, label): value
        for name, each in samples.items()
        if name.startswith("ray_srpo")
        for labels, value in each
        for label in [*re.findall(r'\bname="([^"]*)"', labels), ""][:1]
        if f'run="{RUN}"' in labels
    }
    assert values == {
        ("ray_srpo_update", ""): 3.0,
        ("ray_srpo_seconds_per_update", ""): 1.5,
        ("ray_srpo_tflops", ""): 2.5,
        ("ray_srpo_images_per_second", ""): 0.75,
        ("ray_srpo_reward_wait_share", ""): 0.125,
        ("ray_srpo_reward_total", "denoise"): 0.5,
        ("ray_srpo_reward_total", "evaluation"): 0.375,
        ("ray_srpo_evaluator", "held_out"): 0.625,
    }


def test_dashboard_reads_names_that_ray_exports(samples: dict[str, list[tuple[str, float]]]) -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    dashboard = json.loads(Path(ROOT / "cluster" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    read = {name for expression in expressions for name in re.findall(r"\bray_\w+", expression)}
    assert read - GPU_METRICS <= samples.keys()
    assert {name.removeprefix("ray_") for name in read & GPU_METRICS} <= METRICS_GAUGES.keys()
    # All gauges of a run are shown.
    assert {name for name in samples if name.startswith("ray_srpo")} <= read
    assert dashboard["templating"]["list"][1]["query"]["query"] == "label_values(ray_srpo_update, run)"
