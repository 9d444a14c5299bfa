"""What a Ray Train worker is told, and its entry."""

from dataclasses import dataclass

from srpo_ray.config import RunConfig


@dataclass(frozen=True)
class WorkerArguments:
    """What the driver tells every worker."""

    config: RunConfig
    run_dir: str
    pool: str | None
    """Name of the reward pool; None scores in process."""
    tracking_uri: str
    tracking_run: str


def train_worker(loop_config: dict[str, WorkerArguments]) -> None:
    """Run the training loop."""
    # Driver, Tune trial and Train controller only pass this function on: none of them should load the model stack.
    from srpo_ray.training.loop import run_loop

    run_loop(loop_config["arguments"])
