"""System metrics under MLflow's names, against MLflow's own readings."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from srpo_ray.tracking.runs import start_run
from srpo_ray.tracking.system_metrics import SystemMetrics, SystemSampler
from srpo_ray.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient


class NvmlError(Exception):
    pass


def without_power(_: object) -> int:
    raise NvmlError


def two_gpus(**changes: object) -> SimpleNamespace:
    """Stand-in for the module `pynvml`: two GPUs with 40 of 80 GB used, 75 % busy, at 350 of 700 W."""
    readings = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=40e9, total=80e9),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=75),
        "nvmlDeviceGetPowerUsage": lambda _: 350_000,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
    }
    return SimpleNamespace(**readings | changes)


def mlflow_readings() -> dict[str, float]:
    from mlflow.system_metrics.metrics import gpu_monitor
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    gpu_monitor.pynvml = sys.modules["pynvml"]
    found: dict[str, float] = {}
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor(), gpu_monitor.GPUMonitor()):
        monitor.collect_metrics()
        found |= monitor.aggregate_metrics()
    return {f"system/{name}": value for name, value in found.items()}


def test_names_and_units_are_those_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", two_gpus())
    expected, found = mlflow_readings(), SystemMetrics().read()
    assert found.keys() == expected.keys()
    assert {name: found[name] for name in found if "gpu" in name} == {
        name: expected[name] for name in expected if "gpu" in name
    }
    for name in ("system_memory_usage_percentage", "disk_usage_megabytes", "disk_usage_percentage"):
        assert found[f"system/{name}"] == pytest.approx(expected[f"system/{name}"], rel=0.2)
    memory = found["system/system_memory_usage_megabytes"] / found["system/system_memory_usage_percentage"] * 100
    assert memory == pytest.approx(psutil.virtual_memory().total / 1e6)


def test_reading_that_a_gpu_lacks_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", two_gpus(nvmlDeviceGetPowerUsage=without_power))
    found = SystemMetrics().read()
    assert found["system/gpu_1_utilization_percentage"] == 75
    assert not [name for name in found if "power" in name]


@pytest.mark.parametrize("module", [None, two_gpus(nvmlInit=lambda: without_power(0))])
def test_machine_without_nvml_has_no_gpu_metrics(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    found = SystemMetrics().read()
    assert not [name for name in found if "gpu" in name]
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100


def test_sampler_stops_before_its_caller_continues() -> None:
    samples: list[Mapping[str, float]] = []
    sampler = SystemSampler(samples.append, 0.01)
    deadline = time.monotonic() + 60
    while len(samples) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sampler.stop()
    count = len(samples)
    time.sleep(0.05)
    assert len(samples) == count


def test_samples_reach_mlflow_with_rising_steps_over_a_restart(
    uri: str, client: "MlflowClient", tmp_path: Path
) -> None:
    run_id = start_run(uri, "small", "trial", tags={}, params={}, record=tmp_path / "run.json")
    name = "system/cpu_utilization_percentage"

    def steps() -> list[int]:
        return [metric.step for metric in client.get_metric_history(run_id, name)]

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    first = Tracker(uri, run_id, tmp_path / "s.jsonl", 0.02, system_interval_s=0.05)
    wait(lambda: len(steps()) > 1)
    first.abandon(60)
    before = len(steps())
    second = Tracker(uri, run_id, tmp_path / "s.jsonl", 0.02, system_interval_s=0.05)
    wait(lambda: len(steps()) > before + 1)
    assert second.close("FINISHED", 60)
    assert steps() == list(range(len(steps())))
