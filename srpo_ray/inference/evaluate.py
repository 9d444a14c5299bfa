"""Evaluation of models on the same prompts and noise: a tuned one against the base model or another run's, or one."""

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.prompts import read_prompts
from srpo_ray.evaluation.paired import PairedEvaluation
from srpo_ray.evaluation.results import TRAINED_REWARD
from srpo_ray.inference.categories import category_scores
from srpo_ray.inference.draw import draw_all
from srpo_ray.inference.held_out import check_prompts, with_held_out
from srpo_ray.inference.job import (
    Model,
    Row,
    SamplingJob,
    SamplingOptions,
    check_at_least,
    check_same_model,
    guided_name,
    open_run,
    origin_of,
)
from srpo_ray.inference.source import check_text_of_other, check_tuned, open_contrast, sampling_config, weight_of
from srpo_ray.launch.control_words import check_rows, unread_words_note
from srpo_ray.models.contrast import BASE, TUNED, ContrastWeight, check_different
from srpo_ray.reports.evaluation import evaluation_report
from srpo_ray.reports.files import write_report
from srpo_ray.reports.grids import contact_sheets
from srpo_ray.reports.model_evaluation import model_report
from srpo_ray.reports.report import Report
from srpo_ray.runs.trained import TrainedRun
from srpo_ray.small_world.truth import check_truth_size

logger = logging.getLogger(__name__)

_ORDER = ("evaluator/", "reward/", "truth/", "image/")


def evaluate_run(
    run: TrainedRun,
    out: Path,
    *,
    options: SamplingOptions,
    prompts: str | None = None,
    num_prompts: int | None = None,
    rl_guidance: Sequence[ContrastWeight] = (),
    contrast_with: Path | None = None,
    contrast_text: float = 1.0,
    against: Path | None = None,
    held_out: str | None = None,
    command: str = "",
) -> tuple[Report, Path]:
    """Sample, score, compare and report. A repeated call resumes where the last one stopped.

    The base model of a config has nothing to be compared with. Its report has means.

    Args:
        run: The run, or the model of a config.
        out: Output folder; created if needed.
        options: Sampling options.
        prompts: Prompt file, or `small_world:` with `train`, `validation` or `test`; None uses the run's evaluation
            prompts.
        num_prompts: Number of prompts to use, from the first; None uses all, or with the run's prompts its number.
        rl_guidance: Further weights of Reinforcement Learning Guidance to sample with.
        contrast_with: Folder of another run or LoRA, whose tuned model replaces the base model in these guidances.
        contrast_text: Scale of the prompt in the text of the base model, or of that run, see `Contrast`.
        against: Folder of another run, whose tuned model replaces the base model.
        held_out: YAML file whose `evaluation.held_out` replaces that of the run; None keeps it.
        command: Command line of the user, for the report.

    Returns:
        Report, and the path of its page.

    Raises:
        ValueError: If an input cannot be used.
        RunFailedError: If sampling or scoring fails.
        CommandInterruptedError: If Ctrl-C stops it.
    """
    check_different("--rl-guidance", rl_guidance)
    check_at_least("--num-prompts", num_prompts, 1)
    sized = options.resolution is not None
    models = _models(run, against, rl_guidance, contrast_with, contrast_text, sized=sized)
    source, job = _scored_job(run, out, models, options, prompts, num_prompts, held_out)
    rows = draw_all(job, options.num_workers, options.address)
    return _write_report(job, _by_prompt(job, rows, source, command))


def _scored_job(
    run: TrainedRun,
    out: Path,
    models: tuple[Model, ...],
    options: SamplingOptions,
    prompts: str | None,
    num_prompts: int | None,
    held_out: str | None,
) -> tuple[str, SamplingJob]:
    """Build the job that samples and scores the models' images: the source of its prompts, and the job."""
    config = sampling_config(run, options)
    if held_out is not None:
        config = with_absolute_paths(with_held_out(config, held_out))
    source, texts = _read_rows(config, prompts, num_prompts)
    truth = source.startswith("small_world:")
    return source, SamplingJob.of_rows(config, models, texts, out.resolve(), scored=True, truth=truth)


def _by_prompt(job: SamplingJob, rows: Sequence[Row], source: str, command: str) -> PairedEvaluation:
    """Arrange the scores of all images by prompt."""
    evaluators = [f"evaluator/{model.name}" for model in job.config.evaluation.held_out]
    return PairedEvaluation(
        models=[model.name for model in job.models],
        prompts=job.prompts,
        conditioning=job.texts,
        scores=_scores(rows, job),
        objective=next(iter(evaluators), TRAINED_REWARD),
        settings=job.settings | {"prompts": source},
        created=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        command=command,
    )


