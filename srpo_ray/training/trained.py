"""What a finished, or stopped, run has learned, read from its folder."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.training.checkpoint import checkpoint_path, latest_trained_file, trained_file
from srpo_ray.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedRun:
    """A run and the weights that stand for it; small to send, as it holds none."""

    folder: RunFolder
    config: RunConfig
    step: int
    """Updates made; 0 where the alarm stopped a run that was best before its first one."""
    file: Path | None
    """The trained weights, or their average where the run kept one; None at step 0."""

    @property
    def weights(self) -> dict[str, Tensor] | None:
        """What is in `file`, read anew."""
        return load_file(self.file) if self.file else None


def read_trained(run_dir: Path) -> TrainedRun:
    """Find a run's newest checkpoint, or its best one where the alarm stopped it.

    Args:
        run_dir: Folder of the run.

    Raises:
        ValueError: If there is no run with a whole checkpoint in the folder.
    """
    folder = RunFolder(run_dir)
    best = folder.best_step
    if best is None:
        found = latest_trained_file(folder.checkpoints)
    else:
        found = trained_file(checkpoint_path(folder.checkpoints, best)) if best else None
    if not folder.config.exists() or (found is None and best != 0):
        raise ValueError(
            f"expected the folder of a trained run, with config.yaml and checkpoints, got {run_dir};"
            " `srpo-ray train` prints the folder when it ends"
        )
    step, file = found or (0, None)
    return TrainedRun(folder, load_run([folder.config]), step, file)
