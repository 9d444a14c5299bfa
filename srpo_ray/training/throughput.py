"""Throughput of updates: achieved FLOP/s, images per second, and the share of an update that waits for rewards."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.files import read_json, write_text
from srpo_ray.planning.model_flops import ModelFlops, model_flops


@dataclass(frozen=True)
class Throughput:
    """Throughput of a run's updates, computed from the metrics of each."""

    flops: ModelFlops
    """FLOPs of one image in each computation."""
    images: int
    """Images that an update trains on, over all workers."""
    decoded: int
    """Images that an update decodes, over all workers; an image counts once for each loss that decodes it."""
    distinct: float
    """Share of the micro-batches that are no repetition of another one, in (0, 1]."""
    workers: int
    """Number of trainer workers."""
    peak_tflops: float | None
    """Ceiling of one worker in TFLOP/s; None reports no utilization."""
    worker_gpus: float = 0.0
    """GPUs of one worker."""
    replica_gpus: float = 0.0
    """GPUs of one reward replica; 0 if the workers compute the rewards."""

    @classmethod
    def of(cls, config: RunConfig, workers: int, file: Path | None = None) -> "Throughput":
        """Compute the FLOPs and images of a run's updates.

        Args:
            config: The run.
            workers: Number of trainer workers of this start of the run.
            file: File of the run that keeps the FLOPs of an image for later starts; None keeps them nowhere.
        """
        training, calls = config.training, config.algorithm.total_calls(config.rollout.num_steps)
        images = training.batch_size * calls.images_per_prompt
        micro_batches = training.batch_size // training.pass_size * calls.passes_per_prompt
        _, apart = training.data_parallel(0, workers)
        made = training.num_passes(apart, calls.passes_per_prompt) * apart
        return cls(
            flops=model_flops(config) if file is None else _kept_flops(config, file),
            images=images,
            decoded=images * (calls.decodings + bool(calls.measured)),
            distinct=micro_batches / made,
            workers=workers,
            peak_tflops=training.peak_tflops,
            worker_gpus=training.num_gpus,
            replica_gpus=0.0 if config.rewards.in_process else config.rewards.pool.num_gpus,
        )

    def metrics(self, update: Mapping[str, float]) -> dict[str, float]:
        """Compute the metrics `speed/...` of an update, for one worker and for all its GPUs or its CPU.

        Args:
            update: Metrics of the update, with its evaluations (`cost/...`), seconds (`time/...`) and reward replicas
                (`pool/replicas`).
        """
        seconds = update["time/update"]
        transformer = (
            update["cost/forward"] * self.flops.forward + update["cost/forward_backward"] * self.flops.forward_backward
        )
        flops = transformer * self.distinct + self.decoded * self.flops.decode
        tflops = flops / self.workers / seconds / 1e12
        utilization = {"speed/mfu": tflops / self.peak_tflops} if self.peak_tflops else {}
        return {
            "speed/tflops": tflops,
            **utilization,
            "speed/images_per_second": self.images / self.workers / seconds,
            **self._per_device(update, seconds),
            "speed/reward_wait_share": update["time/reward_wait"] / seconds,
        }

    def _per_device(self, update: Mapping[str, float], seconds: float) -> dict[str, float]:
        """Images per GPU-second of trainers and reward replicas; on a CPU, per CPU-second of the workers."""
        gpus = self.workers * self.worker_gpus + update.get("pool/replicas", 0.0) * self.replica_gpus
        if self.worker_gpus:
            return {"speed/images_per_gpu_second": self.images / gpus / seconds}
        cpu_seconds = update.get("time/cpu", 0.0)
        return {"speed/images_per_cpu_second": self.images / self.workers / cpu_seconds} if cpu_seconds else {}


def _kept_flops(config: RunConfig, file: Path) -> ModelFlops:
    """Read the FLOPs of an image from the run's file, or compute them, which takes seconds, and write it."""
    if file.exists():
        return ModelFlops(**read_json(file))
    flops = model_flops(config)
    write_text(file, json.dumps(asdict(flops)) + "\n")
    return flops
