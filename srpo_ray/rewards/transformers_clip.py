"""CLIP models in the format of transformers, such as PickScore: the same reward as open_clip's, from other files."""

from types import SimpleNamespace
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from srpo_ray.config.reward import TransformersClipRewardConfig
from srpo_ray.rewards.open_clip_reward import OpenClipReward

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class TransformersClip(nn.Module):
    """A `transformers.CLIPModel` with the calls of an open_clip model."""

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Wrap a model.

        Args:
            model: A `transformers.CLIPModel`.
            mean: Channel means of its training pictures.
            std: Their deviations.
        """
        super().__init__()
        self.model = model
        side = model.config.vision_config.image_size
        self.visual = SimpleNamespace(image_size=side, image_mean=mean, image_std=std)

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the factor between cosine and logit."""
        return self.model.logit_scale

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Image features `[B, D]`."""
        features = _tensor(self.model.get_image_features(pixel_values=image))
        return unit(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Text features `[N, D]`; attention is causal, so what pads a text after its end changes nothing."""
        features = _tensor(self.model.get_text_features(input_ids=text))
        return unit(features, dim=-1) if normalize else features


def _tensor(output: Any) -> Tensor:
    """The projected features: transformers 5 returns them inside an output object, older versions bare."""
    return output if isinstance(output, Tensor) else output.pooler_output


class ClipTokenizer:
    """A tokenizer of transformers with the call of an open_clip one."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        """Wrap a tokenizer that pads and cuts to `context_length` tokens."""
        self.tokenizer = tokenizer
        self.context_length = context_length

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Token ids `[N, context_length]`."""
        length = context_length or self.context_length
        encoded = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return encoded["input_ids"]


def load_transformers_clip(config: TransformersClipRewardConfig, device: str = "cpu") -> OpenClipReward:
    """Load a CLIP reward from a folder or the hub; without a picture processor CLIP's own mean and deviation are taken.

    Raises:
        ValueError: If model or tokenizer are missing, cannot be read or are of another architecture.
    """
    from transformers import AutoConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    where = f"reward {config.name!r}"
    try:
        kind = AutoConfig.from_pretrained(config.path).model_type
        if kind != "clip":
            raise ValueError(
                f"{where}: expected a CLIP model at {config.path!r}, received one of type {kind!r}; choose another"
            )
        # transformers annotates the one return type only.
        loaded: Any = CLIPModel.from_pretrained(config.path, output_loading_info=True)
        model, found = loaded
        tokenizer = CLIPTokenizer.from_pretrained(config.tokenizer or config.path)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{where}: expected a readable CLIP model of transformers at {config.path!r}, received"
            f" {type(error).__name__}: {str(error)[:300]}; check `path` and `tokenizer`, or save the model again"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(
            f"{where}: expected all weights of a CLIP model at {config.path!r}, received a checkpoint without"
            f" {len(missing)} of them ({', '.join(missing[:3])}); download it again"
        )
    try:
        processor = CLIPImageProcessor.from_pretrained(config.path)
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    except OSError:
        mean, std = OPENAI_MEAN, OPENAI_STD
    factor = float(model.logit_scale.detach().exp()) if config.logit_scale else 1.0
    length = int(model.config.text_config.max_position_embeddings)
    wrapped = TransformersClip(model.to(device), mean, std)
    return OpenClipReward(config.name, wrapped, ClipTokenizer(tokenizer, length), length, config.scale * factor)
