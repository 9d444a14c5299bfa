"""Entry points of a training loop: as a worker of Ray Train, or in the process that calls."""

import os
from collections.abc import Callable
from functools import cache, partial

from srpo_ray.config import RunConfig
from srpo_ray.imports import import_steps, large_imports
from srpo_ray.training.host import Host
from srpo_ray.training.worker_arguments import WorkerArguments

_ONLY_WORKER = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
"""Environment of the only worker of a run, as launchers of torch set it; DeepSpeed needs it."""

_ACCELERATOR = "DS_ACCELERATOR"


def train_worker(loop_config: dict[str, WorkerArguments]) -> None:
    """Run the training loop in a worker process of Ray Train.

    Raises:
        OutOfMemoryRunError: If the GPU runs out of memory. The message contains the plan's advice.
    """
    # Not above: a run without Ray Train imports this module too, and Ray Train takes half a second to import.
    from srpo_ray.training.train_host import TrainWorkerHost

    _run(loop_config["arguments"], TrainWorkerHost())


def train_here(arguments: WorkerArguments, host: Host) -> None:
    """Run the training loop of a run with one worker in this process. Later calls need no import.

    Args:
        arguments: The run.
        host: Receiver of the rows.

    Raises:
        OutOfMemoryRunError: If the GPU runs out of memory. The message contains the plan's advice.
    """
    _import_loop_on_cpu()
    from torch import distributed as dist

    os.environ.update(_ONLY_WORKER)
    if not dist.is_initialized():
        # The group has no state of a run, so the next run of this process uses it again.
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    _run(arguments, host)


def model_imports(config: RunConfig) -> list[Callable[[], object]]:
    """Return imports of the libraries of the models and of MLflow, but not DeepSpeed, which reads the environment.

    Args:
        config: A run that this process trains.

    Returns:
        Functions to call in order; each takes half a second to a second.
    """
    # The last one needs the others, and would import them all at once.
    models = import_steps("torchvision", "transformers.modeling_utils", "peft", "srpo_ray.models.trainable")
    return [*models, partial(_import_tracking, config)]


def prepare_process(config: RunConfig) -> None:
    """Call `load_ahead` with the threads of Ray's workers.

    Args:
        config: The run.
    """
    import torch

    torch.set_num_threads(max(1, int(config.training.num_cpus)))
    load_ahead(config)


def load_ahead(config: RunConfig) -> None:
    """Import and compute what a training loop in this process needs and shares with no other process.

    Args:
        config: A run with one worker on the CPU.
    """
    _import_loop_on_cpu()
    from srpo_ray.planning.model_flops import model_flops

    _import_tracking(config)
    # Kept in this process for the loop.
    model_flops(config)


def _import_tracking(config: RunConfig) -> None:
    from srpo_ray.tracking.client import import_client
    from srpo_ray.tracking.runs import tracking_uri

    import_client(tracking_uri(config))


def _run(arguments: WorkerArguments, host: Host) -> None:
    _import_loop()
    import torch

    from srpo_ray.training.loop import run_loop

    try:
        run_loop(arguments, host)
    except torch.OutOfMemoryError as error:
        from srpo_ray.training.out_of_memory import out_of_memory

        raise out_of_memory(arguments.config, error) from error


@cache
def _import_loop() -> None:
    # Driver, Tune trial and Train controller only pass a function on, so they must not import the model stack.
    # DeepSpeed collects garbage for its engine.
    with large_imports():
        import srpo_ray.training.loop  # noqa: F401  # pyright: ignore[reportUnusedImport]


@cache
def _import_loop_on_cpu() -> None:
    # Of the devices that this process sees, DeepSpeed chooses GPUs. Ray hides those from a worker on the CPU, not from
    # the process of a command.
    before = os.environ.get(_ACCELERATOR)
    os.environ[_ACCELERATOR] = "cpu"
    try:
        _import_loop()
        from deepspeed.accelerator import get_accelerator

        from srpo_ray.models.loading import hide_progress_bars

        get_accelerator()
        # A worker's output is in a file, that of this process on the terminal of the command.
        hide_progress_bars()
    finally:
        # Workers of later runs inherit the environment.
        os.environ.pop(_ACCELERATOR)
        if before is not None:
            os.environ[_ACCELERATOR] = before
