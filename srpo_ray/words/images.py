"""Images of a word probe: rendered, from a folder, or generated; with captions and attributes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from srpo_ray.config import RunConfig
from srpo_ray.data.images import list_images, to_tensor
from srpo_ray.data.prompts import read_prompts
from srpo_ray.evaluation.evaluator import Evaluator
from srpo_ray.evaluation.image_statistics import image_statistics
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.text_encoders import encode_prompts
from srpo_ray.models.trainable import load_base, make_policy, model_dtype
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.preprocess import frame

FEWEST = 8
"""Minimum number of images; correlations over fewer are meaningless."""
NO_CAPTION = "a picture"
"""Caption of an image without a caption."""


@dataclass(frozen=True)
class ProbeImages:
    """N images of equal size."""

    images: Tensor
    """`[N, 3, H, W]` in [0, 1], on the CPU."""
    captions: list[str]
    attributes: dict[str, Tensor]
    """Name -> `[N]`: `truth/...` if the truth is known, and always `image/...` (pixel statistics)."""
    source: str
    """Description of the source, for the report."""

    @property
    def axes(self) -> list[str]:
        """Attributes that serve as axes of words: the truth if it is known, else the image statistics."""
        truths = [name for name in self.attributes if name.startswith("truth/")]
        return truths or list(self.attributes)


def rendered(count: int, seed: int = 94) -> ProbeImages:
    """Render images of the small world: contents that no reward was trained on, independent uniform styles.

    Args:
        count: Number of images, at least `FEWEST`.
        seed: Seed of contents, positions and styles.
    """
    import numpy as np

    from srpo_ray.small_world.prompts import AXES, UNNAMED, held_out_contents
    from srpo_ray.small_world.renderer import render
    from srpo_ray.small_world.scenes import captions, sample_scenes

    _require_enough(count, "rendered images", "ask for more")
    rng = np.random.default_rng(seed)
    scenes = sample_scenes(count, seed, contents=held_out_contents())
    styles = {axis: rng.random(count).astype(np.float32) for axis in (*AXES, *UNNAMED)}
    scenes = replace(scenes, word=np.full(count, -1), **styles)
    images, texts = torch.from_numpy(render(scenes)), captions(scenes)
    return ProbeImages(images, texts, measured(images, texts, truth=True), f"{count} rendered images")


def from_folder(folder: Path, size: int) -> ProbeImages:
    """Read images and captions like `data.images`; images without a caption get `NO_CAPTION`.

    Args:
        folder: Folder of the images, searched recursively: image files, tar files or tables.
        size: Side in pixels to which images are reduced and cropped, as for the reward.

    Raises:
        ValueError: If the folder does not exist, has too few images, or has a file that cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"--images: expected a folder of images, got {folder}, which is not a folder; check the path")
    found = list_images(str(folder), "--images")
    left_out = f" (left out: {found.left_out})" if found.left_out else ""
    _require_enough(len(found.captions), f"images of {folder}{left_out}", "add images")

    def framed(image: Image.Image) -> Tensor:
        return frame(to_tensor(image)[None], InputSpec(size)).clamp(0, 1)

    images = torch.cat(found.decode(range(len(found.captions)), framed))
    captions = [caption or NO_CAPTION for caption in found.captions]
    source = f"{len(captions)} images of {folder}{left_out}"
    return ProbeImages(images, captions, measured(images, captions, truth=False), source)


def generated(
    config: RunConfig, count: int, device: str = "cpu", weights: Mapping[str, Tensor] | None = None
) -> ProbeImages:
    """Sample images like the evaluator: the evaluation prompts in turn, with the evaluation's noise and steps.

    Args:
        config: Run config with the model and the evaluation prompts.
        count: Number of images, at least `FEWEST`.
        device: Device of the model.
        weights: Transformer weights of a checkpoint; None uses the base model's.

    Raises:
        ValueError: If there are too few images, or the model or the prompts cannot be read.
    """
    _require_enough(count, "generated images", "ask for more")
    rows = read_prompts(config.evaluation.prompts, "evaluation.prompts").rows.first(config.evaluation.num_prompts)
    prompts = rows.prompts
    dtype = model_dtype(config)
    transformer = load_base(config, dtype, device, quantized=False).eval()
    if weights is not None:
        transformer.load_state_dict(weights)
    policy = make_policy(config, transformer, transformer.config, device)
    path = resolve_path(config.model.path)
    # The last text is for classifier-free guidance.
    conditioning = encode_prompts(path, [*rows.conditioning, ""], config.model.max_sequence_length, dtype, device)
    policy.empty_prompt = conditioning[-1:]
    model = config.model_at(config.evaluation)
    evaluator = Evaluator(
        config.evaluation,
        prompts,
        conditioning[:-1],
        size=model.size,
        sigmas=sigma_grid(model)(config.evaluation.num_steps, config.rollout.shift),
        truth=False,
    )
    batches = torch.arange(count).split(config.evaluation.batch_size)
    bar = tqdm(batches, desc="generating", unit="batch", disable=None, leave=False)
    images = torch.cat([evaluator.sample(policy, items.tolist()).cpu() for items in bar])
    captions = [prompts[item % len(prompts)] for item in range(count)]
    truth = config.evaluation.prompts.startswith("small_world:")
    source = f"{count} images generated by {config.model.path}"
    return ProbeImages(images, captions, measured(images, captions, truth=truth), source)


def measured(images: Tensor, captions: list[str], *, truth: bool) -> dict[str, Tensor]:
    """Measure the attributes of images; `truth` is True for images and captions of the small world."""
    statistics = {f"image/{name}": values for name, values in image_statistics(images).items()}
    if not truth:
        return statistics
    from srpo_ray.small_world.prompts import AXES, UNNAMED
    from srpo_ray.small_world.truth import measure

    truths = measure(images, captions)
    return {f"truth/{axis}": truths[axis] for axis in (*AXES, *UNNAMED)} | statistics


def _require_enough(count: int, what: str, cure: str) -> None:
    if count < FEWEST:
        raise ValueError(
            f"expected at least {FEWEST} {what}, got {count}; correlations over fewer are meaningless, {cure}"
        )
