"""What a run is evaluated by."""

from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.rewards import RewardModelConfig


class RelativeConfig(Section):
    """Two words whose difference is scored: `<positive>. <prompt>` against `<negative>. <prompt>`."""

    positive: str = Field(min_length=1)
    """Word that a better image should fit better."""
    negative: str = Field(min_length=1)
    """Word that it should fit less."""

    @model_validator(mode="after")
    def _check_difference(self) -> Self:
        if self.positive.strip().casefold() == self.negative.strip().casefold():
            raise ValueError(
                f"expected two different words, got {self.positive!r} twice, whose difference is always 0;"
                " give opposites such as positive: detailed, negative: flat"
            )
        return self


class HackingConfig(Section):
    """Reward-hacking detection: thresholds of an evaluation, and the action at the first sign."""

    action: Literal["warn", "stop"] = "warn"
    """`stop` ends the run at the first sign of reward hacking and keeps the checkpoint of its best evaluation."""
    noise: float = Field(default=2.0, ge=0)
    """Standard errors of the paired difference over prompts that a rise must exceed, and that a fall would have to
    exceed in a single comparison. The threshold for falls grows with the number of evaluations and held-out models, so
    that a run in which nothing falls shows a sign of reward hacking as often as a single comparison would: 2 stands for
    2.3%, 3 for 0.13%; 0 counts every rise and fall."""
    margin: float = Field(default=0.1, ge=0)
    """Least fall of a held-out score, in standard deviations over the base model's images."""
    diversity_fall: float = Field(default=0.2, ge=0, le=1)
    """Share of the base model's `image/diversity` that may be lost, 0 to 1; 1 turns the check off."""
    content_fall: float = Field(default=0.02, ge=0, le=1)
    """Share of the base model's `truth/content_accuracy` that may be lost, 0 to 1; small world only."""
    style_fall: float = Field(default=0.5, ge=0, le=1)
    """Share of the base model's image saturation, contrast, brightness or high frequency that may be lost, 0 to
    1; a band of one standard deviation is wider than that where prompts differ much."""
    band: float = Field(default=1.0, gt=0)
    """Standard deviations over the base model's images by which the mean of an image statistic may move."""


class EvaluationConfig(Section):
    """Section `evaluation`: fixed prompts and noise, scored by models that are never trained on."""

    prompts: str = Field(default="small_world:test", min_length=1)
    """Prompt file, or `small_world:test`."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Use the first prompts only; unset takes all."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Images per prompt, each from a noise of its own; diversity needs two or more."""
    interval: int = Field(default=15, ge=1)
    """Updates between two evaluations; the first and the last update are always evaluated."""
    num_steps: int = Field(default=20, ge=1)
    """Euler steps of an evaluation sample."""
    guidance_scale: float = Field(default=3.5, ge=0)
    """Guidance embedding of the evaluation samples."""
    batch_size: int = Field(default=32, ge=1)
    """Images that one worker samples at once."""
    seed: int = 1234
    """Seed of the evaluation noise; the same for every run, so that images compare."""
    held_out: tuple[RewardModelConfig, ...] = ()
    """Reward models of the human-proxy evaluator; none of them may be trained on."""
    preprocessing: Literal["differentiable", "official"] = "differentiable"
    """Preparation of images for reward models in evaluations. `differentiable` resizes as training does. `official`
    rounds to 8 bits and resizes as the model's own release does with image files (PIL, or float tensors for `fit:
    pad`), for comparison with published scores."""
    relative: RelativeConfig | None = None
    """Words of the `.../relative` scores of all models; unset leaves those scores out."""
    hacking: HackingConfig = HackingConfig()
    gallery_size: int = Field(default=8, ge=1)
    """Prompts shown in the before/after image grid."""

    @model_validator(mode="after")
    def _check_best_is_known(self) -> Self:
        if self.hacking.action == "stop" and not self.held_out:
            raise ValueError(
                "expected a model in held_out with hacking.action stop, got none, so no evaluation could be called the"
                " best; add a held-out model or set hacking.action to warn"
            )
        return self
