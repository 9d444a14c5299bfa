"""What a finished, or stopped, run has learned, read from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.training.checkpoint import latest_trained, read_trained_weights
from srpo_ray.training.run_folder import RunFolder
from srpo_ray.training.storage import Storage


@dataclass(frozen=True)
class TrainedRun:
    """A run and the weights that stand for it; small to send, as it holds none."""

    folder: RunFolder
    config: RunConfig
    step: int
    """Updates made; 0 where the alarm stopped a run that was best before its first one."""

    @property
    def weights(self) -> Mapping[str, Tensor] | None:
        """The trained weights, or their average where the run kept one, read anew; None at step 0."""
        return read_trained_weights(Storage(self.folder.checkpoints), self.step) if self.step else None


def read_trained(run_dir: Path) -> TrainedRun:
    """Find a run's newest checkpoint, or its best one where the alarm stopped it.

    Args:
        run_dir: Folder of the run.

    Raises:
        ValueError: If there is no run with a whole checkpoint in the folder.
    """
    folder = RunFolder(run_dir)
    step = folder.best_step
    if step is None:
        found = latest_trained(Storage(folder.checkpoints))
        step = found[0] if found else None
    elif step:
        read_trained_weights(Storage(folder.checkpoints), step)
    if not folder.config.exists() or step is None:
        raise ValueError(
            f"expected the folder of a trained run, with config.yaml and checkpoints, got {run_dir};"
            " `srpo-ray train` prints the folder when it ends"
        )
    return TrainedRun(folder, load_run([folder.config]), step)
