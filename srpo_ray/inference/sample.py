"""Sampling of images for given prompts, with a trained run or with the model of a config."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.errors import CommandInterruptedError
from srpo_ray.evaluation.captions import caption_of_row
from srpo_ray.evaluation.gallery import image_grid, read_images, save_png
from srpo_ray.inference.draw import draw_all
from srpo_ray.inference.job import Model, SamplingJob, SamplingOptions, guided_name
from srpo_ray.inference.source import check_text_of_other, open_contrast, sampling_config, weight_of
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.runs.trained import TrainedRun

FEW = 16
"""Maximum number of images of a single grid."""
_SHEET = 48
"""Maximum number of images of a contact sheet."""


def sample_run(
    run: TrainedRun,
    prompts: Sequence[str] | PromptRows,
    out: Path | None = None,
    *,
    options: SamplingOptions,
    rl_guidance: ContrastWeight | None = None,
    contrast_with: Path | None = None,
    contrast_text: float = 1.0,
) -> Path:
    """Sample images with the weights that stand for a run, see `evaluation.choose`, or with the model of a config.

    The weights are the EMA if the run kept one. The noise depends only on the seed and the prompt's position, so it is
    the same for every run.

    Args:
        run: The run, or the model of a config.
        prompts: Prompts to sample, or rows whose conditioning the model reads in their place.
        out: PNG file for a grid of all images with their prompts; or a folder for single images and contact sheets, in
            which a repeated command resumes. None uses `samples.png` for few images and `samples` for many, in the
            folder of `run`.
        options: Sampling options; one image per prompt by default.
        rl_guidance: Weight of Reinforcement Learning Guidance: 0 is the base model, 1 the tuned one. None samples with
            the tuned model, if there is one.
        contrast_with: Folder of another run or LoRA, whose tuned model replaces the base model in the guidance.
        contrast_text: Scale of the prompt in the text of the base model, or of that run, see `Contrast`.

    Returns:
        Path of the grid, or of the folder.

    Raises:
        ValueError: If an input cannot be used.
        RunFailedError: If sampling fails.
        CommandInterruptedError: If Ctrl-C stops it.
    """
    weight = weight_of(run, rl_guidance)
    check_text_of_other(run, [rl_guidance] if rl_guidance else [], contrast_text)
    other = open_contrast(run, contrast_with)
    model = Model(guided_name(weight, other, contrast_text), run, weight, other, contrast_text)
    options = replace(options, samples_per_prompt=options.samples_per_prompt or 1)
    config = sampling_config(run, options)
    rows = prompts if isinstance(prompts, PromptRows) else PromptRows.plain(prompts)
    count = len(rows) * config.evaluation.samples_per_prompt
    out = out or run.folder.path / ("samples.png" if count <= FEW else "samples")
    job = SamplingJob.of_rows(config, (model,), rows, out.resolve(), scored=False, truth=False)
    if out.suffix.lower() != ".png":
        draw_all(job, options.num_workers, options.address)
        _write_sheets(job)
        return out
    if count > FEW:
        raise ValueError(f"--out: expected a folder for {count} images, got {out}; a grid has at most {FEW}")
    job = replace(job, folder=_folder_beside(job.folder))
    try:
        draw_all(job, options.num_workers, options.address)
        return _write_grid(job, range(len(rows)), out, config.model_at(config.evaluation).size.width)
    except CommandInterruptedError:
        raise CommandInterruptedError(f"stopped before {out} was written") from None
    finally:
        shutil.rmtree(job.folder)


def _folder_beside(out: Path) -> Path:
    """Create a folder for the images of a grid, beside the grid, because on a cluster every node needs access."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".samples_", dir=out.parent))
    except OSError as error:
        raise ValueError(f"--out: expected a writable file, got {out} ({error}); choose another") from error


def _write_sheets(job: SamplingJob) -> None:
    prompts = max(1, _SHEET // len(job.samples))
    for sheet, start in enumerate(range(0, len(job.prompts), prompts), 1):
        end = min(start + prompts, len(job.prompts))
        _write_grid(job, range(start, end), job.folder / f"contact_sheet_{sheet:03d}.png", width=256)


def _write_grid(job: SamplingJob, prompts: range, path: Path, width: int) -> Path:
    """Write a grid of all samples of some prompts, those of a prompt side by side."""
    places = [(prompt, sample) for prompt in prompts for sample in job.samples]
    images = read_images([job.image(prompt, sample, job.models[0].name) for prompt, sample in places], width)
    captions = [caption_of_row(job.prompts[prompt], job.texts[prompt]) for prompt, _ in places]
    columns = len(job.samples) if len(job.samples) > 1 else min(4, len(places))
    return save_png(image_grid(images, captions, columns, max(1.0, 192 / images.shape[-1])), path)
