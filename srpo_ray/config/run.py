"""Config of one training run, and the checks across its sections."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from srpo_ray.config.algorithms.control_words import PAPER_WORDS, ControlWords
from srpo_ray.config.algorithms.query import QuerySection
from srpo_ray.config.algorithms.registry import DEFAULT, AlgorithmConfig, types_that
from srpo_ray.config.base import Name, Section
from srpo_ray.config.data import DataConfig
from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.config.home import HomePath
from srpo_ray.config.model import ModelConfig, RolloutConfig
from srpo_ray.config.rewards import RewardsConfig
from srpo_ray.config.rollout_checks import (
    check_batch,
    check_block_cache,
    check_no_batch,
    check_rollout_base,
    check_sizes_of_run,
    check_some_sampled,
)
from srpo_ray.config.size import ImageSize
from srpo_ray.config.sources import same_model
from srpo_ray.config.tracking import TrackingConfig
from srpo_ray.config.training import TrainingConfig
from srpo_ray.config.zero import Stage, zero_stage
from srpo_ray.credentials import find_credentials


class RunConfig(Section):
    """Config of one training run, with its sections in the order of the stages."""

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
    def at_sizes(self) -> "list[RunConfig]":
        """The run with each size of `model.sizes` as its only one; the run itself if it has one size."""
        return [
            self.model_copy(update={"model": self.model.with_size(size.resolution)}) for size in self.model.all_sizes
        ]

    @property
    def at_largest_size(self) -> "RunConfig":
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

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        found = list(find_credentials(self.model_dump()))
        if found:
            raise ValueError(
                f"expected no credentials in a config, which is logged and stored with each run, got some in"
                f" {', '.join(found)}; put them into environment variables and write ${{NAME}} for each, or for an"
                " MLflow server set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        return self

    @model_validator(mode="after")
    def _check_rewards_read_text(self) -> Self:
        blind = [model.name for model in self.rewards.models if not model.reads_text]
        if blind and self.algorithm.compares_texts and self.algorithm.word_set is None:
            raise ValueError(
                f"expected trained rewards that read text with algorithm.distribution, got {', '.join(blind)}, whose"
                " score is the same for all attributes; remove algorithm.distribution, or move the model to"
                " evaluation.held_out"
            )
        if blind and isinstance(self.algorithm, QuerySection) and self.algorithm.compares_texts:
            raise ValueError(
                f"expected trained rewards that read text for the {self.algorithm.query} query with control words, got"
                f" {', '.join(blind)}, whose score does not depend on control words;"
                f" {self.algorithm.plain_settings}, or move the model to evaluation.held_out"
            )
        return self

    @model_validator(mode="after")
    def _check_word_set(self) -> Self:
        name = self.algorithm.word_set
        if name is not None and name not in self.word_sets:
            raise ValueError(
                f"expected algorithm.control_words to name one of word_sets ({', '.join(sorted(self.word_sets))}),"
                f" got {name!r}; choose one of them or add word_sets.{name} with `positive` and `negative` lists"
            )
        return self

    @model_validator(mode="after")
    def _check_rollout_source(self) -> Self:
        rollout = self.rollout
        changed = [f"source={rollout.source}"] if rollout.source != "policy" else []
        changed += [f"reuse={rollout.reuse}"] if rollout.reuse > 1 else []
        if changed and not self.algorithm.inputs.accepts_clean_images:
            others = types_that(lambda needs: needs.accepts_clean_images)
            raise ValueError(
                f"expected rollout.source=policy and rollout.reuse=1 with algorithm.type={self.algorithm.type}, got"
                f" {', '.join(changed)}; it needs on-policy rollouts for every update, so remove these"
                f" keys or choose {others}"
            )
        return self

    @model_validator(mode="after")
    def _check_rollout_reuse(self) -> Self:
        rollout = self.rollout
        if rollout.reuse > 1 and not self.samples_rollouts:
            kind = "base-model" if rollout.source == "base_model" else "real"
            raise ValueError(
                f"expected rollout.reuse=1 with {kind} images only, got {rollout.reuse}; no image is sampled during"
                " training, so reuse would save nothing and only repeat each batch: remove it"
            )
        if rollout.source == "base_model" and not self.data.reads_prompts:
            raise ValueError(
                "expected rollout.source=policy with data.image_ratio=1, got base_model; every sample is a real image,"
                " so nothing is sampled: remove rollout.source or lower the ratio"
            )
        if rollout.images_per_prompt > 1 and rollout.source == "policy":
            raise ValueError(
                f"expected rollout.images_per_prompt=1 with rollout.source=policy, got {rollout.images_per_prompt};"
                " the trained model samples new images in training, so remove it or set rollout.source to base_model"
            )
        return self

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        several = self.model.sizes is not None
        self.algorithm.check_micro_batch(self.training.micro_batch_size, several_sizes=several)
        if several:
            check_sizes_of_run(self.rollout, self.training, self.evaluation)
        return self

    @model_validator(mode="after")
    def _check_sampler_steps(self) -> Self:
        self.algorithm.check_rollout(self.rollout.num_steps)
        return self

    @model_validator(mode="after")
    def _check_comparisons(self) -> Self:
        names = [model.name for model in self.rewards.models if model.compares_pairs]
        if names:
            self.algorithm.check_comparisons(names, len(self.rewards.models))
        return self

    @model_validator(mode="after")
    def _check_cheaper_rollouts(self) -> Self:
        rollout, training, sampled = self.rollout, self.training, self.samples_rollouts
        if not self.data.reads_prompts and not self.algorithm.samples_for_images:
            check_some_sampled(rollout)
        if self.algorithm.total_calls(rollout.num_steps).rollout_parts > 1:
            check_no_batch(rollout)
        check_batch(rollout, training, self.sampled_per_pass if sampled else None)
        check_block_cache(rollout, training, self.algorithm, self.zero_stage, by_policy=sampled)
        check_rollout_base(rollout, self.model, training, self.algorithm, self.zero_stage)
        return self

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if self.data.images and self.algorithm.inputs.images != "optional":
            others = types_that(lambda needs: needs.images == "optional")
            raise ValueError(
                f"expected data.images to be unset with algorithm.type={self.algorithm.type}, got"
                f" {self.data.images!r}; the algorithm trains on other images, so unset data.images or choose {others}"
            )
        self.algorithm.check_images(self.data.images, self.data.image_ratio)
        return self

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        judged, pairs = self.algorithm.judged, self.data.pairs
        if judged and not pairs:
            raise ValueError(
                f"expected data.pairs with algorithm.type={self.algorithm.type}, which trains on {judged}, got none;"
                f" name a .jsonl file of judged images, or small_world:{judged}"
            )
        if pairs and not judged:
            others = types_that(lambda needs: needs.images == "pairs")
            raise ValueError(
                f"expected data.pairs to be unset with algorithm.type={self.algorithm.type}, got {pairs!r}; its updates"
                f" read no judged images, so unset data.pairs, or choose {others} with source pairs or labels"
            )
        return self

    @model_validator(mode="after")
    def _check_rewards(self) -> Self:
        if not self.rewards.models and self.algorithm.inputs.reward != "none":
            others = types_that(lambda needs: needs.reward == "none")
            raise ValueError(
                f"expected at least one model in rewards.models with algorithm.type={self.algorithm.type}, got none;"
                f" its updates need a reward, so add one or choose {others}"
            )
        if not self.rewards.models and not self.evaluation.held_out:
            raise ValueError(
                "expected at least one model in rewards.models or evaluation.held_out, got none; evaluations need a"
                " score, so add a model to evaluation.held_out"
            )
        return self

    @model_validator(mode="after")
    def _check_data_anchor(self) -> Self:
        rollout, weight = self.rollout, self.algorithm.anchor.data
        if weight and not self.data.images:
            raise ValueError(
                f"expected data.images with algorithm.anchor.data={weight:g}, got none; the anchor trains on real"
                " images with captions, so name them, or remove the anchor"
            )
        if weight and (rollout.reuse > 1 or rollout.source != "policy"):
            raise ValueError(
                f"expected rollout.reuse=1 and rollout.source=policy with algorithm.anchor.data={weight:g}, got"
                f" reuse={rollout.reuse} and source={rollout.source}; kept images would count as real ones, so remove"
                " these keys or the anchor"
            )
        return self

    @model_validator(mode="after")
    def _check_average(self) -> Self:
        if "ema" in self.algorithm.roles and not self.training.ema:
            raise ValueError(
                f"expected training.ema with algorithm.type={self.algorithm.type}, which uses the EMA of the"
                " weights, got none; set training.ema to {} for its defaults"
            )
        return self

    @model_validator(mode="after")
    def _check_contrast(self) -> Self:
        if self.evaluation.contrast and not self.model.lora and "reference" not in self.algorithm.roles:
            raise ValueError(
                f"expected model.lora, or an algorithm that keeps the base model's weights, with"
                f" evaluation.rl_guidance={self.evaluation.rl_guidance}, got full fine-tuning with"
                f" algorithm.type={self.algorithm.type}, which keeps none; train adapters, set"
                " algorithm.anchor.reference, or remove it and use `srpo-ray evaluate --rl-guidance` after the training"
            )
        return self

    @model_validator(mode="after")
    def _check_shard_groups(self) -> Self:
        size = self.training.shard_group_size
        if size and self.zero_stage.whole_weights:
            raise ValueError(
                f"expected ZeRO stage 3 with training.shard_group_size={size}, got {self.zero_stage.number}"
                f" ({self.zero_stage.reason}); stages 1 and 2 keep whole weights on every worker, so remove"
                " training.shard_group_size, or set training.zero_stage=3"
            )
        return self

    @model_validator(mode="after")
    def _check_base(self) -> Self:
        base = self.model.base
        if base and not self.zero_stage.whole_weights:
            raise ValueError(
                f"expected ZeRO stage 1 or 2 with model.base={base}, got {self.zero_stage.number}"
                f" ({self.zero_stage.reason}); packed weights and their scales cannot be sharded, so remove"
                " training.zero_stage and training.offload, or remove model.base"
            )
        return self

    @model_validator(mode="after")
    def _check_gather_blocks(self) -> Self:
        if not self.training.gather_blocks:
            return self
        if self.model.lora:
            raise ValueError(
                "expected training.gather_blocks=false with model.lora, got true; DeepSpeed would release the frozen"
                " weights of a block before they are used, and adapters gather nothing at ZeRO stage 2, so remove it"
            )
        if not self.model.gradient_checkpointing:
            raise ValueError(
                "expected model.gradient_checkpointing=true with training.gather_blocks, got false; without"
                " recomputation DeepSpeed releases a block's weights before its backward pass has ended, so set it or"
                " remove gather_blocks"
            )
        calls = self.algorithm.total_calls(self.rollout.num_steps)
        in_flight = min(self.losses_in_flight, calls.losses)
        if in_flight > 1:
            raise ValueError(
                f"expected training.losses_in_flight=1 with training.gather_blocks, got {in_flight}; DeepSpeed supports"
                " one pass through a block per backward pass, so set training.losses_in_flight=1 or remove"
                " gather_blocks"
            )
        if calls.chained > 1:
            raise ValueError(
                f"expected one transformer call per loss with training.gather_blocks, got {calls.chained} of"
                f" algorithm.type={self.algorithm.type}; DeepSpeed supports one pass through a block per backward pass,"
                " so remove gather_blocks or choose another algorithm"
            )
        return self

    @model_validator(mode="after")
    def _check_compile(self) -> Self:
        if not self.model.compile or self.zero_stage.whole_weights or self.training.gather_blocks:
            return self
        cure = "set training.gather_blocks=true, or training.zero_stage=2 if every GPU has room for whole weights"
        if self.model.lora:
            cure = "set training.zero_stage=2 and offload no weights"
        raise ValueError(
            f"expected ZeRO stage 1 or 2, or training.gather_blocks, with model.compile=true, got stage"
            f" {self.zero_stage.number} ({self.zero_stage.reason}); DeepSpeed's hooks on every layer would cut each"
            f" block into dozens of graphs, so {cure}, or remove model.compile"
        )

    @model_validator(mode="after")
    def _check_context_parallel(self) -> Self:
        size = self.training.context_parallel
        if size > 1 and self.model.compile:
            raise ValueError(
                f"expected model.compile=false with training.context_parallel={size}, got true; the exchange of tokens"
                " between workers is inside the compiled blocks, which is not supported, so remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _check_image_ratio(self) -> Self:
        ratio = self.data.image_ratio
        size = self.training.pass_size
        if abs(ratio * size - round(ratio * size)) > 1e-6:
            raise ValueError(
                f"expected data.image_ratio = {ratio:g} to be a whole number of the {size} samples of a forward pass"
                f" (training.micro_batch_size, or a worker's share of training.batch_size), got {ratio * size:g};"
                " every pass must have the same number of rollouts, so choose another ratio or size"
            )
        return self

    @model_validator(mode="after")
    def _check_elastic(self) -> Self:
        training, pool = self.training, self.rewards.pool
        if not training.elastic:
            return self
        drawn = [name for name in type(self.algorithm).model_fields if getattr(self.algorithm, name) == "per_worker"]
        if drawn:
            raise ValueError(
                f"expected algorithm.{drawn[0]} to be shared or per_sample with a range training.num_workers, got"
                " per_worker; draws per worker would depend on the number of workers"
            )
        both = sorted(set(training.resources) & set(pool.resources))
        if not self.rewards.in_process and (both or (pool.num_gpus and not pool.resources)):
            raise ValueError(
                "expected training.resources and rewards.pool.resources to name different resources with a range"
                f" training.num_workers, got {sorted(training.resources)} and {sorted(pool.resources)}; give reward"
                " nodes a resource that trainer nodes lack, such as {reward_slot: 1}, so that neither uses the other's"
                " GPUs"
            )
        return self

    @model_validator(mode="after")
    def _check_one_worker_per_gpu(self) -> Self:
        training = self.training
        if training.max_workers == 1 or not 0 < training.num_gpus <= 0.5:
            return self
        needed, replicas = training.max_workers, self.replicas_beside_trainers
        if replicas < needed:
            raise ValueError(
                f"expected training.num_gpus above 0.5 with {needed} workers, or a reward replica of more than half a"
                f" GPU beside each of them, got training.num_gpus={training.num_gpus:g} and {replicas} such replicas;"
                f" Ray would place two workers on one GPU, so set rewards.pool.num_replicas={needed} and"
                f" rewards.pool.num_gpus={1 - training.num_gpus:g}, or training.num_gpus=1"
            )
        return self

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

    @model_validator(mode="after")
    def _check_reward_names(self) -> Self:
        trained = [model.name for model in self.rewards.models]
        names = trained + [model.name for model in self.evaluation.held_out]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                "expected every reward model of rewards.models and evaluation.held_out to have a unique name,"
                f" got {', '.join(repeated)} more than once; a held-out model must not be a trained one"
            )
        return self

    @model_validator(mode="after")
    def _check_held_out(self) -> Self:
        for evaluator in self.evaluation.held_out:
            for model in self.rewards.models:
                if same_model(evaluator, model):
                    raise ValueError(
                        f"expected models in evaluation.held_out that are not trained on, got {evaluator.name!r}, which"
                        f" is the trained model {model.name!r} under another name; its score would rise with the"
                        " training reward and hide reward hacking, so take another checkpoint or remove one of the two"
                    )
        return self
