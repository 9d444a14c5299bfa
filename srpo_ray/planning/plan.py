"""Plan of a run: memory of every device, communication and time of an update, and whether the run fits."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from srpo_ray.config import RunConfig
from srpo_ray.models.family_checks import check_family
from srpo_ray.models.sizes import check_sizes
from srpo_ray.planning.accounting import Memory, Part, total
from srpo_ray.planning.context import check_context_parallel, context_traffic
from srpo_ray.planning.devices import (
    host_memory,
    replica_memory,
    replica_notes,
    replicas_beside_a_trainer,
    replicas_per_gpu,
    trainer_memory,
    with_rewards,
)
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.reward_models import reward_sizes
from srpo_ray.planning.schedule import evaluations, intervals, rollout_notes, schedule
from srpo_ray.planning.served import ServerWork, server_work
from srpo_ray.planning.shapes import parameters, part_config, planned_family
from srpo_ray.planning.workload import (
    Work,
    checkpoint_bytes,
    evaluation_work,
    group_traffic,
    mean_work,
    replica_work,
    reward_traffic,
    worker_traffic,
    worker_work,
)
from srpo_ray.planning.zero_shares import trained_elements
from srpo_ray.runs.start_from import continued


@dataclass(frozen=True)
class Plan:
    """Memory, communication and computation of a run."""

    run: str
    parameters: int
    """Number of the transformer's parameters, adapters included."""
    trained: int
    """Number of trained parameters."""
    parallelism: str
    """ZeRO stage of the run and its reason, and the workers that share the tokens of each image."""
    gpus: tuple[Memory, ...]
    """Kinds of GPUs of the run: those of the trainers and, if separate, those of the rewards."""
    host: Memory
    traffic: tuple[Part, ...]
    """Traffic between one worker and the others in an update, without that in its group."""
    group_traffic: tuple[Part, ...]
    """Traffic between one worker and those of its group in an update."""
    reward_traffic: tuple[Part, ...]
    """Traffic between one worker and the reward replicas in an update."""
    work: tuple[Work, ...]
    """Computation of one worker in an update."""
    replica_work: Work
    """Computation of all reward replicas in an update."""
    server_work: tuple[ServerWork, ...]
    """Work of the servers of rewards in an update; empty without such rewards."""
    evaluation: Work | None
    """Computation of one worker in one evaluation; None if the number of images is not in the config."""
    evaluations: int
    """Evaluations of the run, with those of the base model."""
    test: Work | None
    """Computation of one worker in one evaluation on the test prompts; None if there are none, or if their number is
    not in the config."""
    checkpoint_bytes: int
    checkpoints: int
    """Checkpoints of the run."""
    updates: int
    """Updates that the run makes, without those of the run that it continues."""
    losses_in_flight: int
    """Losses of one backward pass."""
    notes: tuple[str, ...]
    """Parts of the run that the plan does not count, and its assumptions."""
    hardware: Hardware

    @property
    def peak(self) -> int:
        """Peak bytes of the fullest GPU."""
        return max(memory.peak for memory in self.gpus)

    @property
    def fits(self) -> bool | None:
        """True if the run fits every GPU. None if the memory of a GPU is not given."""
        return None if self.hardware.limit is None else self.peak <= self.hardware.limit

    @property
    def compute_s(self) -> float | None:
        """Seconds of one worker's computation in an update. None if no speed is given."""
        flops = self.hardware.flops
        return sum(work.flops for work in self.work) / flops if flops else None

    @property
    def update_s(self) -> float | None:
        """Seconds of an update: GPU or host, whichever is slower, and the wire. None if no speed is given."""
        flops = self.hardware.flops
        return sum(work.seconds(flops) for work in self.work) + (self.wire_s or 0) if flops else None

    @property
    def evaluation_s(self) -> float | None:
        """Seconds of one evaluation. None if no speed or no number of images is given."""
        flops = self.hardware.flops
        return self.evaluation.seconds(flops) if flops and self.evaluation else None

    @property
    def tests_s(self) -> float:
        """Seconds of the tests of the base model and of the chosen weights; 0 if no speed or no number is given."""
        flops = self.hardware.flops
        return 2 * self.test.seconds(flops) if flops and self.test else 0.0

    @property
    def checkpoint_s(self) -> float:
        """Seconds of one checkpoint, in which the updates wait."""
        return self.checkpoint_bytes / (self.hardware.storage_gbs * 1e9)

    @property
    def run_s(self) -> float | None:
        """Seconds of the run after its start: updates, evaluations, checkpoints, tests. None if no speed is given."""
        if self.update_s is None:
            return None
        evaluations = self.evaluations * (self.evaluation_s or 0)
        return self.updates * self.update_s + evaluations + self.checkpoints * self.checkpoint_s + self.tests_s

    @property
    def wire_s(self) -> float | None:
        """Seconds of one worker's traffic with the others in an update. None if no bandwidth is given."""
        bandwidth = self.hardware.bandwidth_gbs
        return total(self.traffic) / (bandwidth * 1e9) if bandwidth else None

    def to_json(self) -> dict[str, Any]:
        """Convert all figures and their sums to plain values."""
        figures = asdict(self)
        for memory, named in zip(self.gpus, figures["gpus"], strict=True):
            named |= {"allocated": memory.allocated, "peak": memory.peak, "fullest": memory.fullest.name}
        return {**figures, "limit": self.hardware.limit, "fits": self.fits, "peak": self.peak} | {
            "compute_s": self.compute_s,
            "wire_s": self.wire_s,
            "update_s": self.update_s,
            "evaluation_s": self.evaluation_s,
            "checkpoint_s": self.checkpoint_s,
            "tests_s": self.tests_s,
            "run_s": self.run_s,
        }


