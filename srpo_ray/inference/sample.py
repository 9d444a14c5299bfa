"""Images of a finished run for a person's own prompts."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from srpo_ray.errors import StudyInterruptedError
from srpo_ray.evaluation.gallery import image_grid, read_images, save_png
from srpo_ray.inference.draw import draw_all
from srpo_ray.inference.job import Model, SamplingJob, SamplingOptions, check_weights, guided_name, open_run
from srpo_ray.models.guidance import TUNED

FEW = 16
"""Most images of a single grid."""
_SHEET = 48
"""Most images of a contact sheet."""


def sample_run(
    run_dir: Path,
    prompts: Sequence[str],
    out: Path | None = None,
    *,
    options: SamplingOptions,
    rl_guidance: float = TUNED,
) -> Path:
    """Draw images with a run's newest checkpoint, or the best one where reward-hacking detection stopped the run.

    The average of the weights is used where the run kept one. The same seed and prompt position give the same noise
    for every run.

    Args:
        run_dir: Folder of the run.
        prompts: What to draw.
        out: A PNG file for a grid of all images with their prompts; or a folder for single images and contact
            sheets, in which the same command goes on where it stopped. None takes `RUN/samples.png` for few images
            and `RUN/samples` for many.
        options: How to sample; one image per prompt unless it says otherwise.
        rl_guidance: Weight of Reinforcement Learning Guidance: 0 is the base model, 1 the tuned one.

    Returns:
        The grid, or the folder.

    Raises:
        ValueError: If there is no run with a whole checkpoint in the folder, or another input cannot be used.
        RunFailedError: If it could not go on.
        StudyInterruptedError: If it was stopped by Ctrl-C.
    """
    check_weights([rl_guidance])
    run = open_run(run_dir)
    options = replace(options, samples_per_prompt=options.samples_per_prompt or 1)
    config, model = options.over(run.config), Model(guided_name(rl_guidance), run, rl_guidance)
    count = len(prompts) * config.evaluation.samples_per_prompt
    out = out or run_dir / ("samples.png" if count <= FEW else "samples")
    job = SamplingJob(config, (model,), tuple(prompts), out.resolve())
    if out.suffix.lower() != ".png":
        draw_all(job, options.num_workers, options.address)
        _write_sheets(job)
        return out
    if count > FEW:
        raise ValueError(f"--out: expected a folder for {count} images, got {out}; a grid takes {FEW} at most")
    job = replace(job, folder=_folder_beside(job.folder))
    try:
        draw_all(job, options.num_workers, options.address)
        return _write_grid(job, range(len(prompts)), out, config.model.resolution)
    except StudyInterruptedError:
        raise StudyInterruptedError(f"stopped before {out} was written") from None
    finally:
        shutil.rmtree(job.folder)


def _folder_beside(out: Path) -> Path:
    """A new folder for the images of a grid: beside it, because on a cluster every node has to see it."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".samples_", dir=out.parent))
    except OSError as error:
        raise ValueError(f"--out: expected a file that can be written, got {out} ({error}); name another") from error


def _write_sheets(job: SamplingJob) -> None:
    prompts = max(1, _SHEET // len(job.samples))
    for sheet, start in enumerate(range(0, len(job.prompts), prompts), 1):
        end = min(start + prompts, len(job.prompts))
        _write_grid(job, range(start, end), job.folder / f"contact_sheet_{sheet:03d}.png", width=256)


def _write_grid(job: SamplingJob, prompts: range, path: Path, width: int) -> Path:
    """All samples of some prompts, a prompt's side by side."""
    places = [(prompt, sample) for prompt in prompts for sample in job.samples]
    images = read_images([job.image(prompt, sample, job.models[0].name) for prompt, sample in places], width)
    captions = [job.prompts[prompt] for prompt, _ in places]
    columns = len(job.samples) if len(job.samples) > 1 else min(4, len(places))
    return save_png(image_grid(images, captions, columns, max(1.0, 192 / images.shape[-1])), path)
