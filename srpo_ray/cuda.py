"""Check that torch can use the GPU that Ray has reserved for a process, before weights are loaded."""

import re
import socket
from pathlib import Path

import torch

_DRIVER = Path("/proc/driver/nvidia/version")
"""File of the NVIDIA kernel module with its version."""

_OLDEST_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580"}
"""CUDA major version -> oldest NVIDIA driver on Linux that its minor versions run on (CUDA Compatibility guide)."""


def require_cuda(reserved_by: str) -> None:
    """Check that torch finds a GPU in this process.

    Args:
        reserved_by: Name of the setting that reserved the GPU, for the message.

    Raises:
        ValueError: If torch finds none. The message contains the driver's version and the one that torch needs.
    """
    if torch.cuda.is_available():
        return
    raise ValueError(
        f"{reserved_by}: expected a GPU that torch can use on {socket.gethostname()}, where Ray reserved one, got none;"
        f" {_cure(torch.version.cuda, driver_version())}"
    )


def driver_version() -> str | None:
    """Return the version of the loaded NVIDIA driver, such as `580.65.06`; None without a driver."""
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", _DRIVER.read_text()) if _DRIVER.exists() else None
    return found[1] if found else None


def _cure(cuda: str | None, driver: str | None) -> str:
    """Describe what to change.

    Args:
        cuda: CUDA version that torch was built for; None for a build without CUDA.
        driver: Version of the NVIDIA driver; None without one.
    """
    build = f"torch {torch.__version__}"
    if cuda is None:
        return f"{build} is built without CUDA, so install a build with CUDA on every node, or reserve no GPUs"
    oldest = _OLDEST_DRIVERS.get(int(cuda.partition(".")[0]))
    needs = f"{build} for CUDA {cuda} needs" + (f" NVIDIA driver {oldest} or newer" if oldest else " a newer driver")
    if driver is None:
        return f"no NVIDIA driver is loaded there, and {needs}: install it, or reserve no GPUs"
    if oldest and _numbers(driver) < _numbers(oldest):
        return f"its NVIDIA driver is {driver}, and {needs}: update the driver, or install torch for an older CUDA"
    return f"its NVIDIA driver is {driver}, and {needs}: see whether `nvidia-smi` lists the GPU there"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part]
