"""Entry point of a Ray Train worker."""

from srpo_ray.imports import spare_imported, without_collection
from srpo_ray.training.worker_arguments import WorkerArguments


def train_worker(loop_config: dict[str, WorkerArguments]) -> None:
    """Run the training loop.

    Raises:
        OutOfMemoryRunError: If the GPU runs out of memory. The message contains the plan's advice.
    """
    # Driver, Tune trial and Train controller only pass this function on, so they must not import the model stack.
    with without_collection():
        import torch

        from srpo_ray.training.loop import run_loop
    # DeepSpeed collects garbage for its engine, and need not look through all that was imported.
    spare_imported()
    arguments = loop_config["arguments"]
    try:
        run_loop(arguments)
    except torch.OutOfMemoryError as error:
        from srpo_ray.training.out_of_memory import out_of_memory

        raise out_of_memory(arguments.config, error) from error
