"""Sections of the config of one training run, and values derived from them."""

from typing import Self

from pydantic import Field, field_validator

from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.algorithms.control_words import PAPER_WORDS, ControlWords
from srpo_ray.config.algorithms.registry import DEFAULT, AlgorithmConfig
from srpo_ray.config.base import Name, Section
from srpo_ray.config.data import DataConfig
from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.config.home import HomePath
from srpo_ray.config.model import ModelConfig, RolloutConfig
from srpo_ray.config.rewards import RewardsConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.config.tracking import TrackingConfig
from srpo_ray.config.training import TrainingConfig
from srpo_ray.config.zero import Stage, zero_stage


class RunSections(Section):
    """Sections of the config of one training run, in the order of the stages."""

    name: Name = "run"
    """Name of the run and of its folder under `run_root`: letters, digits and `_.-`, any script, up to 200 bytes."""
    run_root: HomePath = Field(default="runs", min_length=1)
    """Parent folder of run folders; on a cluster, on storage that every node can access."""
    seed: int = 0
    """Seed of all random draws in training."""
    start_from: HomePath | None = Field(default=None, min_length=1)
    """Folder of a finished run whose newest checkpoint this run continues from, with its weights, optimizer state and
    number of updates; `training.num_updates` counts the updates of both. Model, adapters, algorithm type, seed and
    batch size must be the same; learning rate, resolution, rollouts, rewards and evaluation may differ. Unset starts
    from the base model."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    algorithm: AlgorithmConfig = DEFAULT
    """Training algorithm; `type` selects it."""
    word_sets: dict[str, ControlWords] = {"paper": PAPER_WORDS}
    """Named sets of control words; `algorithm.control_words` selects one. `paper` always exists."""
    rewards: RewardsConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("word_sets")
    @classmethod
    def _keep_paper_words(cls, sets: dict[str, ControlWords]) -> dict[str, ControlWords]:
        return {"paper": PAPER_WORDS, **sets}

    @property
    def trained_words(self) -> ControlWords | None:
        """Control words whose texts the trained reward compares; None for the plain reward."""
        name = self.algorithm.word_set
        return None if name is None else self.word_sets[name]

    @property
    def kept_roles(self) -> frozenset[Role]:
        """Roles of weights that workers keep: those of the algorithm, and the other model of evaluations."""
        other: frozenset[Role] = frozenset({"contrast"} if self.evaluation.contrast_with else ())
        return self.algorithm.roles | other

    @property
    def text_free(self) -> tuple[str, ...]:
        """Names of the reward models that read no text, trained and held-out."""
        models = (*self.rewards.models, *self.evaluation.held_out)
        return tuple(model.name for model in models if not model.reads_text)

    @property
    def zero_stage(self) -> Stage:
        """ZeRO stage of the run."""
        return zero_stage(self.training, adapters=self.model.lora is not None)

    @property
    def parallelism(self) -> str:
        """Sentence that says what the workers share."""
        size = self.training.context_parallel
        shared = f"; {size} workers share the tokens of each image (training.context_parallel)" if size > 1 else ""
        return f"{self.zero_stage}{shared}"

    def model_at(self, evaluation: EvaluationConfig) -> ModelConfig:
        """Return section `model` with the size of an evaluation's images as its resolution.

        Args:
            evaluation: Section `evaluation`, or that of its test.
        """
        return self.model if evaluation.resolution is None else self.model.with_size(evaluation.resolution)

    @property
    def at_sizes(self) -> list[Self]:
        """The run with each size of `model.sizes` as its only one; the run itself if it has one size."""
        return [
            self.model_copy(update={"model": self.model.with_size(size.resolution)}) for size in self.model.all_sizes
        ]

    @property
    def at_largest_size(self) -> Self:
        """The run with the largest size of `model.sizes` as its only one."""
        return max(self.at_sizes, key=lambda run: run.model.size.num_pixels)

    @property
    def image_sizes(self) -> dict[str, ImageSize]:
        """Config key -> size of images that the run draws with it."""
        evaluation, sizes = self.evaluation, {"model.resolution": self.model.size}
        if self.model.sizes is not None:
            sizes = {f"model.sizes.{index}": size for index, size in enumerate(self.model.all_sizes)}
        if evaluation.resolution is not None:
            sizes["evaluation.resolution"] = ImageSize.of(evaluation.resolution)
        if evaluation.test and evaluation.test.resolution is not None:
            sizes["evaluation.test.resolution"] = ImageSize.of(evaluation.test.resolution)
        return sizes

    @property
    def samples_rollouts(self) -> bool:
        """True if the trained model samples images in training: not all are real images or the base model's."""
        sampled = self.data.reads_prompts or self.algorithm.samples_for_images
        return self.rollout.source == "policy" and sampled

    @property
    def sampled_per_pass(self) -> int:
        """Number of images that the trained model samples at once for a micro-batch, in an update that samples."""
        if not self.samples_rollouts:
            return 0
        calls, size = self.algorithm.total_calls(self.rollout.num_steps), self.training.pass_size
        replaced = self.data.images and not self.algorithm.samples_for_images
        real = round(self.data.image_ratio * size) if replaced else 0
        return (size - real) * (calls.images_per_prompt // calls.passes_per_prompt // calls.rollout_parts)

    @property
    def rollout_passes(self) -> int:
        """Number of micro-batches whose images are sampled together."""
        size, each = self.rollout.batch_size, self.sampled_per_pass
        return size // each if size and each else 1

    @property
    def base_batch_size(self) -> int:
        """Number of images in a transformer call that samples images of the base model."""
        return self.rollout.batch_size or self.training.pass_size

    @property
    def losses_in_flight(self) -> int:
        """Maximum number of losses whose graphs are kept alive before one backward pass over their sum.

        Unless the config sets it, several workers at stage 3 take one loss at a time: DeepSpeed prefetches sharded
        weights in the order of an earlier update, and a second forward pass before the backward pass makes it drop that
        order.
        """
        if self.training.losses_in_flight:
            return self.training.losses_in_flight
        gathers = self.training.max_workers > 1 and not self.zero_stage.whole_weights
        return 1 if gathers else self.algorithm_losses_in_flight

    @property
    def algorithm_losses_in_flight(self) -> int:
        """Number of losses that the algorithm keeps in flight on one worker."""
        return self.algorithm.total_calls(self.rollout.num_steps).in_flight

    @property
    def trainer_gpus(self) -> float:
        """GPUs that all trainer workers reserve, with most workers."""
        return self.training.max_workers * self.training.num_gpus

    @property
    def fewest_trainer_gpus(self) -> float:
        """GPUs that all trainer workers reserve, with fewest workers."""
        return self.training.min_workers * self.training.num_gpus

    @property
    def reward_replicas(self) -> int:
        """Replicas of the reward pool, with most replicas; 0 if rewards are in process."""
        models = len(self.rewards.models) + len(self.evaluation.held_out)
        return 0 if self.rewards.in_process else self.rewards.pool.most_replicas(models)

    @property
    def reward_gpus(self) -> float:
        """GPUs that all replicas of the reward pool reserve, with most replicas."""
        return self.reward_replicas * self.rewards.pool.num_gpus

    @property
    def replicas_beside_trainers(self) -> int:
        """Minimum number of reward replicas that each leave room for one trainer worker on their GPU, not for two."""
        trainer, pool = self.training, self.rewards.pool
        apart = self.rewards.in_process or set(pool.resources) != set(trainer.resources) or pool.labels
        # The number allows for fractions such as 0.1.
        rest = 1 - pool.num_gpus + 1e-9
        one_only = pool.num_gpus > 0.5 and trainer.num_gpus <= rest < 2 * trainer.num_gpus
        models = len(self.rewards.models) + len(self.evaluation.held_out)
        return 0 if apart or not one_only else pool.least_replicas(models)
