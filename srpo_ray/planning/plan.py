"""A run's plan: what every device holds, what crosses the wire, how long an update takes, whether it fits."""

from dataclasses import asdict, dataclass
from typing import Any

from srpo_ray.config import RunConfig
from srpo_ray.planning.accounting import Memory, Part, total
from srpo_ray.planning.devices import (
    host_memory,
    replica_memory,
    replica_notes,
    replicas_beside_a_trainer,
    replicas_per_gpu,
    trainer_memory,
)
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.reward_models import reward_sizes
from srpo_ray.planning.schedule import rollout_notes
from srpo_ray.planning.shapes import parameters
from srpo_ray.planning.workload import Work, replica_work, reward_traffic, worker_traffic, worker_work
from srpo_ray.planning.zero_shares import trained_elements


@dataclass(frozen=True)
class Plan:
    """What a run needs."""

    run: str
    parameters: int
    """Of the transformer, adapters included."""
    trained: int
    """Of them, those that are trained."""
    gpus: tuple[Memory, ...]
    """Each kind of GPU that the run uses: the trainers' and, where they have their own, the rewards'."""
    host: Memory
    traffic: tuple[Part, ...]
    """Between one worker and the others, in an update."""
    reward_traffic: tuple[Part, ...]
    """Between one worker and the reward replicas, in an update."""
    work: tuple[Work, ...]
    """Of one worker, in an update."""
    replica_work: Work
    """Of all reward replicas, in an update."""
    notes: tuple[str, ...]
    """What is not counted."""
    hardware: Hardware

    @property
    def peak(self) -> int:
        """Bytes of the fullest GPU."""
        return max(memory.peak for memory in self.gpus)

    @property
    def fits(self) -> bool | None:
        """Whether every GPU holds what it must; None where no memory is given."""
        return None if self.hardware.limit is None else self.peak <= self.hardware.limit

    @property
    def compute_s(self) -> float | None:
        """Seconds of one worker's computations in an update; None where no speed is given."""
        flops = self.hardware.flops
        return sum(work.flops for work in self.work) / flops if flops else None

    @property
    def wire_s(self) -> float | None:
        """Seconds in which one worker's traffic with the others is sent; None where no bandwidth is given."""
        bandwidth = self.hardware.bandwidth_gbs
        return total(self.traffic) / (bandwidth * 1e9) if bandwidth else None

    def to_json(self) -> dict[str, Any]:
        """Every figure, with the sums."""
        figures = asdict(self)
        for memory, named in zip(self.gpus, figures["gpus"], strict=True):
            named |= {"allocated": memory.allocated, "peak": memory.peak, "fullest": memory.fullest.name}
        return {**figures, "limit": self.hardware.limit, "fits": self.fits, "peak": self.peak} | {
            "compute_s": self.compute_s,
            "wire_s": self.wire_s,
        }


@dataclass(frozen=True)
class Advice:
    """One change of the config and what it does."""

    overrides: tuple[str, ...]
    """As the command line takes them."""
    why: str
    peak: int
    """Bytes of the fullest GPU with the change alone."""
    saving: int
    """Bytes less than without it."""
    fits: bool | None


def make_plan(config: RunConfig, hardware: Hardware) -> Plan:
    """Plan a run from its config; nothing is loaded or started.

    Args:
        config: The run.
        hardware: What it is planned for.

    Raises:
        ValueError: If the model's config cannot be had, or `model.lora` does not fit it.
    """
    pool = config.rewards.pool
    gpu = pool.num_gpus > 0 and not config.rewards.in_process
    gradient = config.algorithm.needs.reward == "gradient"
    trained, unknown = reward_sizes(config.rewards.models, pool.micro_batch_size, gradient=gradient, gpu=gpu)
    held_out, more = reward_sizes(config.evaluation.held_out, pool.micro_batch_size, gradient=False, gpu=gpu)
    sizes = tuple(sorted({reward.image_size for reward in trained} or {224}))
    notes = [f"reward {name}: its size is not known, so it is not counted" for name in (*unknown, *more)]
    tensors = parameters(config.model)
    return Plan(
        run=config.name,
        parameters=sum(tensor.numel for tensor in tensors),
        trained=trained_elements(tensors),
        gpus=_gpus(config, trainer_memory(config, sizes), replica_memory(config, [*trained, *held_out])),
        host=host_memory(config, hardware.gpus_per_node, [*trained, *held_out]),
        traffic=worker_traffic(config),
        reward_traffic=reward_traffic(config, sizes),
        work=worker_work(config, sizes),
        replica_work=replica_work(config, trained),
        notes=(*notes, *rollout_notes(config), *replica_notes(config)),
        hardware=hardware,
    )


def _gpus(config: RunConfig, trainer: Memory, replica: Memory) -> tuple[Memory, ...]:
    beside = replicas_beside_a_trainer(config)
    if beside:
        shared = Part(f"{_replicas(beside)} on the same GPU", beside * replica.peak)
        return (Memory(trainer.name, trainer.always, trainer.phases, (*trainer.outside, shared)),)
    if config.rewards.in_process or not config.rewards.pool.num_gpus:
        return (trainer,)
    together = replicas_per_gpu(config)
    others = (Part(f"{_replicas(together - 1)} more", (together - 1) * replica.peak),) if together > 1 else ()
    return (trainer, Memory("reward GPU", replica.always, replica.phases, (*replica.outside, *others)))


def _replicas(count: int) -> str:
    return f"{count} reward replica{'s' if count > 1 else ''}"
