"""The folder of a run that was trained, made without training."""

from pathlib import Path

import torch
from torch import Tensor

from srpo_ray.config import RunConfig, load_run, to_yaml
from srpo_ray.models.trainable import load_tuned
from srpo_ray.runs.checkpoint import save_checkpoint
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.runs.storage import Storage
from tests.conftest import SMALL_WORLD


def trained_run(path: Path, *overrides: str, seed: int = 0) -> tuple[RunConfig, dict[str, Tensor]]:
    """A run's folder with a checkpoint that is far from the base model, and two evaluations."""
    config = load_run([SMALL_WORLD], overrides)
    folder = RunFolder(path)
    folder.make()
    folder.config.write_text(to_yaml(config))
    network = load_tuned(config, torch.float32, "cpu", None)
    source = torch.Generator().manual_seed(seed)
    weights = {
        name: (parameter + 0.05 * torch.randn(parameter.shape, generator=source)).detach().contiguous()
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    save_checkpoint(Storage(folder.checkpoints), 7, weights, {"x/exp_avg": torch.zeros(1)}, {}, {}, kept=1)
    append_row(folder.evaluations, {"update": 0, "evaluator/held_out": 0.5, "time/evaluate": 1.0})
    append_row(folder.evaluations, {"update": 7, "evaluator/held_out": 0.75, "time/evaluate": 1.0})
    return config, weights
