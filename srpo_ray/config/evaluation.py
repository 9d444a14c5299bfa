"""Section `evaluation`: validation and test prompts, held-out reward models and reward-hacking detection."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.contrast_weight import TUNED, ContrastWeight, WeightText
from srpo_ray.config.home import HomePath
from srpo_ray.config.objective import VOTES, Objective, check_limited, check_truth
from srpo_ray.config.rewards import RewardModelConfig
from srpo_ray.config.size import Resolution
from srpo_ray.config.sources import text_key


class RelativeConfig(Section):
    """Pair of words for difference scores: score of `<positive>. <prompt>` minus score of `<negative>. <prompt>`."""

    positive: str = Field(min_length=1)
    """Word that should match a better image more."""
    negative: str = Field(min_length=1)
    """Word that should match a better image less."""

    @model_validator(mode="after")
    def _check_difference(self) -> Self:
        if text_key(self.positive) == text_key(self.negative):
            raise ValueError(
                f"expected two different words, got {self.positive!r} twice, so the difference is always 0;"
                " give opposites such as positive: detailed, negative: flat"
            )
        return self


class HackingConfig(Section):
    """Reward-hacking detection: thresholds, and the action at the first sign."""

    action: Literal["warn", "stop"] = "warn"
    """Action at a sign of reward hacking. `warn` reports it; `stop` ends the run (early stopping) and keeps the
    checkpoint of the best evaluation."""
    noise: float = Field(default=2.0, ge=0)
    """Threshold for a rise, in standard errors of the paired difference over prompts, 0 or more. The threshold for a
    fall grows with the number of evaluations and held-out models, so that the false-positive rate of the whole run is
    that of a single comparison with this threshold: 2.3% for 2, 0.13% for 3. 0 counts every rise and fall."""
    margin: float = Field(default=0.1, ge=0)
    """Minimum fall of a held-out score that counts, in standard deviations over the base model's images, 0 or more."""
    diversity_fall: float = Field(default=0.2, ge=0, le=1)
    """Share of the base model's `image/diversity` that may be lost, in [0, 1]; 1 disables the check."""
    content_fall: float = Field(default=0.02, ge=0, le=1)
    """Share of the base model's `truth/content_accuracy` that may be lost, in [0, 1]; small world only."""
    style_fall: float = Field(default=0.5, ge=0, le=1)
    """Share of the base model's image saturation, contrast, brightness or high frequency that may be lost, in [0, 1].
    This check complements `band`, which is wider if prompts differ much."""
    band: float = Field(default=1.0, gt=0)
    """Maximum change of the mean of an image statistic, in standard deviations over the base model's images, above
    0."""


class FinalTestConfig(Section):
    """Section `evaluation.test`: prompts and noise that choose nothing, evaluated once at the end of a run.

    The chosen weights and the base model are evaluated with all other settings of section `evaluation`. Trials of a
    search are not tested.
    """

    prompts: HomePath = Field(default="small_world:test", min_length=1)
    """File of the test prompts, or `small_world:test`; not the prompts of the training or of `evaluation.prompts`."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Number of prompts to use, from the first; unset uses all."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Images per prompt, each from different noise."""
    seed: int = 4321
    """Seed of the test noise, other than `evaluation.seed`. Runs with equal seeds have paired images."""
    resolution: Resolution | None = None
    """Size of the test images, as in `evaluation.resolution`, which unset takes."""


