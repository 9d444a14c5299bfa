"""Config sections of the trackers, which store a run's metrics, images and config: MLflow, W&B, TensorBoard, Ray."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from srpo_ray.config.base import LONGEST_WAIT_S, Section

SQLITE = "sqlite:///"


def sqlite_uri(path: Path) -> str:
    """Return the URI of a sqlite file.

    Raises:
        ValueError: If the path has characters with a special meaning in such a URI.
    """
    found = re.search(r"\?|\$\{|%[0-9A-Fa-f]{2}|[\r\n\x85\u2028\u2029]", str(path))
    if found:
        raise ValueError(
            f"expected a path that is valid in the URI of a sqlite file, got {str(path)!r}, where {found[0]!r} has a"
            " special meaning; choose another run_root or working folder, or set tracking.uri to an MLflow server"
        )
    return SQLITE + str(path)


class WandbConfig(Section):
    """Section `tracking.wandb`: Weights & Biases (W&B) as a receiver beside MLflow."""

    project: str = Field(default="srpo_ray", min_length=1, max_length=128, pattern=r"^[^/\\#?%:]+$")
    """W&B project of the runs: 1 to 128 characters without `/ \\ # ? % :`."""
    entity: str | None = Field(default=None, min_length=1)
    """W&B user or team that owns the project; unset takes the account's default."""
    mode: Literal["offline", "online"] = "offline"
    """`offline` stores the runs in their folders, for `wandb sync` later. `online` uploads them while they train, and
    needs an API key: `WANDB_API_KEY`, or the entry of `wandb login`."""
    tags: list[str] = []
    """W&B tags of the runs."""
    notes: str | None = None
    """Description of the runs, in Markdown."""


class TrackingConfig(Section):
    """Section `tracking`: MLflow, and other trackers beside it."""

    uri: str | None = None
    """MLflow tracking URI; unset takes `MLFLOW_TRACKING_URI`, or else the sqlite file `mlflow.db` in the run root.
    `${NAME}` in it is replaced by that environment variable, for credentials."""
    experiment: str = Field(default="srpo_ray", min_length=1)
    """Name of the MLflow experiment of the runs."""
    flush_interval_s: float = Field(default=5.0, gt=0, le=LONGEST_WAIT_S)
    """Seconds between two deliveries of buffered metrics to a tracker."""
    wandb: WandbConfig | None = None
    """W&B as a receiver of the same metrics, images and texts; `{}` takes its defaults, unset sends nothing."""
    tensorboard: bool = False
    """`true` writes the same metrics, images and texts as event files to `tensorboard/` in the run's folder."""
    system_metrics: bool = False
    """`true` records CPU, memory, disk, network and GPUs of the machine of worker 0, as MLflow's `system/...`."""
    system_metrics_interval_s: float = Field(default=10.0, ge=0.1, le=LONGEST_WAIT_S)
    """Seconds between two samples of the system metrics, at least 0.1."""
    register_as: str | None = Field(default=None, min_length=1)
    """Name of a model in MLflow's registry. At its end, a run is exported and becomes a version of this model; of an
    experiment, the best run. The export loads the model on the CPU, in float32. Unset registers nothing."""
    ray_metrics: bool = False
    """`true` exports the progress of the run as Ray metrics, for Prometheus and the dashboard `cluster/grafana.json`.
    Ray exports them on the metrics port of the node of worker 0."""

    @property
    def system_interval_s(self) -> float | None:
        """Seconds between two samples of the system metrics; None if none are recorded."""
        return self.system_metrics_interval_s if self.system_metrics else None
