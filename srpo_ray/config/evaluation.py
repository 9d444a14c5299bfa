"""What a run is judged by."""

from pydantic import Field

from srpo_ray.config.base import Section
from srpo_ray.config.reward import RewardModelConfig


class EvaluationConfig(Section):
    """Section `evaluation`: fixed prompts and noise, scored by models that are never trained on."""

    prompts: str = Field(default="small_world:test", min_length=1)
    """Prompt file, or `small_world:test`."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Use the first prompts only; unset takes all."""
    samples_per_prompt: int = Field(default=2, ge=1)
    """Pictures per prompt, each from a noise of its own."""
    interval: int = Field(default=15, ge=1)
    """Updates between two evaluations; the first and the last update are always evaluated."""
    num_steps: int = Field(default=20, ge=1)
    """Euler steps of an evaluation sample."""
    guidance_scale: float = Field(default=3.5, ge=0)
    """Guidance embedding of the evaluation samples."""
    batch_size: int = Field(default=32, ge=1)
    """Pictures that one worker samples at once."""
    seed: int = 1234
    """Seed of the evaluation noise; the same for every run, so that pictures compare."""
    held_out: tuple[RewardModelConfig, ...] = ()
    """Reward models of the human-proxy panel; none of them may be trained on."""
    gallery_size: int = Field(default=8, ge=1)
    """Prompts shown in the before/after picture grid."""
