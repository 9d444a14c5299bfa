"""Checks that the settings of a run suit the family of its model, before anything is loaded."""

from srpo_ray.config import RunConfig
from srpo_ray.config.model import ModelConfig
from srpo_ray.models.families import Family

_WITHOUT_MASKS = ("flash", "flash_3")
"""Attention kernels of diffusers that take no mask."""


def check_family(config: RunConfig, family: Family) -> None:
    """Check that a model family supports the settings of a run.

    Args:
        config: The run.
        family: Family of its model.

    Raises:
        ValueError: If it has no first-block cache and the run sets one, its workers cannot share tokens and the run
            shares them, its attention is built in or has a mask and the run chooses a kernel that does not suit it,
            its calls differ in length and the run compiles them, its texts cannot be scaled and the run scales them,
            or its autoencoder lacks an option that the run sets.
    """
    threshold, workers = config.rollout.cache_threshold, config.training.context_parallel
    if threshold is not None and not family.block_cache:
        raise ValueError(
            f"rollout.cache_threshold: expected none with a {family.pipeline}, whose blocks cannot be cached, got"
            f" {threshold:g}; remove it"
        )
    if workers > 1 and not family.context_parallel:
        raise ValueError(
            f"training.context_parallel: expected 1 with a {family.pipeline}, whose workers cannot share the tokens of"
            f" an image, got {workers}; remove it"
        )
    if config.model.attention != "native" and not family.attention_kernels:
        raise ValueError(
            f"model.attention: expected native with a {family.pipeline}, whose transformer has torch's attention built"
            f" in, got {config.model.attention}; remove it"
        )
    if family.masked_text and config.model.attention in _WITHOUT_MASKS:
        raise ValueError(
            f"model.attention: expected native or cudnn with a {family.pipeline}, whose attention masks tokens of"
            f" texts, got {config.model.attention}, which takes no mask; choose one of the two"
        )
    if config.model.compile and not family.equal_lengths:
        raise ValueError(
            f"model.compile: expected false with a {family.pipeline}, whose calls are as long as each prompt, so that"
            " each length would be compiled, got true; remove it"
        )
    check_contrast_text("evaluation.contrast_text", config.evaluation.contrast_text, family)
    _check_autoencoder(config.model, family)


def check_contrast_text(key: str, scale: float, family: Family) -> None:
    """Check that the text features of a family can be scaled for the other model of a contrast.

    Args:
        key: Config key or option of the scale, for the message.
        scale: Scale of the prompt, see `Contrast.text`.
        family: The family.

    Raises:
        ValueError: If the scale is neither 0 nor 1, and the texts of the family differ in their number of tokens.
    """
    if scale not in (0, 1) and family.masked_text:
        raise ValueError(
            f"{key}: expected 0 or 1 with a {family.pipeline}, whose texts differ in their number of tokens, so that"
            f" those of the prompt and the empty one do not match, got {scale:g}; set 0 for the empty prompt"
        )


def _check_autoencoder(model: ModelConfig, family: Family) -> None:
    options = {"vae_checkpointing": model.vae_checkpointing, "vae_channels_last": model.vae_channels_last}
    for key in (key for key, is_set in options.items() if is_set and family.video_vae):
        raise ValueError(
            f"model.{key}: expected false with a {family.pipeline}, whose {family.vae} is an autoencoder of videos and"
            " has no such option, got true; remove it"
        )
