"""Rewards of the CLIP family: cosine similarity between an image and a weighted sum of texts.

CLIPScore, HPSv2.1 and the small world's rewards are this model with different weights. An image that is not square is
resized by its short side and centre-cropped, as in SRPO's released code, or padded, as in HPSv2.1's.
"""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from srpo_ray.config.rewards import CommonTextSection, Fit, OpenClipRewardConfig
from srpo_ray.imports import large_imports
from srpo_ray.rewards.common_text import CommonText, read_common_prompts
from srpo_ray.rewards.image_features import ImageFeatures
from srpo_ray.rewards.models.checkpoint_file import find_checkpoint, load_strictly, read_state_dict
from srpo_ray.rewards.models.image_encoder import DTYPES, clip_image_features
from srpo_ray.rewards.models.pretrained import check_tokenizer
from srpo_ray.rewards.preprocess import normalize
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.reading import Reading
from srpo_ray.rewards.text_features import TextFeatures
from srpo_ray.rewards.text_limit import TextLimit

CONFIG_FILE = "open_clip_config.json"


class ClipModel(Protocol):
    """Interface of `open_clip.CLIP` and `open_clip.CustomTextCLIP` that a reward uses."""

    visual: Any
    logit_scale: Tensor

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor: ...
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor: ...


class OpenClipReward:
    """`score = scale * f_img . (sum_i w_i C_i)` with unit image feature `f_img` and unit text features `C_i`.

    Args:
        name: Unique name of the reward.
        model: An open_clip model; it is frozen and put in evaluation mode here.
        tokenizer: Maps texts to token ids `[N, context_length]`; truncates and pads as needed.
        context_length: Maximum number of tokens that the model reads; longer texts are truncated, with one warning.
        scale: Factor between the cosine and the published score.
        fit: Resize to a square.
        antialias: Low-pass filter when tensors are downscaled.
        text_cache_size: Maximum number of cached text features.

    Raises:
        ValueError: If the model does not take square images.

    Source: CLIPScore arXiv:2104.08718; HPSv2 arXiv:2306.09341; the sum over texts from SRPO arXiv:2509.06942.
    """

    image_gradient = True

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        tokenizer: Callable[..., Tensor],
        context_length: int,
        scale: float = 1.0,
        fit: Fit = "crop",
        antialias: bool = True,
        text_cache_size: int = 65_536,
    ) -> None:
        self.name = name
        self.fit: Fit = fit
        self.antialias = antialias
        self.scale = scale
        self.model = cast(ClipModel, model.eval().requires_grad_(False))
        visual = self.model.visual
        sides = visual.image_size if isinstance(visual.image_size, Sequence) else (visual.image_size,) * 2
        if sides[0] != sides[1]:
            raise ValueError(f"reward {name!r}: expected a model for square images, received one for {sides}")
        self.image_size = int(sides[0])
        self._mean, self._std = visual.image_mean, visual.image_std
        self._tokenizer = tokenizer
        self._limit = TextLimit(name, context_length)
        self._common: CommonText | None = None
        self._text_features = TextFeatures(self._encode_texts, text_cache_size)
        self._image_features = ImageFeatures(self._encode_images)

    def reduce_common(self, prompts: Sequence[str], weight: float) -> None:
        """Reduce the direction that prompts have in common in the features of all texts; call before any score.

        Args:
            prompts: Texts whose mean feature has that direction.
            weight: Share of the direction that text features keep, in [0, 1].

        Source: LongAlign, arXiv 2410.11817.
        """
        batches = [list(prompts[start : start + 256]) for start in range(0, len(prompts), 256)]
        self._common = CommonText.of(torch.cat([self._encode_texts(batch) for batch in batches]), weight)

    @classmethod
    def load(cls, config: OpenClipRewardConfig, device: str = "cpu") -> "OpenClipReward":
        """Load the model of a config from a local folder, the Hugging Face hub, a checkpoint file or the small world.

        Raises:
            ValueError: If the folder, its config or its weights are missing, cannot be read or do not match.
        """
        if config.architecture:
            return cls._load_file(config, config.architecture, device)
        source = open_clip_source(config.name, config.path)
        with large_imports():
            import open_clip  # takes seconds; neither a wrong path nor a pool of Python rewards needs it

        folder = source.removeprefix("local-dir:").removeprefix("hf-hub:")
        with Reading(config.name, "a readable open_clip model", folder, "check `path`"):
            # Without `require_pretrained`, open_clip would replace missing weights by random ones.
            model = open_clip.create_model(source, require_pretrained=True).float()
            tokenizer = open_clip.get_tokenizer(source)
            text_config = (open_clip.get_model_config(source) or {}).get("text_cfg", {})
        if isinstance(tokenizer, open_clip.tokenizer.HFTokenizer):
            num_tokens = int(text_config.get("vocab_size", len(tokenizer.tokenizer)))
            check_tokenizer(config.name, folder, tokenizer.tokenizer, num_tokens, "download it again")
        context_length = int(text_config.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
        return cls._of(config, model, tokenizer, context_length, device)

    @classmethod
    def _load_file(cls, config: OpenClipRewardConfig, architecture: str, device: str) -> "OpenClipReward":
        with large_imports():
            import open_clip

        if architecture not in open_clip.list_models():
            close = difflib.get_close_matches(architecture, open_clip.list_models(), n=3)
            cure = f"did you mean {' or '.join(close)}?" if close else "see open_clip.list_models()"
            raise ValueError(
                f"reward {config.name!r}: expected an architecture of open_clip, received {architecture!r}; {cure}"
            )
        state = read_state_dict(config.name, find_checkpoint(config.name, config.path), config.sha256)
        model = open_clip.create_model(architecture, pretrained=None)
        load_strictly(config.name, model, state)
        text_config = (open_clip.get_model_config(architecture) or {}).get("text_cfg", {})
        context_length = int(text_config.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
        tokenizer = open_clip.get_tokenizer(architecture)
        return cls._of(config, model, tokenizer, context_length, device)

    @classmethod
    def _of(
        cls, config: OpenClipRewardConfig, model: Any, tokenizer: Any, context_length: int, device: str
    ) -> "OpenClipReward":
        model.visual.to(DTYPES[config.dtype])
        loaded = model.to(device)
        reward = cls(config.name, loaded, tokenizer, context_length, config.scale, config.fit, config.antialias)
        return with_common_text(reward, config.common)

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """See `Reward.score`; the result has the type of `images`, so that tests can check a float64 model."""
        image_features = self._image_features.of(images)
        features = self._text_features.lookup(text for query in queries for text in query.texts)
        directions = torch.stack([_weighted_sum(query, features) for query in queries])
        return self.scale * (image_features * directions).sum(-1).to(images.dtype)

    def _encode_images(self, images: Tensor) -> Tensor:
        """Unit image features `[B, D]`."""
        weight = self.model.logit_scale
        pixels = normalize(images.to(weight.device, weight.dtype), self._mean, self._std)
        return clip_image_features(self.model, pixels)

    def _encode_texts(self, texts: list[str]) -> Tensor:
        """Unit text features `[N, D]`, after the reduction of the common direction."""
        tokens = self._tokenizer(texts)
        self._warn_if_cut(texts, tokens)
        with torch.no_grad():
            features = self.model.encode_text(tokens.to(self.model.logit_scale.device), normalize=True)
        return features if self._common is None else self._common.reduce(features)

    def _warn_if_cut(self, texts: list[str], tokens: Tensor) -> None:
        if self._limit.said:
            return
        # Tokenized with one more position, a truncated text differs in its last token or has a token at the new one.
        length = self._limit.num_tokens
        roomy = self._tokenizer([*texts, ""], context_length=length + 1)
        padding = roomy[-1, -1]
        cut = (roomy[:-1, :length] != tokens).any(dim=1) | (roomy[:-1, length] != padding)
        if cut.any():
            self._limit.say(texts[int(cut.nonzero()[0])])


def with_common_text(reward: OpenClipReward, common: CommonTextSection | None) -> OpenClipReward:
    """Reduce the common text direction of a reward as its config says, and return the reward.

    Raises:
        ValueError: If the prompts cannot be read.
    """
    if common:
        reward.reduce_common(read_common_prompts(reward.name, common.prompts), common.weight)
    return reward


def _weighted_sum(query: TextQuery, features: dict[str, Tensor]) -> Tensor:
    return torch.stack([weight * features[text] for weight, text in query.terms]).sum(0)


def open_clip_source(name: str, path: str) -> str:
    """Return the name by which open_clip finds a model: `hf-hub:ORG/NAME`, or `local-dir:FOLDER` of a checked folder.

    Raises:
        ValueError: If the folder does not exist or contains no open_clip config.
    """
    if path.startswith("hf-hub:"):
        return path
    if path.startswith("small_world:"):
        from srpo_ray.small_world.weights import reward_dir  # other runs do not import the small world

        folder = Path(reward_dir(path.removeprefix("small_world:")))
    else:
        folder = Path(path.removeprefix("local-dir:"))
    if not (folder / CONFIG_FILE).is_file():
        received = f"a folder without {CONFIG_FILE}" if folder.is_dir() else "no folder"
        raise ValueError(
            f"reward {name!r}: expected an open_clip model ({CONFIG_FILE} and weights) in {folder.absolute()}, "
            f"received {received}; set `path` to such a folder, to hf-hub:ORG/NAME or to small_world:NAME"
        )
    return f"local-dir:{folder}"
