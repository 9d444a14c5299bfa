"""Section `evaluation`: evaluation prompts, held-out reward models and reward-hacking detection."""

from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.rewards import RewardModelConfig


class RelativeConfig(Section):
    """Pair of words for difference scores: score of `<positive>. <prompt>` minus score of `<negative>. <prompt>`."""

    positive: str = Field(min_length=1)
    """Word that should match a better image more."""
    negative: str = Field(min_length=1)
    """Word that should match a better image less."""

    @model_validator(mode="after")
    def _check_difference(self) -> Self:
        if self.positive.strip().casefold() == self.negative.strip().casefold():
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


class EvaluationConfig(Section):
    """Section `evaluation`: images of fixed prompts and noise, scored by held-out models."""

    prompts: str = Field(default="small_world:validation", min_length=1)
    """File of the evaluation prompts, or `small_world:validation`."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Number of prompts to use, from the first; unset uses all."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Images per prompt, each from different noise; diversity needs two or more."""
    interval: int = Field(default=15, ge=1)
    """Updates between two evaluations. The base model and the last update are always evaluated."""
    num_steps: int = Field(default=20, ge=1)
    """Euler steps of the sampler in evaluations."""
    guidance_scale: float = Field(default=3.5, ge=0)
    """Guidance embedding of the transformer in evaluations."""
    batch_size: int = Field(default=32, ge=1)
    """Images per batch of one worker."""
    seed: int = 1234
    """Seed of the evaluation noise. Runs with equal seeds have paired images."""
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
    reward models read it. With a `python` reward it is not kept: such scores may depend on more than files."""
    gallery_size: int = Field(default=8, ge=1)
    """Number of prompts in the before/after image grid."""

    @model_validator(mode="after")
    def _check_best_is_known(self) -> Self:
        if self.hacking.action == "stop" and not self.held_out:
            raise ValueError(
                "expected a model in held_out with hacking.action stop, got none, so the best evaluation would be"
                " undefined; add a held-out model or set hacking.action to warn"
            )
        return self