@dataclass(frozen=True)
class Advice:
    """Change of the config and its effect on memory."""

    overrides: tuple[str, ...]
    """The change as arguments of the command line."""
    why: str
    peak: int
    """Peak bytes of the fullest GPU with this change alone."""
    saving: int
    """Bytes by which the peak decreases."""
    fits: bool | None


def make_plan(config: RunConfig, hardware: Hardware, taken_over: tuple[int, bool] | None = None) -> Plan:
    """Plan a run from its config. No weights are loaded and no process is started.

    Of several sizes of images (`model.sizes`), memory is that of the largest, and the work of an update the mean.

    A run that continues another makes the updates after that run's last one, and evaluates the base model only if the
    other was evaluated in another way.

    Args:
        config: The run.
        hardware: Hardware to plan for.
        taken_over: Updates of the run that it continues, and true if it takes over the evaluations of that run; None
            reads them from the folder that `start_from` names.

    Raises:
        ValueError: If the model's config cannot be found, `model.lora` or `training.context_parallel` does not match
            the model, it cannot draw images of a size, or its family lacks something that the run sets.
    """
    check_family(config, planned_family(config.model))
    check_sizes(config.model.path, config.image_sizes, partial(part_config, config.model.path))
    check_context_parallel(config)
    at_sizes, config = config.at_sizes, config.at_largest_size
    pool = config.rewards.pool
    gpu = (config.training.num_gpus if config.rewards.in_process else pool.num_gpus) > 0
    gradient = config.algorithm.inputs.reward == "gradient"
    trained, unknown = reward_sizes(
        config.rewards.models, pool.micro_batch_size, texts=config.algorithm.num_texts, gradient=gradient, gpu=gpu
    )
    held_out, more = reward_sizes(
        config.evaluation.held_out, pool.micro_batch_size, texts=config.evaluation.num_texts, gradient=False, gpu=gpu
    )
    made, evaluated = taken_over or continued(config) or (0, False)
    sizes = tuple(sorted({reward.image_size for reward in trained} or {224}))
    notes = [f"reward {name}: its size is not known, so it is not counted" for name in (*unknown, *more)]
    if config.model.compile:
        notes.append("model.compile: seconds and activations are those without it")
    if config.start_from is not None and not made:
        notes.append(f"start_from: {config.start_from} is no finished run yet, so all updates are counted")
    tensors, exchanged = parameters(config.model), context_traffic(config)
    return Plan(
        run=config.name,
        parameters=sum(tensor.numel for tensor in tensors),
        trained=trained_elements(tensors),
        parallelism=config.parallelism,
        gpus=_gpus(config, trainer_memory(config, sizes), replica_memory(config, [*trained, *held_out])),
        host=host_memory(config, hardware.gpus_per_node, [*trained, *held_out]),
        traffic=(*worker_traffic(config), *(exchanged if _same_links(config, hardware) else ())),
        group_traffic=(*group_traffic(config), *(() if _same_links(config, hardware) else exchanged)),
        reward_traffic=reward_traffic(config, sizes),
        work=mean_work([worker_work(each, sizes) for each in at_sizes]),
        replica_work=replica_work(config, trained),
        server_work=server_work(config),
        evaluation=evaluation_work(config, sizes),
        test=_test_work(config, sizes),
        evaluations=evaluations(config, made, evaluated=evaluated),
        checkpoint_bytes=checkpoint_bytes(config),
        checkpoints=intervals(made, config.training.num_updates, config.training.checkpoint_interval),
        updates=config.training.num_updates - made,
        losses_in_flight=schedule(config).in_flight,
        notes=(*notes, *rollout_notes(config), *replica_notes(config)),
        hardware=hardware,
    )


def _test_work(config: RunConfig, sizes: tuple[int, ...]) -> Work | None:
    tested = config.evaluation.tested
    return None if tested is None else evaluation_work(config.model_copy(update={"evaluation": tested}), sizes)


def _same_links(config: RunConfig, hardware: Hardware) -> bool:
    """Return true if tokens are exchanged over the links that all workers have: inside one node, or between nodes."""
    training, size = config.training, hardware.gpus_per_node
    return training.max_workers <= size or training.context_parallel > size


def _gpus(config: RunConfig, trainer: Memory, replica: Memory) -> tuple[Memory, ...]:
    beside = replicas_beside_a_trainer(config)
    if beside:
        shared = Part(f"{_replicas(beside)} on the same GPU", beside * replica.peak)
        return (Memory(trainer.name, trainer.always, trainer.phases, (*trainer.outside, shared)),)
    if config.rewards.in_process and config.training.num_gpus:
        return (with_rewards(trainer, replica),)
    if config.rewards.in_process or not config.rewards.pool.num_gpus:
        return (trainer,)
    together = replicas_per_gpu(config)
    others = (Part(f"{_replicas(together - 1)} more", (together - 1) * replica.peak),) if together > 1 else ()
    return (trainer, Memory("reward GPU", replica.always, replica.phases, (*replica.outside, *others)))


def _replicas(count: int) -> str:
    return f"{count} reward replica{'s' if count > 1 else ''}"
