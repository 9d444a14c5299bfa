"""Where a run's metrics, pictures and configs are kept."""

from pydantic import Field

from srpo_ray.config.base import LONGEST_WAIT_S, Section


class TrackingConfig(Section):
    """Section `tracking`: MLflow."""

    uri: str | None = None
    """MLflow tracking URI; unset is `MLFLOW_TRACKING_URI`, or else a sqlite file, `mlflow.db`, in the run root.
    `${NAME}` in it stands for a variable of the environment, for credentials."""
    experiment: str = Field(default="srpo_ray", min_length=1)
    """MLflow experiment that the runs appear under."""
    flush_interval_s: float = Field(default=5.0, gt=0, le=LONGEST_WAIT_S)
    """Seconds between two writes of collected metrics."""