class EvaluationConfig(Section):
    """Section `evaluation`: images of fixed prompts and noise, scored by held-out models."""

    prompts: HomePath = Field(default="small_world:validation", min_length=1)
    """File of the validation prompts, which may choose settings and weights, or `small_world:validation`."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Number of prompts to use, from the first; unset uses all."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Images per prompt, each from different noise; diversity needs two or more."""
    interval: int = Field(default=15, ge=1)
    """Updates between two evaluations. The base model and the last update are always evaluated."""
    resolution: Resolution | None = None
    """Size of the images of evaluations and samples in pixels: one number for squares, or `[height, width]`. Unset
    takes `model.resolution`."""
    num_steps: int = Field(default=20, ge=1)
    """Euler steps of the sampler in evaluations."""
    guidance_scale: float = Field(default=3.5, ge=0)
    """Guidance embedding of the transformer in evaluations."""
    rl_guidance: WeightText | None = None
    """Weight W of Reinforcement Learning Guidance (arXiv 2508.21016) in the evaluations of trained weights: they sample
    with the velocity base + W (tuned - base), as `srpo-ray sample --rl-guidance W`. `1,1.5@0.6` is 1 above a sigma of
    0.6, then 1.5. The row of the baseline, at update 0, has no contrast. Full fine-tuning needs an algorithm that keeps
    the base model's weights, or `contrast_with`. Unset evaluates the tuned model alone."""
    contrast_with: HomePath | None = Field(default=None, min_length=1)
    """Model that replaces the base model in `rl_guidance`: the folder of a finished run, a LoRA file, or a folder with
    one. Workers keep its weights as one more sharded copy of the trained ones. They must fit the parameters that the
    run trains: with `model.lora`, adapters of the same base model, of at most this rank and in layers that have
    adapters; in full fine-tuning, all weights of the same model, or adapters of it. Unset is the base model."""
    contrast_text: float = 1.0
    """Scale s of the prompt in the text of the base model, or of `contrast_with`, with `rl_guidance`: its features are
    `empty + s (prompt - empty)`. 1 is the prompt, 0 the empty prompt, and values below 0 point away from the prompt.
    Any number; models whose text features have a mask take 0 or 1."""
    batch_size: int = Field(default=32, ge=1)
    """Images per batch of one worker."""
    seed: int = 1234
    """Seed of the evaluation noise. Runs with equal seeds have paired images."""
    test: FinalTestConfig | None = None
    """Test prompts, which choose nothing, for an unbiased score of the chosen weights at the end of a run; unset makes
    no test."""
    choose: Literal["last", "best"] = "last"
    """Weights that stand for a finished run, in its test and in `srpo-ray sample`, `evaluate` and `export`. `last` are
    those of the last update; `best` are those of the evaluation with the best `objective`, whose checkpoint is kept. A
    run that reward-hacking detection stops keeps its best evaluation with either."""
    objective: Objective | None = None
    """Evaluation metric that `choose: best` maximizes; unset takes the first held-out model's score."""
    held_out: tuple[RewardModelConfig, ...] = ()
    """Held-out reward models of the evaluator, as proxies of human preference; the run must not train on them."""
    preprocessing: Literal["differentiable", "official"] = "differentiable"
    """Image preprocessing for reward models in evaluations. `differentiable` resizes as in training. `official` rounds
    to 8 bits and resizes as the model's release does with image files (PIL, or float tensors for `fit: pad`), for
    comparison with published scores."""
    relative: RelativeConfig | None = None
    """Words of the `.../relative` scores of all models; unset disables these scores."""
    hacking: HackingConfig = HackingConfig()
    cache: bool = True
    """Keep the base model's evaluation in `cache` in `run_root`, where all runs with the same base model, evaluator and
    reward models read it. Runs that need it at the same time sample its images together. With a `python` reward it is
    not kept: such scores may depend on more than files."""
    gallery_size: int = Field(default=8, ge=1)
    """Number of prompts in the before/after image grid."""

    @property
    def contrast(self) -> ContrastWeight | None:
        """Weight of the tuned model in its contrast with the base model; None if it samples alone."""
        weight = None if self.rl_guidance is None else ContrastWeight.read(str(self.rl_guidance))
        return None if weight == TUNED else weight

    @property
    def contrast_name(self) -> str:
        """Other model of the contrast, for people."""
        return f"`{Path(self.contrast_with).name}`" if self.contrast_with else "the base model"

    @property
    def calls(self) -> int:
        """Most transformer calls of an image: two in each step of a contrast, where weights of 0 and 1 need one."""
        return self.num_steps * (2 if self.contrast and not self.contrast.used <= {0.0, 1.0} else 1)

    @property
    def num_texts(self) -> int:
        """Largest number of texts of a query: the two of the `.../relative` scores, else the prompt alone."""
        return 2 if self.relative else 1

    @property
    def tested(self) -> "EvaluationConfig | None":
        """Evaluation on the test prompts: their settings in place of those of the validation; None without a test."""
        if self.test is None:
            return None
        resolution = self.resolution if self.test.resolution is None else self.test.resolution
        others = {"resolution": resolution, "test": None, "choose": "last", "objective": None}
        return self.model_copy(update={**dict(self.test), **others})

    @property
    def chosen_by(self) -> str | None:
        """Metric of the best evaluation with `choose: best`; None with `choose: last`."""
        if self.choose == "last":
            return None
        return self.objective or f"evaluator/{self.held_out[0].name}"

    def check_limit(self, metric: str) -> None:
        """Check that an evaluation can have a metric of `max_fall`, which may also be a trained reward.

        Raises:
            ValueError: As `check_score`; also for a metric of no known group.
        """
        check_limited(metric)
        check_truth("max_fall", metric)
        if metric.startswith("evaluator/"):
            self.check_score(metric, "max_fall")

    def check_score(self, objective: str, key: str = "objective") -> None:
        """Check that an evaluation can have a metric.

        Args:
            objective: The metric.
            key: Config key that names it, for the message.

        Raises:
            ValueError: If it is the score of a held-out model that there is not, or of words that are not set, the
                diversity of single images, or an unknown truth.
        """
        check_truth(key, objective)
        evaluator = [f"evaluator/{model.name}" for model in self.held_out]
        relative = objective.endswith("/relative")
        if objective == "image/diversity" and self.samples_per_prompt < 2:
            raise ValueError(
                f"{key}: expected evaluation.samples_per_prompt of 2 or more with {objective!r}, got"
                f" {self.samples_per_prompt}, and one image per prompt has no diversity; raise it or choose another"
                " metric"
            )
        if objective.startswith("evaluator/") and objective.removesuffix("/relative") not in evaluator:
            raise ValueError(
                f"{key}: expected a score of evaluation.held_out ({', '.join(evaluator) or 'none'}), got"
                f" {objective!r}; choose one of them or add the model"
            )
        if relative and not self.relative:
            raise ValueError(
                f"{key}: expected evaluation.relative with {objective!r}, got none, so there is no such score; set"
                " its words or remove `/relative`"
            )

    @model_validator(mode="after")
    def _check_contrast(self) -> Self:
        if self.contrast is not None and self.contrast.used != {1.0}:
            return self
        given = self.rl_guidance or "none"
        if self.contrast_text != 1:
            raise ValueError(
                f"expected rl_guidance other than 1 with contrast_text={self.contrast_text:g}, got {given}, so nothing"
                " would read that text; set rl_guidance, or remove contrast_text"
            )
        if self.contrast_with is not None:
            raise ValueError(
                f"expected rl_guidance other than 1 with contrast_with={self.contrast_with}, got {given}, so nothing"
                " would use that model; set rl_guidance, such as 2, or remove contrast_with"
            )
        return self

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if self.choose == "last" and self.objective:
            raise ValueError(
                f"expected no objective with choose: last, got {self.objective!r}, which would choose nothing; set"
                " choose to best or remove objective"
            )
        if self.choose == "best" and not self.objective and not self.held_out:
            raise ValueError(
                "expected a model in held_out or an objective with choose: best, got neither, so the best evaluation"
                " would be undefined; add a held-out model, or name a metric such as truth/content_accuracy"
            )
        if self.objective == VOTES:
            raise ValueError(
                "expected a metric of an evaluation as evaluation.objective, got votes, which choose in experiments"
                " only; choose one, such as evaluator/held_out"
            )
        if self.objective:
            self.check_score(self.objective)
        return self

    @model_validator(mode="after")
    def _check_best_is_known(self) -> Self:
        if self.hacking.action == "stop" and not self.held_out:
            raise ValueError(
                "expected a model in held_out with hacking.action stop, got none, so the best evaluation would be"
                " undefined; add a held-out model or set hacking.action to warn"
            )
        return self
