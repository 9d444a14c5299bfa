"""Folder of a run: everything that the report, a restart and `srpo-ray sample` need."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from srpo_ray.files import read_json, replacing, split_lines, write_text

if TYPE_CHECKING:
    # Commands that only read rows start without torch.
    from torch import Tensor

STARTED = "started"
"""Event of a run: workers have begun, or begun again."""
CHECKPOINT_SAVED = "checkpoint saved"
"""Event of a run: a checkpoint was saved, and a later start expects to find it."""
CHECKPOINT_FAILED = "checkpoint failed"
"""Event of a run: a checkpoint could not be written."""
CHECKPOINT_DAMAGED = "checkpoint damaged"
"""Event of a run: a start skipped a damaged checkpoint."""


class RunFolder:
    """Files of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.inputs = self.path / "inputs.json"
        self.tracker_record = self.path / "mlflow_run.json"
        self.tracker_spool = self.path / "mlflow_spool.jsonl"
        self.updates = self.path / "updates.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.scores = self.path / "scores.jsonl"
        self.test_scores = self.path / "test_scores.jsonl"
        self.hacking = self.path / "hacking.jsonl"
        self.images = self.path / "images"
        self.base_images = self.images / "base.safetensors"
        self.tuned_images = self.images / "tuned.safetensors"
        self.profile = self.path / "profile"
        self.model_flops = self.path / "model_flops.json"
        self.usage = self.path / "usage.json"
        self.events = self.path / "events.jsonl"
        self.start = self.path / "start.json"
        self.checkpoint_place = self.path / "checkpoints.txt"
        self.activity = self.path / "activity.json"
        self.train_run = self.path / "train_run.txt"
        self.failure = self.path / "failure.json"
        self.finished = self.path / "finished.json"
        self.ray = self.path / "ray"

    @property
    def gallery(self) -> Path:
        """Before/after image grid of the latest evaluation."""
        return self.images / "before_after.png"

    @property
    def checkpoints(self) -> str:
        """Location of the checkpoints: a folder or a URL."""
        place = self.checkpoint_place
        return place.read_text().strip() if place.exists() else str(self.path / "checkpoints")

    @property
    def tracker_state(self) -> dict[str, str]:
        """Id of the MLflow run, as recorded in checkpoints; empty if there is none."""
        record = self.tracker_record
        return {"mlflow_run": read_json(record)["run_id"]} if record.exists() else {}

    @property
    def best_update(self) -> int | None:
        """Update of the best evaluation if its weights stand for the run; None if those of the last update do."""
        return read_json(self.finished).get("best_update") if self.finished.exists() else None

    @property
    def stopped_by_hacking(self) -> bool:
        """True if reward-hacking detection stopped the run."""
        return self.finished.exists() and read_json(self.finished).get("stopped_by") == "reward_hacking"

    def make(self) -> None:
        """Create the folder.

        Raises:
            ValueError: If it cannot be written.
        """
        try:
            self.images.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            # Another process may create the folder at the same time.
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(
                f"run_root: expected a writable folder, got {self.path} ({error.strerror});"
                " choose another run_root or fix its permissions"
            ) from error


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line. If the last line is truncated, start a new line first."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read all valid rows of a JSON-lines file.

    A last line without a line end is still being written, or was truncated, and is skipped. Any other damaged line is
    skipped with a warning that contains its number.
    """
    if not path.exists():
        return []
    rows = []
    lines, _unfinished = split_lines(path.read_bytes())
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            warnings.warn(f"{path}: line {number} is damaged and was skipped", stacklevel=2)
    return rows


def row_0(path: Path) -> dict[str, Any] | None:
    """Read the row of the base model, at update 0; None if there is none."""
    return next((row for row in read_rows(path) if row["update"] == 0), None)


def read_test_means(folder: RunFolder) -> list[dict[str, float]]:
    """Read the means over the test images: of the base model at update 0, then of the weights that stand for the run.

    Returns:
        `update` and every metric, in the order of the evaluations; empty without a test.
    """
    return [
        {"update": row["update"], **{name: fmean(values) for name, values in row["scores"].items()}}
        for row in read_rows(folder.test_scores)
    ]


def drop_rows_after(path: Path, update: int) -> None:
    """Drop the rows after an update: a run that resumes from a checkpoint writes them again."""
    if path.exists():
        write_rows(path, [row for row in read_rows(path) if row["update"] <= update])


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the rows of a JSON-lines file."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def save_images(path: Path, images: "dict[int, Tensor]") -> None:
    """Save images `[3, H, W]` by prompt index."""
    from safetensors.torch import save_file

    with replacing(path) as unfinished:
        save_file({f"{index:06d}": image.contiguous() for index, image in images.items()}, unfinished)


def load_images(path: Path) -> "dict[int, Tensor]":
    """Load the images of `save_images`, in the order of the prompts."""
    from safetensors.torch import load_file

    return {int(index): image for index, image in sorted(load_file(path).items())}
