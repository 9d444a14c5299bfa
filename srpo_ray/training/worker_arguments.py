"""Arguments that the driver gives to every trainer worker."""

from dataclasses import dataclass

from srpo_ray.config import RunConfig


@dataclass(frozen=True)
class WorkerArguments:
    """Plain values, identical on every worker."""

    config: RunConfig
    run_dir: str
    pool: str | None
    """Name of the reward pool; None scores in the trainer process."""
    tracking_uri: str
    tracking_run: str
    in_experiment: bool = False
    """True for a run of a sweep or comparison, whose other runs may have other control words."""
