"""Images of reports: contact sheets of an evaluation, and strips of the images that a word raises and lowers most."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image as PILImage
from torch import Tensor

from srpo_ray.evaluation.captions import caption_of_row
from srpo_ray.evaluation.gallery import method_grid, read_images, save_png
from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.evaluation.paired import PairedEvaluation
from srpo_ray.flow import generator
from srpo_ray.reports.report import Image

if TYPE_CHECKING:
    from srpo_ray.words.probe import WordProbe

ImageFile = Callable[[int, int, str], Path]
"""(prompt, sample, model) -> the file of its image."""

Pair = tuple[float, int, int]
"""Change of the objective, or the objective of a single model; prompt, sample."""

_SHEET_PROMPTS = 12
_SHOWN_WORDS = 6
_IMAGES_PER_SIDE = 6
_THUMBNAIL, _GAP = 96, 4
"""Pixels."""


def contact_sheets(folder: Path, evaluation: PairedEvaluation, image_file: ImageFile) -> list[tuple[str, Image]]:
    """Write the contact sheets of an evaluation as PNG files, and return their titles and images.

    Args:
        folder: Where to write.
        evaluation: The results.
        image_file: Where the images are.

    Raises:
        ValueError: If an image cannot be read.
    """
    sheets = []
    for name, title, pairs in contact_pairs(evaluation):
        path = save_png(_contact_sheet(evaluation, pairs, image_file), folder / f"{name}.png")
        sheets.append((title, Image(path.read_bytes(), f"{title}: images by {', '.join(evaluation.models)}")))
    return sheets


def contact_pairs(evaluation: PairedEvaluation) -> Iterator[tuple[str, str, list[Pair]]]:
    """(file name, title, pairs) of each contact sheet; one pair, or one image of a single model, per prompt in a sheet.

    The random ones come first, since the others are the extremes of the objective and show no typical pair. A sheet
    without pairs is left out.
    """
    *_, model = evaluation.models[:2]
    alone = len(evaluation.models) == 1
    gaps = evaluation.ranked() if alone else evaluation.gaps(model)
    order = torch.randperm(len(evaluation.prompts), generator=generator(0, "contact sheet")).tolist()
    first = {prompt: (gap, prompt, sample) for gap, prompt, sample in gaps if sample == 0}
    sheets = {"random": ("Prompts chosen at random", [first[prompt] for prompt in order])}
    sheets |= _extremes(evaluation.objective, gaps, alone=alone)
    for name, (title, pairs) in sheets.items():
        by_prompt: dict[int, Pair] = {}
        for pair in pairs:
            by_prompt.setdefault(pair[1], pair)
        if by_prompt:
            yield name, title, list(by_prompt.values())[:_SHEET_PROMPTS]


def _extremes(objective: str, ranked: list[Pair], *, alone: bool) -> dict[str, tuple[str, list[Pair]]]:
    """Sheets of both ends of the objective, or of its changes; `ranked` has the highest first."""
    if alone:
        return {
            "highest": (f"Highest {objective}", ranked),
            "lowest": (f"Lowest {objective}", ranked[::-1]),
        }
    return {
        "most_improved": (f"Most improved by {objective}", [pair for pair in ranked if pair[0] > 0]),
        "most_worsened": (f"Most worsened by {objective}", [pair for pair in reversed(ranked) if pair[0] < 0]),
    }


def _contact_sheet(evaluation: PairedEvaluation, pairs: Sequence[Pair], image_file: ImageFile) -> PILImage.Image:
    """All models' images of some pairs, with the change of the objective, or that of one model, before the prompt."""
    written = signed if len(evaluation.models) > 1 else number
    columns = {
        model: read_images([image_file(prompt, sample, model) for _, prompt, sample in pairs])
        for model in evaluation.models
    }
    texts = evaluation.conditioning if evaluation.rewritten else evaluation.prompts
    captions = [
        f"{written(gap)}  {caption_of_row(evaluation.prompts[prompt], texts[prompt])}" for gap, prompt, _ in pairs
    ]
    return method_grid(columns, captions, abreast=max(1, 6 // len(evaluation.models)))


def word_strips(word_probe: "WordProbe") -> list[tuple[Image, Image]]:
    """Of each of the first words, the images whose score it raises least and most, in that order."""
    strips = []
    for word, differences in list(zip(word_probe.words, word_probe.differences, strict=True))[:_SHOWN_WORDS]:
        order = differences.argsort()
        count = min(_IMAGES_PER_SIDE, len(order) // 2)
        images = word_probe.probed.images
        lowest = Image(_strip(images[order[:count]]), f"Images that {word} lowers most")
        strips.append((lowest, Image(_strip(images[order[-count:]]), f"Images that {word} raises most")))
    return strips


def _strip(images: Tensor) -> bytes:
    """Images `[B, 3, H, W]` side by side as a PNG file; small ones are enlarged without blur."""
    pixels = (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    height = round(_THUMBNAIL * images.shape[2] / images.shape[3])
    enlarged = images.shape[3] <= _THUMBNAIL
    resampling = PILImage.Resampling.NEAREST if enlarged else PILImage.Resampling.LANCZOS
    page = PILImage.new("RGBA", (len(pixels) * (_THUMBNAIL + _GAP) - _GAP, height))
    for index, array in enumerate(pixels):
        image = PILImage.fromarray(array).resize((_THUMBNAIL, height), resampling)
        page.paste(image, (index * (_THUMBNAIL + _GAP), 0))
    file = io.BytesIO()
    page.save(file, format="PNG", optimize=True)
    return file.getvalue()