def _write_report(job: SamplingJob, evaluation: PairedEvaluation) -> tuple[Report, Path]:
    """Write contact sheets and report: a comparison, or means of a single model."""
    sheets = contact_sheets(job.folder, evaluation, job.image)
    categories = category_scores(job, evaluation.scores)
    build = evaluation_report if len(job.models) > 1 else model_report
    report = build(evaluation, sheets, partial(_image_name, job), categories)
    return report, write_report(job.folder, report)


def _read_rows(config: RunConfig, prompts: str | None, num_prompts: int | None) -> tuple[str, PromptRows]:
    """Read and check the prompts: their source, and those that are evaluated."""
    source = prompts or config.evaluation.prompts
    check_truth_size("--resolution", source, config.model_at(config.evaluation).size)
    key = "--prompts" if prompts else "evaluation.prompts"
    count = num_prompts if num_prompts or prompts else config.evaluation.num_prompts
    rows = read_prompts(source, key).rows.first(count)
    if config.trained_words:
        check_rows(rows, config.trained_words, f"{key}: ", source)
    elif rows.has_words:
        logger.warning("%s", unread_words_note(rows, f"{key}: ", source))
    check_prompts(config, tuple(rows.prompts))
    return source, rows


def _image_name(job: SamplingJob, prompt: int, sample: int, model: str) -> str:
    """The file of an image, from the job's folder."""
    return job.image(prompt, sample, model).relative_to(job.folder).as_posix()


def _models(
    run: TrainedRun,
    against: Path | None,
    rl_guidance: Sequence[ContrastWeight],
    contrast_with: Path | None,
    contrast_text: float,
    *,
    sized: bool,
) -> tuple[Model, ...]:
    """List the models; the first is the reference of the others. `sized` is true if an option gives the size."""
    if rl_guidance:
        check_tuned("--rl-guidance", run)
    reference = Model("base", run, BASE)
    if against is not None:
        other = open_run(against)
        _check_against(run, other, sized=sized)
        reference = Model(other.folder.path.name, other, TUNED)
    other = open_contrast(run, contrast_with)
    if other is not None and not rl_guidance:
        raise ValueError(
            "--contrast-with: expected --rl-guidance with it, got none; give a weight, such as --rl-guidance 2, or"
            " leave --contrast-with out"
        )
    check_text_of_other(run, rl_guidance, contrast_text)
    guided = [
        Model(guided_name(weight, other, contrast_text), run, weight, other, contrast_text) for weight in rl_guidance
    ]
    models: dict[str, Model] = {}
    own = weight_of(run, None)
    for model in (reference, Model(guided_name(own), run, own), *guided):
        models.setdefault(model.name, model)
    return tuple(models.values())


def _scores(rows: Sequence[Row], job: SamplingJob) -> dict[str, dict[str, list[list[float]]]]:
    """Collect metric -> model -> `[prompts][samples]`, the scores of reward models first."""
    metrics = [name for name in rows[0] if name not in ("prompt", "sample", "model")]
    metrics = [name for prefix in _ORDER for name in metrics if name.startswith(prefix)]
    found = {(row["prompt"], row["sample"], row["model"]): row for row in rows}
    return {
        metric: {
            model.name: [
                [found[prompt, sample, model.name][metric] for sample in job.samples]
                for prompt in range(len(job.prompts))
            ]
            for model in job.models
        }
        for metric in metrics
    }


def _check_against(run: TrainedRun, other: TrainedRun, *, sized: bool) -> None:
    """Raise ValueError unless another run can be the reference: the same model and size, and a name of its own."""
    ours, theirs = (each.config.model_at(each.config.evaluation) for each in (run, other))
    if ours.size != theirs.size and not sized:
        raise ValueError(
            f"--against: expected a run that is evaluated with images of {ours.size} pixels, as {origin_of(run)}, got"
            f" {other.folder.path} with {theirs.size}; give one size to both with --resolution"
        )
    check_same_model("--against", run, other)
    if other.folder.path == run.folder.path or other.folder.path.name in ("base", "tuned"):
        raise ValueError(
            f"--against: expected the folder of another run, not named base or tuned, got {other.folder.path};"
            " choose another run, or rename the folder"
        )
