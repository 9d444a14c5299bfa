"""Where a run's metrics, images and configs are kept."""

import re
from pathlib import Path

from pydantic import Field

from srpo_ray.config.base import LONGEST_WAIT_S, Section

SQLITE = "sqlite:///"


def sqlite_uri(path: Path) -> str:
    """The address of a sqlite file.

    Raises:
        ValueError: If the path has characters that mean something else in such an address.
    """
    found = re.search(r"\?|\$\{|%[0-9A-Fa-f]{2}|[\r\n\x85\u2028\u2029]", str(path))
    if found:
        raise ValueError(
            f"expected a path that the address of a sqlite file can have, got {str(path)!r}, where {found[0]!r} means"
            " something else; choose another run_root or working folder, or set tracking.uri to an MLflow server"
        )
    return SQLITE + str(path)


class TrackingConfig(Section):
    """Section `tracking`: MLflow."""

    uri: str | None = None
    """MLflow tracking URI; unset is `MLFLOW_TRACKING_URI`, or else a sqlite file, `mlflow.db`, in the run root.
    `${NAME}` in it stands for a variable of the environment, for credentials."""
    experiment: str = Field(default="srpo_ray", min_length=1)
    """MLflow experiment that the runs appear under."""
    flush_interval_s: float = Field(default=5.0, gt=0, le=LONGEST_WAIT_S)
    """Seconds between two writes of collected metrics."""
