"""Section `training`: optimizer, batch sizes, trainer workers and checkpoints."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import NumGpus, Resources, Section
from srpo_ray.config.count import Count, CountRange, largest, smallest
from srpo_ray.config.home import HomePath

DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of a moving average, in [0, 1)."""


class OptimizerConfig(Section):
    """AdamW optimizer; defaults of the paper's recipe."""

    lr: float = Field(default=5e-6, gt=0)
    """Learning rate, above 0; the useful range is 1e-6 to 1e-5."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """Decay rates of the moving averages of gradients and of their squares, each in [0, 1)."""
    eps: float = Field(default=1e-8, gt=0)
    """Term above 0 that is added to the root of the second moment, against division by zero."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay, 0 or more: an update multiplies the weights by `1 - lr * weight_decay`."""
    max_grad_norm: float = Field(default=0.1, gt=0)
    """Maximum global gradient norm, above 0; larger gradients are scaled down to it (gradient clipping)."""


class LearningRateScheduleConfig(Section):
    """Learning-rate schedule: a factor of `optimizer.lr` for each update."""

    type: Literal["constant", "linear", "cosine"] = "constant"
    """Decay of the factor from 1 after the warmup: none, linear, or half a cosine."""
    warmup_updates: int = Field(default=0, ge=0)
    """Number of first updates, over which the factor rises linearly to 1; at most `num_updates`."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Factor at the end of a `linear` or `cosine` decay, in [0, 1]; unused for `constant`."""


class EmaConfig(Section):
    """Exponential moving average (EMA) of the trained weights, which evaluations and samples use."""

    decay: float = Field(default=0.99, gt=0, lt=1)
    """Decay of the EMA per update, in (0, 1)."""
    warmup: bool = True
    """Limit the decay after n updates to (1 + n) / (10 + n), so that the initial weights soon leave the EMA."""


