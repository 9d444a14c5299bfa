"""CLIP models in the format of transformers, such as PickScore, adapted to the open_clip reward."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from srpo_ray.config.rewards import TransformersClipRewardConfig
from srpo_ray.rewards.models.image_encoder import DTYPES, ClipImageEncoder
from srpo_ray.rewards.models.open_clip import OpenClipReward, with_common_text
from srpo_ray.rewards.models.pretrained import (
    CLIP_STATISTICS,
    image_statistics,
    load_pretrained,
    load_tokenizer,
    pooled,
)


class TransformersClip(nn.Module):
    """Adapter that gives a `transformers.CLIPModel` the interface of an open_clip model."""

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Wrap a model.

        Args:
            model: A `transformers.CLIPModel`.
            mean: Channel means of its training images.
            std: Channel standard deviations of its training images.
        """
        super().__init__()
        self.model = model
        # Any, as torch annotates attributes of modules as tensors or modules.
        self.visual: Any = ClipImageEncoder(model)
        self.visual.image_size = model.config.vision_config.image_size
        self.visual.image_mean, self.visual.image_std = mean, std

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the factor between cosine and logit."""
        return self.model.logit_scale

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Compute image features `[B, D]`."""
        features = pooled(self.model.get_image_features(pixel_values=image))
        return unit(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Compute text features `[N, D]`; attention is causal, so padding after the end token has no effect."""
        features = pooled(self.model.get_text_features(input_ids=text))
        return unit(features, dim=-1) if normalize else features


class ClipTokenizer:
    """Adapter that gives a tokenizer of transformers the interface of an open_clip one."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        """Wrap a tokenizer; texts are padded and truncated to `context_length` tokens."""
        self.tokenizer = tokenizer
        self.context_length = context_length

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Compute token ids `[N, context_length]`."""
        length = context_length or self.context_length
        encoded = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return encoded["input_ids"]


def load_transformers_clip(config: TransformersClipRewardConfig, device: str = "cpu") -> OpenClipReward:
    """Load a CLIP reward from a folder or the hub; without an image processor, use CLIP's channel statistics.

    Raises:
        ValueError: If model or tokenizer are missing, cannot be read or have another architecture.
    """
    from transformers import CLIPModel, CLIPTokenizer

    model = load_pretrained(config.name, config.path, {"clip": CLIPModel}, "CLIP")
    text = model.config.text_config
    tokenizer = load_tokenizer(config.name, config.tokenizer or config.path, CLIPTokenizer, text.vocab_size)
    factor = float(model.logit_scale.detach().exp()) if config.logit_scale else 1.0
    length = int(text.max_position_embeddings)
    statistics = image_statistics(config.name, config.path, CLIP_STATISTICS)
    wrapped = TransformersClip(model, *statistics)
    wrapped.visual.to(DTYPES[config.dtype])
    wrapped.to(device)
    reward = OpenClipReward(config.name, wrapped, ClipTokenizer(tokenizer, length), length, config.scale * factor)
    return with_common_text(reward, config.common)
