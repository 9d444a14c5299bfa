"""What a finished, or stopped, run has learned, read from its folder."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.training.checkpoint import checkpoint_path, latest_checkpoint, read_checkpoint
from srpo_ray.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedRun:
    """A run and the weights that stand for it."""

    folder: RunFolder
    config: RunConfig
    step: int
    """Updates made; 0 where the alarm stopped a run that was best before its first one."""
    weights: dict[str, Tensor] | None
    """Trained weights, or their average where the run kept one; None at step 0."""


def read_trained(run_dir: Path) -> TrainedRun:
    """Read a run's newest checkpoint, or its best one where the alarm stopped it.

    Args:
        run_dir: Folder of the run.

    Raises:
        ValueError: If there is no run with a whole checkpoint in the folder.
    """
    folder = RunFolder(run_dir)
    best = folder.best_step
    if best is None:
        checkpoint = latest_checkpoint(folder.checkpoints)
    else:
        checkpoint = read_checkpoint(checkpoint_path(folder.checkpoints, best)) if best else None
    if not folder.config.exists() or (checkpoint is None and best != 0):
        raise ValueError(
            f"expected the folder of a trained run, with config.yaml and checkpoints, got {run_dir};"
            " `srpo-ray train` prints the folder when it ends"
        )
    config = load_run([folder.config])
    if checkpoint is None:
        return TrainedRun(folder, config, 0, None)
    return TrainedRun(folder, config, checkpoint.step, checkpoint.average or checkpoint.weights)
