"""Memory and FLOPs of HPSv3, traced on the network without weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srpo_ray.config.rewards import HPSv3RewardConfig
from srpo_ray.files import read_json
from srpo_ray.planning.published import QWEN2_VL
from srpo_ray.planning.trace import Cost, trace_forward, trace_gradient
from srpo_ray.rewards.models.hpsv3 import IMAGE_SIZE, HPSv3Model, patches_of
from srpo_ray.rewards.models.image_encoder import DTYPES

TEXT_TOKENS = 640
"""Assumed tokens of a text beside those of the image. The instruction with its chat format has at least 504, the
pieces into which Qwen2's pre-tokenizer splits it; the rest is for the prompt and for words of several tokens."""


def hpsv3_network(config: HPSv3RewardConfig) -> HPSv3Model | None:
    """Build the network on the meta device. None if the config of the backbone is not known."""
    from transformers import Qwen2VLConfig

    file = Path(config.backbone) / "config.json"
    values = QWEN2_VL.get(config.backbone) or (read_json(file) if file.is_file() else None)
    if values is None:
        return None
    settings = Qwen2VLConfig(**values)
    with torch.device("meta"):
        model = HPSv3Model(settings, reward_token=0, dtype=DTYPES[config.dtype])
    return model.requires_grad_(False).eval()


def hpsv3_cost(
    model: HPSv3Model,
    images: int,
    texts: int,
    *,
    gradient: bool,
    gpu: bool,
    image_size: int = IMAGE_SIZE,
    text_tokens: int = TEXT_TOKENS,
) -> Cost:
    """Trace the cost of a call.

    Args:
        model: Network on the meta device.
        images: Images of the call.
        texts: Texts of each image's query; each costs a pass of the language model.
        gradient: True adds the gradient with respect to the images.
        gpu: True for the kernels of a GPU, false for those of a CPU.
        image_size: Side of the images.
        text_tokens: Tokens of a text beside those of the image.
    """
    pixels = torch.empty(images, 3, image_size, image_size, device="meta", requires_grad=gradient)
    measure = trace_gradient if gradient else trace_forward
    return measure(lambda: _mean(model, pixels, texts, text_tokens), [model], gpu=gpu)


def _mean(model: HPSv3Model, pixels: Tensor, texts: int, text_tokens: int) -> Tensor:
    # `HPSv3Model.forward` reads values of tensors: sizes of images, and the places of image and reward tokens. Tensors
    # of the meta device have none, so the shapes that follow from them are given here.
    vision, language = model.qwen.visual, model.qwen.language_model
    settings: Any = vision.config
    patches = patches_of(pixels, settings.patch_size, settings.temporal_patch_size, model.merge_size)
    ends = torch.arange(len(pixels) + 1) * (len(patches) // len(pixels))
    places = torch.empty(len(patches), 2, dtype=torch.long, device="meta")
    grid = torch.empty(len(pixels), 3, dtype=torch.long, device="meta")
    seen = vision(patches.to(vision.dtype), grid_thw=grid, position_ids=places, cu_seqlens=ends).pooler_output
    seen = seen.view(len(pixels), -1, seen.shape[-1]).repeat_interleave(texts, 0)
    rows, tokens, width = seen.shape
    words = torch.empty(rows, text_tokens, width, dtype=seen.dtype, device="meta")
    length = tokens + text_tokens
    # Texts of different lengths have padding, and therefore a mask.
    mask = torch.empty(rows, 1, length, length, dtype=torch.bool, device="meta")
    hidden = language(
        inputs_embeds=torch.cat([seen, words], 1), attention_mask={"full_attention": mask}, use_cache=False
    ).last_hidden_state
    return model.head(hidden[:, -1].float())[:, 0]