class TrainingConfig(Section):
    """Section `training`."""

    num_updates: int = Field(default=60, ge=0)
    """Number of optimizer updates of the run; 0 only evaluates the base model."""
    batch_size: int = Field(default=8, ge=1)
    """Prompts per update, over all workers; a multiple of `num_workers / context_parallel`."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Prompts per forward pass of one worker (gradient accumulation); unset uses a worker's whole share, with the
    maximum number of workers. `algorithm.images_per_pass` limits the images of algorithms that compare several images
    of a prompt."""
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LearningRateScheduleConfig = LearningRateScheduleConfig()
    zero_stage: Literal["auto", 1, 2, 3] = "auto"
    """ZeRO stage, which determines what is sharded over the workers: the optimizer (1), also the gradients (2), or also
    the weights (3). Stages 1 and 2 keep whole weights on every GPU. `auto` takes 3 if several workers train all weights
    or with `offload`, and otherwise 2: for adapters (`model.lora`) and for one worker. Checkpoints do not depend on the
    stage."""
    gather_blocks: bool = False
    """Gather the sharded weights of a whole transformer block at once instead of layer by layer (ZeRO-3 leaf modules),
    which saves most of the host's time per pass. Only with all weights trained, stage 3, `model.gradient_checkpointing`
    and one transformer call per backward pass (`losses_in_flight: 1`)."""
    ema: EmaConfig | None = None
    """Exponential moving average of the weights; unset keeps none. `{}` uses the defaults."""
    gather_for_rollout: bool = True
    """Gather the sharded weights once per rollout instead of once per layer and sampler step; no effect at ZeRO stages
    1 and 2, whose weights are whole."""
    losses_in_flight: int | None = Field(default=None, ge=1)
    """Maximum number of losses whose graphs are kept alive before one backward pass over their sum. Unset uses the
    algorithm's number, or 1 with several workers at ZeRO stage 3, which prefetches weights only then. Lower values save
    memory (activations, and whole gradients between two losses); higher values overlap reward scoring with forward
    passes."""
    shard_group_size: int | None = Field(default=None, ge=2)
    """Workers of a group, such as the 8 GPUs of a node, that shard a second copy of the weights among themselves, so
    that gradient steps gather weights within the group instead of from all workers (hpZ of ZeRO++, arXiv 2306.10209). A
    divisor of `num_workers`, at ZeRO stage 3 only. Each GPU holds a further `1 / shard_group_size` of the weights.
    Unset makes no copy."""
    context_parallel: int = Field(default=1, ge=1)
    """Workers of a group that share the tokens of each image (context parallelism, Ulysses, arXiv 2309.14509), for
    images whose activations do not fit on one GPU; each group counts as one worker for `batch_size`. A divisor of
    `num_workers`, and of the transformer's attention heads, image tokens and text tokens. 1 gives each worker images of
    its own."""
    offload: Literal["optimizer", "weights"] | None = None
    """Offload to the host's memory: gradients, Adam moments, master weights, EMA and old weights (`optimizer`), or also
    the weights, reference weights and those of `evaluation.contrast_with` (`weights`); slower. Unset keeps all on the
    GPU."""
    num_workers: Count = 1
    """Trainer workers, one per GPU: a number, or `{min: 1, max: 8}` for elastic training on the available nodes. The
    runs of an experiment divide these among themselves."""
    resize_interval_s: float = Field(default=300.0, gt=0)
    """Seconds between two attempts to add workers, if `num_workers` is a range. The larger group restarts from the last
    checkpoint and repeats the updates since then. A run of an experiment waits for its next checkpoint and repeats
    none."""
    num_cpus: float = Field(default=1.0, gt=0)
    """Ray CPUs that one worker reserves, above 0."""
    num_gpus: NumGpus = 0.0
    """Ray GPUs that one worker reserves; 0 trains on the CPU."""
    resources: Resources = {}
    """Custom Ray resources that one worker reserves, for example `{trainer_slot: 1}`."""
    num_threads: int | None = Field(default=None, ge=1)
    """Torch threads of one worker on the CPU; unset uses torch's default."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Ceiling of one worker in 10^12 operations per second, above 0: that of a large matrix product in the model's data
    type, as `benchmarks/gpu_day.py` measures it. Metric `speed/mfu` is the achieved share of it; unset reports none."""
    profile_updates: int = Field(default=0, ge=0)
    """Updates whose trace worker 0 writes to the run's folder, below `num_updates`: those after the first one of a
    start. Profiled updates take longer."""
    max_failures: int = Field(default=2, ge=0)
    """Maximum number of restarts from the last checkpoint after a lost worker, before the run fails."""
    checkpoint_interval: int = Field(default=20, ge=1)
    """Updates between two checkpoints; the last update always gets one."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """Number of newest checkpoints to keep, besides that of the best evaluation; older ones are removed once a newer
    one is complete."""
    checkpoint_storage: HomePath | None = Field(default=None, min_length=1)
    """Folder or URL for checkpoints, such as `s3://bucket/folder`; unset writes them to the run's folder."""

    @model_validator(mode="after")
    def _check_context_parallel(self) -> Self:
        size = self.context_parallel
        if size > 1 and (self.elastic or self.max_workers % size):
            raise ValueError(
                f"expected num_workers to be a multiple of context_parallel={size}, and no range, got"
                f" {self.min_workers} to {self.max_workers} workers; {size} workers share the tokens of each image, so"
                " change num_workers or context_parallel"
            )
        return self

    @model_validator(mode="after")
    def _check_batch(self) -> Self:
        workers = self.data_workers
        counted = "num_workers" if self.context_parallel == 1 else "num_workers / context_parallel"
        if self.batch_size % workers:
            raise ValueError(
                f"expected batch_size to be a multiple of {counted}, got batch_size={self.batch_size} and"
                f" {counted}={workers}; every worker must make the same number of forward passes, so set"
                f" training.batch_size={-(-self.batch_size // workers) * workers}, or change num_workers"
            )
        share = self.batch_size // workers
        if self.micro_batch_size and share % self.micro_batch_size:
            raise ValueError(
                f"expected micro_batch_size to divide a worker's share of {share} prompts (batch_size"
                f" {self.batch_size} / {counted} {workers}), got {self.micro_batch_size}; choose a"
                " divisor of this share"
            )
        return self

    @model_validator(mode="after")
    def _check_zero_stage(self) -> Self:
        if self.zero_stage not in (1, 2):
            return self
        if self.offload == "weights":
            raise ValueError(
                f"expected zero_stage 3 or auto with offload=weights, got {self.zero_stage}; DeepSpeed offloads sharded"
                " weights only, so remove zero_stage, or offload the optimizer alone"
            )
        if self.gather_blocks:
            raise ValueError(
                f"expected zero_stage 3 or auto with gather_blocks, got {self.zero_stage}; stages 1 and 2 keep whole"
                " weights on every worker and gather nothing, so remove gather_blocks or zero_stage"
            )
        return self

    @model_validator(mode="after")
    def _check_elastic(self) -> Self:
        if self.elastic and not self.resources:
            raise ValueError(
                f"expected resources with a range num_workers ({self.min_workers} to {self.max_workers}), got none; Ray"
                " counts GPUs of reward replicas as free, so give trainer nodes a separate resource and reserve it,"
                " such as {trainer_slot: 1}"
            )
        return self

    @model_validator(mode="after")
    def _check_shard_groups(self) -> Self:
        size = self.shard_group_size
        if size is None:
            return self
        if self.elastic or self.max_workers % size:
            raise ValueError(
                f"expected num_workers to be a multiple of shard_group_size={size}, and no range, got"
                f" {self.min_workers} to {self.max_workers} workers; set it to the GPUs of a node, or remove it"
            )
        if self.offload == "weights":
            raise ValueError(
                f"expected no shard_group_size with offload=weights, got {size}; the second copy of the weights would"
                " be in the host's memory too, so remove one of the two"
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

    @model_validator(mode="after")
    def _check_profile(self) -> Self:
        if 0 < self.num_updates <= self.profile_updates:
            raise ValueError(
                f"expected profile_updates to be below num_updates = {self.num_updates}, got {self.profile_updates};"
                " the first update only warms up, so profile fewer updates or make more"
            )
        return self

    @property
    def worker_resources(self) -> dict[str, float]:
        """Resources that one trainer worker reserves, by Ray's names."""
        gpus = {"GPU": self.num_gpus} if self.num_gpus else {}
        return {"CPU": self.num_cpus, **gpus, **self.resources}

    @property
    def elastic(self) -> bool:
        """True if the number of workers may change during the run."""
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
    def data_workers(self) -> int:
        """Most workers with images of their own; a group of `context_parallel` workers counts as one."""
        return self.max_workers // self.context_parallel

    def data_parallel(self, rank: int, world_size: int) -> tuple[int, int]:
        """Return the rank and the number of workers with images of their own: equal ranks process the same images."""
        return rank // self.context_parallel, world_size // self.context_parallel

    @property
    def pass_size(self) -> int:
        """Prompts per forward pass, independent of the number of workers."""
        return self.micro_batch_size or self.batch_size // self.data_workers

    def num_passes(self, num_workers: int, passes_per_prompt: int = 1) -> int:
        """Forward passes per worker and update; the last workers may repeat passes without need.

        Args:
            num_workers: Number of workers with images of their own.
            passes_per_prompt: Forward passes that divide the images of a prompt.
        """
        return -(-self.batch_size // self.pass_size * passes_per_prompt // num_workers)
