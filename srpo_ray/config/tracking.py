"""Section `tracking`: MLflow, which stores a run's metrics, images and config."""

import re
from pathlib import Path

from pydantic import Field

from srpo_ray.config.base import LONGEST_WAIT_S, Section

SQLITE = "sqlite:///"


def sqlite_uri(path: Path) -> str:
    """Build the URI of a sqlite file.

    Raises:
        ValueError: If the path has characters with a special meaning in a URI.
    """
    found = re.search(r"\?|\$\{|%[0-9A-Fa-f]{2}|[\r\n\x85\u2028\u2029]", str(path))
    if found:
        raise ValueError(
            f"expected a path that the URI of a sqlite file can contain, got {str(path)!r}, where {found[0]!r} has a"
            " special meaning; choose another run_root or working folder, or set tracking.uri to an MLflow server"
        )
    return SQLITE + str(path)


class TrackingConfig(Section):
    """Section `tracking`: MLflow."""

    uri: str | None = None
    """MLflow tracking URI; unset uses `MLFLOW_TRACKING_URI`, or else the sqlite file `mlflow.db` in `run_root`.
    `${NAME}` is replaced by that environment variable, for credentials."""
    experiment: str = Field(default="srpo_ray", min_length=1)
    """Name of the MLflow experiment of the runs."""
    flush_interval_s: float = Field(default=5.0, gt=0, le=LONGEST_WAIT_S)
    """Seconds between two uploads of buffered metrics, above 0."""
