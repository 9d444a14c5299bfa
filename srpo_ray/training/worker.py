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
    """Run the training loop.

    Raises:
        OutOfMemoryRunError: If the GPU's memory is full, with the plan's advice.
    """
    # Driver, Tune trial and Train controller only pass this function on: none of them should load the model stack.
    import torch

    from srpo_ray.training.loop import run_loop

    arguments = loop_config["arguments"]
    try:
        run_loop(arguments)
    except torch.OutOfMemoryError as error:
        from srpo_ray.planning.out_of_memory import out_of_memory

        raise out_of_memory(arguments.config, error) from error
