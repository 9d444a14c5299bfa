"""How the weights are updated, by how many workers, and what is kept."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import NumGpus, Resources, Section
from srpo_ray.config.count import Count, CountRange, largest, smallest

DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Share of a moving average that a step keeps."""


class OptimizerConfig(Section):
    """AdamW; defaults of the paper's recipe."""

    lr: float = Field(default=5e-6, gt=0)
    """Learning rate; useful from 1e-6 to 1e-5."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """Decay rates of the moving averages of gradients and of their squares, each in [0, 1)."""
    eps: float = Field(default=1e-8, gt=0)
    """Number above 0 that is added to the root of the second average, against division by zero."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay, 0 or more: an update multiplies the weights by `1 - lr * weight_decay`."""
    max_grad_norm: float = Field(default=0.1, gt=0)
    """Gradients of a larger global norm are scaled down to it."""


class LearningRateScheduleConfig(Section):
    """How the learning rate goes over a run, as a factor of `optimizer.lr`."""

    type: Literal["constant", "linear", "cosine"] = "constant"
    """How the factor falls from 1 after the warmup: not at all, in a line, or as half a cosine."""
    warmup_updates: int = Field(default=0, ge=0)
    """First updates, over which the factor rises in a line to 1."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Factor at the end of a `linear` or `cosine` fall; `constant` does not use it."""


class EmaConfig(Section):
    """An exponential moving average of the trained weights, which evaluations and samples use."""

    decay: float = Field(default=0.99, gt=0, lt=1)
    """Share of the old average that an update keeps."""
    warmup: bool = True
    """After n updates keep at most (1 + n) / (10 + n), so that the initial weights soon leave the average."""


class TrainingConfig(Section):
    """Section `training`."""

    num_updates: int = Field(default=60, ge=0)
    """Optimizer updates of the run; 0 only evaluates the base model."""
    batch_size: int = Field(default=8, ge=1)
    """Prompts per update, over all workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Prompts per forward pass of one worker; unset takes the whole share that it has with most workers. Algorithms
    that compare several images of a prompt bound these with `algorithm.images_per_pass`."""
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LearningRateScheduleConfig = LearningRateScheduleConfig()
    ema: EmaConfig | None = None
    """Average the weights over the updates; unset keeps the last ones only. `{}` takes the defaults."""
    gather_for_rollout: bool = True
    """Gather the sharded weights once per rollout and not once per layer and step."""
    losses_in_flight: int | None = Field(default=None, ge=1)
    """Most losses whose forward passes are done before a backward over their sum; unset takes the algorithm's number.
    1 saves memory (activations, and whole gradients between two losses), more hide the time of the rewards."""
    offload: Literal["optimizer", "weights"] | None = None
    """Keep gradients, master weights and moments in the host's memory, or those and the weights too; slower."""
    num_workers: Count = 1
    """Trainer processes, one per GPU: a number, or `{min: 1, max: 8}` to train on with what the cluster has."""
    resize_interval_s: float = Field(default=300.0, gt=0)
    """Seconds between two looks for more workers, where `num_workers` is a range; what is made since the last
    checkpoint is made again by the larger group."""
    num_cpus: float = Field(default=1.0, gt=0)
    """Ray CPUs that one worker reserves."""
    num_gpus: NumGpus = 0.0
    """Ray GPUs that one worker reserves; 0 trains on the CPU."""
    resources: Resources = {}
    """Custom Ray resources that one worker reserves, for example `{trainer_slot: 1}`."""
    num_threads: int | None = Field(default=None, ge=1)
    """Torch threads of one worker on the CPU; unset leaves torch's own choice."""
    max_failures: int = Field(default=2, ge=0)
    """Restarts from the last checkpoint after a lost worker, before the run fails."""
    checkpoint_interval: int = Field(default=20, ge=1)
    """Updates between two checkpoints; the last update is always kept."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """Newest checkpoints kept, beside that of the best evaluation; others go once a newer one is complete."""
    checkpoint_storage: str | None = Field(default=None, min_length=1)
    """Folder or URL of checkpoints, such as `s3://bucket/folder`; unset keeps them in the run's folder."""

    @model_validator(mode="after")
    def _check_batch(self) -> Self:
        workers = self.max_workers
        if self.batch_size % workers:
            raise ValueError(
                f"expected batch_size to be a multiple of num_workers, got batch_size={self.batch_size} and"
                f" num_workers={workers}; every worker must make the same number of forward passes"
            )
        share = self.batch_size // workers
        if self.micro_batch_size and share % self.micro_batch_size:
            raise ValueError(
                f"expected micro_batch_size to divide a worker's share of {share} prompts (batch_size"
                f" {self.batch_size} / num_workers {workers}), got {self.micro_batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _check_elastic(self) -> Self:
        if self.elastic and not self.resources:
            raise ValueError(
                f"expected resources with a range num_workers ({self.min_workers} to {self.max_workers}), got none; Ray"
                " counts GPUs that rewards hold as free, so give trainer nodes a resource of their own and reserve it,"
                " such as {trainer_slot: 1}"
            )
        return self

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        warmup = self.lr_schedule.warmup_updates
        if 0 < self.num_updates < warmup:
            raise ValueError(
                f"expected lr_schedule.warmup_updates to be at most num_updates = {self.num_updates}, got {warmup};"
                " the run would end before its learning rate is reached, so shorten the warmup"
            )
        return self

    @property
    def worker_resources(self) -> dict[str, float]:
        """Resources that one trainer worker reserves, by Ray's names."""
        gpus = {"GPU": self.num_gpus} if self.num_gpus else {}
        return {"CPU": self.num_cpus, **gpus, **self.resources}

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change during the run."""
        return isinstance(self.num_workers, CountRange)

    @property
    def min_workers(self) -> int:
        """Fewest workers."""
        return smallest(self.num_workers)

    @property
    def max_workers(self) -> int:
        """Most workers."""
        return largest(self.num_workers)

    @property
    def pass_size(self) -> int:
        """Prompts per forward pass, the same with any number of workers."""
        return self.micro_batch_size or self.batch_size // self.max_workers

    def num_passes(self, num_workers: int, passes_per_prompt: int = 1) -> int:
        """Forward passes that each of so many workers makes for an update, the last ones perhaps without need."""
        return -(-self.batch_size // self.pass_size * passes_per_prompt // num_workers)
