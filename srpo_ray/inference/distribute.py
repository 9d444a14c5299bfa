"""Distributed processing with Ray Data: a job's chunks on all GPUs, one actor with the models per GPU."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from srpo_ray.cuda import require_cuda
from srpo_ray.errors import RunFailedError
from srpo_ray.inference.work import Job, Row, Work, Worker
from srpo_ray.launch.capacity import cluster_capacity
from srpo_ray.launch.session import ray_session

_LOST = 2
"""Maximum number of restarts of dead workers before the job stops."""


class ChunkActor:
    """Actor with a worker of a job."""

    def __init__(self, job: Job, work: Work) -> None:
        self._job, self._work = job, work
        self._worker: Worker | None = None

    def __call__(self, row: Mapping[str, Any]) -> list[Row]:
        """Process one chunk."""
        if self._worker is None:
            _require_reserved_gpu()
            # Load here and not in the constructor, where Ray Data reports an error as text only.
            self._worker = self._work.open(self._job)
        return self._worker.draw([int(index) for index in row["chunk"]])


def run_on_ray(
    job: Job, work: Work, chunks: Sequence[list[int]], num_workers: int | None, address: str | None
) -> Iterator[Row]:
    """Process chunks on Ray, and yield their rows in order of completion.

    Args:
        job: The job.
        work: Its processing.
        chunks: Chunks of the job to process.
        num_workers: Number of actors; None uses one per GPU of the cluster, or one without GPUs.
        address: Address of a Ray cluster; None uses `RAY_ADDRESS` or starts a local Ray.

    Raises:
        ValueError: If there is no cluster, it cannot run so many actors, or an input cannot be used.
        RunFailedError: If a reward fails, or workers die repeatedly.
    """
    with ray_session(address), _plain_errors():
        gpus, _ = cluster_capacity({"GPU": 1})
        need = {"GPU": 1} if gpus else {"CPU": 1}
        capacity, available = cluster_capacity(need)
        if (num_workers or 1) > capacity:
            raise ValueError(
                f"--num-workers: expected at most {capacity:g} workers of {need} each, as the cluster has {available},"
                f" got {num_workers}; lower it or add nodes"
            )
        size = min(num_workers or int(gpus) or 1, len(chunks))
        # Prepare once, on one of the workers' nodes: the head of a cluster may have no GPU for the text encoders.
        reserved: dict[str, Any] = {f"num_{name.lower()}s": amount for name, amount in need.items()}
        ray.get(ray.remote(**reserved)(_prepare).remote(job, work))
        _be_quiet()
        dataset = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks))
        with warnings.catch_warnings():
            # Ray Data would restart a dying worker forever, and has no argument for a limit yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            rows = dataset.flat_map(
                ChunkActor,
                fn_constructor_args=(job, work),
                compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
                max_restarts=_LOST,
                max_task_retries=_LOST,
                **reserved,
            )
        for row in rows.iter_rows():
            yield {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}


def _prepare(job: Job, work: Work) -> None:
    _require_reserved_gpu()
    work.prepare(job)


def _require_reserved_gpu() -> None:
    """Check the GPU of this process, if Ray has reserved one: sampling on the CPU instead would take hours."""
    if ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        require_cuda("--num-workers")


def _be_quiet() -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise a worker's original error, without Ray's wrapper."""
    try:
        yield
    except RayError as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, RunFailedError | ValueError) and cause is not error):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, RunFailedError | ValueError):
            raise cause from error
        raise RunFailedError(
            f"a worker was lost more than {_LOST} times ({error}); see Ray's logs, and lower --batch-size or"
            " --num-workers if it ran out of memory"
        ) from error
