"""Process of a command that trains a run on the CPU by itself."""

import os

import pytest
import torch
from deepspeed.accelerator import get_accelerator, real_accelerator

from srpo_ray.training import worker


def test_deepspeed_leaves_the_gpus_of_the_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(real_accelerator, "ds_accelerator", None)
    monkeypatch.setattr(worker, "_import_loop", lambda: None)
    worker._import_loop_on_cpu.__wrapped__()  # pyright: ignore[reportPrivateUsage]
    accelerator = get_accelerator()
    assert accelerator is not None
    assert accelerator.device_name() == "cpu"
    assert "DS_ACCELERATOR" not in os.environ
