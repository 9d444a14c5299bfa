"""Memory and FLOPs of the reward models, built without weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srpo_ray.config.rewards import (
    HPSv3RewardConfig,
    OpenClipRewardConfig,
    RewardModelConfig,
    TransformersClipRewardConfig,
)
from srpo_ray.files import read_json
from srpo_ray.planning.cached import cached
from srpo_ray.planning.hpsv3_size import hpsv3_cost, hpsv3_network
from srpo_ray.planning.published import OPEN_CLIP, TRANSFORMERS_CLIP
from srpo_ray.planning.trace import Cost, trace_forward, trace_gradient
from srpo_ray.rewards.models.hpsv3 import IMAGE_SIZE
from srpo_ray.rewards.models.image_encoder import DTYPES, clip_image_features
from srpo_ray.rewards.models.open_clip import CONFIG_FILE, open_clip_source
from srpo_ray.rewards.models.transformers_clip import TransformersClip

ClipRewardConfig = OpenClipRewardConfig | TransformersClipRewardConfig

CACHED_TEXTS = 65_536
"""Size of a model's cache, in text features."""


@dataclass(frozen=True)
class RewardSize:
    """Memory and FLOPs of one reward model."""

    name: str
    image_size: int
    weights: int
    """Bytes of the parameters."""
    texts: int
    """Bytes of the full cache of text features; 0 for a model without one."""
    cost: Cost
    """Cost of one call with a micro-batch of the pool."""


def reward_sizes(
    configs: Sequence[RewardModelConfig], images: int, *, texts: int = 1, gradient: bool, gpu: bool
) -> tuple[list[RewardSize], list[str]]:
    """Compute the sizes of reward models.

    Args:
        configs: The models.
        images: Number of images in one call.
        texts: Number of texts of each image's query. It counts for HPSv3, which reads image and text together.
        gradient: True adds the cost of the gradient with respect to the images.
        gpu: True for the kernels of a GPU, false for those of a CPU.

    Returns:
        The sizes, and the names of the models whose architecture is not known.
    """
    sizes: list[RewardSize] = []
    unknown: list[str] = []
    for config in configs:
        # A user's class cannot be built without weights. Of the built-in models, CLIP models and HPSv3 are known here.
        if isinstance(config, ClipRewardConfig):
            size = _measure(config, images, gradient=gradient, gpu=gpu)
        elif isinstance(config, HPSv3RewardConfig):
            size = _measure_hpsv3(config, images, texts, gradient=gradient, gpu=gpu)
        else:
            size = None
        if size is None:
            unknown.append(config.name)
        else:
            sizes.append(size)
    return sizes, unknown


@cached
def _measure(config: ClipRewardConfig, batch_size: int, *, gradient: bool, gpu: bool) -> RewardSize | None:
    model: Any = _build(config)
    if model is None:
        return None
    size = model.visual.image_size
    side = size[0] if isinstance(size, Sequence) else size
    model.visual.to(DTYPES[config.dtype])
    images = torch.empty(batch_size, 3, side, side, device="meta", requires_grad=gradient)
    features: list[Tensor] = []

    def score() -> Tensor:
        features[:] = [clip_image_features(model, images)]
        return features[0].sum(-1)

    measure = trace_gradient if gradient else trace_forward
    cost = measure(score, [model], gpu=gpu)
    texts = CACHED_TEXTS * features[0].shape[1] * 4
    return RewardSize(config.name, side, _bytes(model), texts, cost)


@cached
def _measure_hpsv3(
    config: HPSv3RewardConfig, images: int, texts: int, *, gradient: bool, gpu: bool
) -> RewardSize | None:
    model = hpsv3_network(config)
    if model is None:
        return None
    cost = hpsv3_cost(model, images, texts, gradient=gradient, gpu=gpu)
    return RewardSize(config.name, IMAGE_SIZE, _bytes(model), 0, cost)


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _build(config: ClipRewardConfig) -> nn.Module | None:
    """Build a reward's model on the meta device. None if its config cannot be found."""
    if config.type == "open_clip":
        settings = _open_clip_settings(config)
        return None if settings is None else _frozen(lambda: _open_clip(settings))
    values = _transformers_settings(config)
    return None if values is None else _frozen(lambda: _transformers_clip(values))


def _frozen(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build().requires_grad_(False).eval()


def _open_clip_settings(config: OpenClipRewardConfig) -> dict[str, Any] | None:
    import open_clip

    architecture = config.architecture or OPEN_CLIP.get(config.path)
    if architecture:
        return open_clip.get_model_config(architecture)
    if config.path.startswith("hf-hub:"):
        file = _from_hub(config.path.removeprefix("hf-hub:"), CONFIG_FILE)
    else:
        file = Path(open_clip_source(config.name, config.path).removeprefix("local-dir:")) / CONFIG_FILE
    if file is None:
        return None
    settings = read_json(file)
    if not isinstance(settings, dict) or "model_cfg" not in settings:
        raise ValueError(f"expected a section model_cfg in {file}, got none; download the model again")
    return settings["model_cfg"]


def _open_clip(settings: dict[str, Any]) -> nn.Module:
    import open_clip

    settings = dict(settings)
    custom = settings.pop("custom_text", False) or "hf_model_name" in settings.get("text_cfg", {})
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**settings)


def _transformers_settings(config: TransformersClipRewardConfig) -> dict[str, Any] | None:
    if config.path in TRANSFORMERS_CLIP:
        return TRANSFORMERS_CLIP[config.path]
    local = Path(config.path) / "config.json"
    file = local if local.is_file() else _from_hub(config.path, "config.json")
    return read_json(file) if file else None


def _transformers_clip(values: dict[str, Any]) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    return TransformersClip(CLIPModel(CLIPConfig(**values)), (0.5,) * 3, (0.5,) * 3)


def _from_hub(repository: str, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(repository, name))
    except (HfHubHTTPError, HFValidationError, OSError):
        return None
