"""System metrics of a machine: CPU, memory, disk, network and GPUs, under the names of MLflow's system metrics tab."""

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psutil

PREFIX = "system/"
"""Prefix of the names, by which MLflow recognizes system metrics."""


class SystemMetrics:
    """Readings of this machine. Network traffic counts from the creation of this object.

    GPU readings need NVIDIA's driver and the package `nvidia-ml-py`; without one of them there are none.
    """

    def __init__(self) -> None:
        self._network = psutil.net_io_counters()
        self._nvml = _nvml()
        # The first call has no interval to measure.
        psutil.cpu_percent()

    def read(self) -> dict[str, float]:
        """Read all metrics: percentages in [0, 100], megabytes of 10^6 bytes, watts."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / 1e6,
        }
        for index in range(self._nvml.nvmlDeviceGetCount() if self._nvml else 0):
            values |= {f"gpu_{index}_{name}": value for name, value in read_gpu(self._nvml, index).items()}
        return {f"{PREFIX}{name}": float(value) for name, value in values.items()}


def read_gpu(nvml: Any, index: int) -> dict[str, float]:
    """Read the metrics of one GPU that its driver supports.

    Args:
        nvml: The module `pynvml`, initialised.
        index: Number of the GPU.
    """
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def memory() -> dict[str, float]:
        info = nvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            "memory_usage_percentage": info.used / info.total * 100,
            "memory_usage_megabytes": info.used / 1e6,
        }

    def utilization() -> dict[str, float]:
        return {"utilization_percentage": nvml.nvmlDeviceGetUtilizationRates(handle).gpu}

    def power() -> dict[str, float]:
        used, limit = nvml.nvmlDeviceGetPowerUsage(handle), nvml.nvmlDeviceGetEnforcedPowerLimit(handle)
        return {"power_usage_watts": used / 1000, "power_usage_percentage": used / limit * 100}

    values: dict[str, float] = {}
    for reading in (memory, utilization, power):
        try:
            values |= reading()
        except nvml.NVMLError:
            # Parts of a GPU (MIG) and some models lack a reading; the others are still of use.
            continue
    return values


def _nvml() -> Any:
    """Return the initialised module `pynvml`; None without the module, the driver or a GPU."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


class SystemSampler:
    """Daemon thread that reads the system metrics at a fixed interval, the first time after one interval.

    Args:
        log: Function that takes each sample.
        interval_s: Seconds between two samples.
    """

    def __init__(self, log: Callable[[Mapping[str, float]], None], interval_s: float) -> None:
        self._log = log
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait until no further sample can be logged."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        metrics = SystemMetrics()
        while not self._stopped.wait(self._interval_s):
            self._log(metrics.read())
