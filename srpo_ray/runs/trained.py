"""Trained weights of a finished or stopped run, read from its folder, and the model that a config starts from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.models.content_hash import COMMIT
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.input_files import LORA_START, MODEL
from srpo_ray.runs.inputs import lora_hashes, model_hashes, require_same_inputs
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.trained_weights import latest_trained, read_trained_weights, trained_identity


@dataclass(frozen=True)
class TrainedRun:
    """Reference to the trained weights of a run; cheap to serialise, as it contains no tensors."""

    folder: RunFolder
    config: RunConfig
    update: int
    """Updates made; 0 if the best evaluation stands for the run and is the baseline."""
    identity: str | None
    """SHA-256 of the trained weights; at update 0 that of the LoRA that the run continues, or None."""
    model: Mapping[str, str]
    """Part -> hash of the tuned pipeline, with the LoRA that the run merges into it."""
    from_config: bool = False
    """True for the model of a config before its first update, without the folder of a run."""

    @property
    def has_tuned(self) -> bool:
        """True if there is a tuned model beside the base model: of a run, or the LoRA that a config continues."""
        lora = self.config.model.lora
        return not self.from_config or bool(lora and lora.continued)

    @property
    def weights(self) -> Mapping[str, Tensor] | None:
        """Read the EMA of the weights, or the weights if the run kept no EMA; None for those before the first update.

        Raises:
            ValueError: If they are damaged, or changed since this object was created.
        """
        if not self.update:
            return None
        storage = Storage(self.folder.checkpoints)
        if trained_identity(storage, self.update) != self.identity:
            raise ValueError(
                f"expected the weights of {self.folder.path} as they were when the command started, got others: the"
                " run was trained again meanwhile; run the command again"
            )
        return read_trained_weights(storage, self.update)


def read_trained(run_dir: Path) -> TrainedRun:
    """Find the weights that stand for a run: its newest checkpoint, or that of its best evaluation.

    A finished run has chosen one of them, see `evaluation.choose`.

    Args:
        run_dir: Folder of the run.

    Raises:
        ValueError: If the folder contains no run with a valid checkpoint, or the files of its model, or of the LoRA
            that it starts from, have changed since the training.
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
    return trained_at(folder, update)


def trained_at(folder: RunFolder, update: int) -> TrainedRun:
    """Describe the weights of a run after an update, of which none are read.

    Args:
        folder: Folder of the run, with its config.
        update: Updates made; 0 is the baseline.

    Raises:
        ValueError: If there is no such checkpoint, or the files of the run's model, or of the LoRA that it starts from,
            have changed since the training.
    """
    config = load_run([folder.config])
    model = model_hashes(config)
    if COMMIT not in model:
        # A new commit on the hub may change the model's description only.
        cure = f"set {MODEL} in {folder.config} to a copy of the model that the run was trained from"
        require_same_inputs(folder.inputs, {MODEL: {config.model.path: model}}, cure)
    identity = trained_identity(Storage(folder.checkpoints), update) if update else None
    return _with_start(TrainedRun(folder, config, update, identity, model))


def untrained(folder: RunFolder, config: RunConfig) -> TrainedRun:
    """Describe a run before its first update, which needs no folder yet.

    Raises:
        ValueError: If the model, or the LoRA that it starts from, cannot be read.
    """
    return _with_start(TrainedRun(folder, config, 0, None, model_hashes(config), from_config=True))


def _with_start(run: TrainedRun) -> TrainedRun:
    """Add the LoRA that a run starts from: to the model that it is merged into, or as the weights at update 0."""
    start, lora = _start_hashes(run.config, run.folder, run.update), run.config.model.lora
    identity = run.identity
    if lora and lora.continued and not run.update:
        identity = hashlib.sha256(json.dumps(start).encode()).hexdigest()
    return replace(run, identity=identity, model={**run.model, **(start if lora and lora.merged else {})})


def _start_hashes(config: RunConfig, folder: RunFolder, update: int) -> dict[str, str]:
    """Hash the LoRA that a run starts from, if its weights need the file: one that is merged, or one at update 0."""
    lora = config.model.lora
    if lora is None or not (lora.merged or (lora.continued and not update)):
        return {}
    assert lora.start_from is not None, "a run that merges or continues a LoRA names one"
    start = lora_hashes(config)
    cure = f"set {LORA_START} in {folder.config} to a copy of the LoRA that the run started from"
    require_same_inputs(folder.inputs, {LORA_START: {lora.start_from: start}}, cure)
    return start
