"""Random open_clip models of a few thousand weights, saved as real ones are."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

CONTEXT_LENGTH = 12


def save_tiny_clip(folder: Path, image_size: int, seed: int) -> Path:
    """Write `open_clip_config.json` and weights of a one-layer model into `folder`."""
    folder.mkdir(parents=True)
    model_config = {
        "embed_dim": 8,
        "vision_cfg": {
            "image_size": image_size,
            "layers": 1,
            "width": 16,
            "head_width": 8,
            "patch_size": image_size // 4,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    torch.manual_seed(seed)
    model = open_clip.CLIP(**model_config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    config = {"model_cfg": model_config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
