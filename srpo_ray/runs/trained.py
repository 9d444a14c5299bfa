"""What a finished, or stopped, run has learned, read from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.models.content_hash import COMMIT
from srpo_ray.runs.checkpoint import latest_trained, read_trained_weights, trained_identity
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.input_files import MODEL
from srpo_ray.runs.inputs import model_hashes, require_same_inputs
from srpo_ray.runs.storage import Storage


@dataclass(frozen=True)
class TrainedRun:
    """A run and the weights that stand for it; small to send, as it holds none."""

    folder: RunFolder
    config: RunConfig
    update: int
    """Updates made; 0 where reward-hacking detection stopped a run that was best before its first one."""
    identity: str | None
    """SHA-256 of the trained weights; None at update 0."""
    model: Mapping[str, str]
    """Part -> hash of the pipeline that was tuned."""

    @property
    def weights(self) -> Mapping[str, Tensor] | None:
        """The trained weights, or their average where the run kept one, read anew; None at update 0.

        Raises:
            ValueError: If they are not whole, or are not those that this object was made for.
        """
        if not self.update:
            return None
        storage = Storage(self.folder.checkpoints)
        if trained_identity(storage, self.update) != self.identity:
            raise ValueError(
                f"expected the weights of {self.folder.path} as they were when the command started, got others: the"
                " run was trained again meanwhile; repeat the command"
            )
        return read_trained_weights(storage, self.update)


def read_trained(run_dir: Path) -> TrainedRun:
    """Find a run's newest checkpoint, or its best one where reward-hacking detection stopped it.

    Args:
        run_dir: Folder of the run.

    Raises:
        ValueError: If there is no run with a whole checkpoint in the folder, or the files of its model have changed
            since it was trained.
    """
    folder = RunFolder(run_dir)
    storage = Storage(folder.checkpoints)
    update = folder.best_update
    if update is None:
        found = latest_trained(storage)
        update = found[0] if found else None
    elif update:
        read_trained_weights(storage, update)
    if not folder.config.exists() or update is None:
        raise ValueError(
            f"expected the folder of a trained run, with config.yaml and checkpoints, got {run_dir};"
            " `srpo-ray train` prints the folder when it ends"
        )
    config = load_run([folder.config])
    model = model_hashes(config)
    if COMMIT not in model:
        # A commit of the hub may change a description alone.
        cure = f"set {MODEL} in {folder.config} to a copy of the model that the run was trained from"
        require_same_inputs(folder.inputs, {MODEL: {config.model.path: model}}, cure)
    return TrainedRun(folder, config, update, trained_identity(storage, update) if update else None, model)
