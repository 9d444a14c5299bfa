"""Description of a sampling job, as plain values for every worker."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srpo_ray.config import RunConfig
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.algorithms.control_words import OwnWords
from srpo_ray.config.algorithms.selection import Selection, check_vote
from srpo_ray.config.load import apply
from srpo_ray.config.size import ImageSize
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.inference.work import Place
from srpo_ray.inference.work import Row as Row
from srpo_ray.models.contrast import BASE, TUNED, ContrastWeight
from srpo_ray.models.distilled import check_scales
from srpo_ray.models.families import family_of
from srpo_ray.models.sizes import check_sizes, stored_config
from srpo_ray.runs.inputs import reward_hashes
from srpo_ray.runs.trained import TrainedRun, read_trained

WEIGHTS = "weights"
"""Key of the trained weights' hash in the description of a model."""
_SHOWN_DIGITS = 16


@dataclass(frozen=True)
class Model:
    """Model of a sampling job; all models sample from the same noise."""

    name: str
    """Name, unique in the job; part of file names."""
    run: TrainedRun
    rl_guidance: ContrastWeight
    """Weight of the tuned model in `Contrast`: 0 is the other model, 1 the tuned one."""
    other: TrainedRun | None = None
    """Run whose tuned model is the other model of the contrast; None is the run's own base model."""
    contrast_text: float = 1.0
    """Scale of the prompt in the other model's text, see `Contrast`."""

    @property
    def weights(self) -> str | None:
        """SHA-256 of the trained weights of the run that the model uses; None if it uses none."""
        return self.run.identity if self.rl_guidance != BASE else None


@dataclass(frozen=True)
class SamplingJob:
    """Sampling job: all prompts x samples x models. A row has `prompt` and `sample` (indices from 0), and `model`."""

    config: RunConfig
    """Config of the first model's run; section `evaluation` has the sampling settings."""
    models: tuple[Model, ...]
    prompts: tuple[str, ...]
    folder: Path
    """Output folder; on a cluster, every node must have access to it."""
    scored: bool = False
    """True if the images are scored."""
    truth: bool = False
    """True if the prompts are of the small world, where the truth can be measured."""
    conditioning: tuple[str, ...] = ()
    """Texts that condition the models, one for each prompt; empty if they are the prompts."""
    own_words: tuple[OwnWords, ...] = ()
    """Control words of the prompts' own, one for each prompt; empty if no prompt has any."""

    @classmethod
    def of_rows(
        cls, config: RunConfig, models: tuple[Model, ...], rows: PromptRows, folder: Path, *, scored: bool, truth: bool
    ) -> "SamplingJob":
        """Describe a job over rows of prompt files; arguments as for the fields."""
        return cls(
            config,
            models,
            tuple(rows.prompts),
            folder,
            scored,
            truth,
            tuple(rows.conditioning) if rows.rewritten else (),
            tuple(rows.words) if rows.has_words and scored and config.trained_words else (),
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts that condition the models, one for each prompt."""
        return self.conditioning or self.prompts

    @property
    def empty_texts(self) -> list[str]:
        """The empty prompt if guidance or a contrast reads it; otherwise no text."""
        contrasted = any(model.contrast_text != 1 for model in self.models)
        return family_of(self.config.model.path).empty_texts(contrasted=contrasted)

    @property
    def samples(self) -> range:
        """Indices of the images of a prompt."""
        return range(self.config.evaluation.samples_per_prompt)

    @property
    def chunks(self) -> list[list[int]]:
        """Divide the prompt indices into chunks whose samples fill a batch, at least one prompt each.

        A worker processes whole chunks, so batches, and with them rounding, do not depend on the number of workers.
        """
        size = max(1, self.config.evaluation.batch_size // len(self.samples))
        count = len(self.prompts)
        return [list(range(start, min(start + size, count))) for start in range(0, count, size)]

    def image(self, prompt: int, sample: int, model: str) -> Path:
        """Return the path of an image."""
        return self.folder / "images" / f"{prompt:05d}_{sample}_{model}.png"

    def places(self, chunk: Sequence[int]) -> list[Place]:
        """List the images of a chunk by prompt, sample and model."""
        return [(prompt, sample, model.name) for prompt in chunk for sample in self.samples for model in self.models]

    def place_of(self, row: Row) -> Place:
        """Return the image of a row."""
        return row["prompt"], row["sample"], row["model"]

    def has_image(self, place: Place) -> bool:
        """Test whether the file of an image is there."""
        prompt, sample, model = place
        return self.image(int(prompt), int(sample), str(model)).exists()

    @property
    def settings(self) -> dict[str, Any]:
        """Return the models and options for a report."""
        evaluation = self.config.evaluation
        return {
            "models": {
                model.name: {
                    **_origin(model.run),
                    "rl_guidance": model.rl_guidance.plain,
                    **({"contrast_with": str(model.other.folder.path)} if model.other else {}),
                    **_contrast_text(model),
                    WEIGHTS: (model.weights or "base model")[:_SHOWN_DIGITS],
                }
                for model in self.models
            },
            "samples_per_prompt": evaluation.samples_per_prompt,
            "seed": evaluation.seed,
            "resolution": self.config.model_at(evaluation).size.resolution,
            "steps": evaluation.num_steps,
            "guidance_scale": evaluation.guidance_scale,
            "rewards": [reward.name for reward in self.rewards] if self.scored else [],
            "truth": self.truth,
        }

    @property
    def description(self) -> dict[str, Any]:
        """Describe everything that images and scores depend on, as JSON values; the description identifies the job.

        Weights and files are identified by hashes of their content, so a run may move. A run that was trained again
        under the same name is a different run.

        Raises:
            ValueError: If a file of a reward model cannot be read.
        """
        config = self.config
        return {
            **self.settings,
            "models": {model.name: _description(model) for model in self.models},
            "model": dict(self.models[0].run.model),
            "shift": config.rollout.shift,
            "scoring": self._scoring if self.scored else {},
            "inputs": reward_hashes(config) if self.scored else {},
            "prompts": list(self.prompts),
            **({"conditioning": list(self.conditioning)} if self.conditioning else {}),
            **({"own words": [[own.positive, own.negative] for own in self.own_words]} if self.own_words else {}),
        }

    @property
    def _scoring(self) -> dict[str, Any]:
        """Return the settings of the scores, besides the files of the reward models."""
        evaluation, words = self.config.evaluation, self.config.trained_words
        return {
            "models": [reward.model_dump(mode="json") for reward in self.rewards],
            "factors": self.config.rewards.factors,
            "preprocessing": evaluation.preprocessing,
            "relative": evaluation.relative.model_dump(mode="json") if evaluation.relative else None,
            "trained_words": words.model_dump(mode="json") if words else None,
        }

    @property
    def rewards(self) -> list[Any]:
        """Configs of the reward models: the trained ones, then the held-out ones."""
        return [*self.config.rewards.models, *self.config.evaluation.held_out]


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling options; None uses the value of the run's section `evaluation`."""

    samples_per_prompt: int | None = None
    resolution: int | tuple[int, int] | None = None
    """Size of the images in pixels: one number for squares, or height and width."""
    num_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    """Number of sampling processes; None uses one per GPU, or one without GPUs."""
    address: str | None = None
    """Address of the Ray cluster."""

    def __post_init__(self) -> None:
        for option, least in (("samples_per_prompt", 1), ("num_steps", 1), ("batch_size", 1), ("num_workers", 1)):
            check_at_least(f"--{option.replace('num_steps', 'steps').replace('_', '-')}", getattr(self, option), least)
        check_at_least("--guidance-scale", self.guidance_scale, 0)

    def over(self, config: RunConfig) -> RunConfig:
        """Apply the options to the section `evaluation` of a run's config.

        Raises:
            ValueError: If the run's model is distilled and the options ask for classifier-free guidance, or it cannot
                draw images of that size.
        """
        path = config.model.path
        check_scales(path, {"--guidance-scale": self.guidance_scale})
        if self.resolution is not None:
            check_sizes(path, {"--resolution": ImageSize.of(self.resolution)}, stored_config(path))
        asked: Mapping[str, Any] = {
            "samples_per_prompt": self.samples_per_prompt,
            "resolution": self.resolution,
            "num_steps": self.num_steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }
        changes = {f"evaluation.{name}": value for name, value in asked.items() if value is not None}
        return apply(config, changes)


def open_run(run_dir: Path) -> TrainedRun:
    """Call `read_trained`, and make the paths absolute for processes in other working folders."""
    run = read_trained(run_dir.resolve())
    return replace(run, config=with_absolute_paths(run.config))


def _origin(run: TrainedRun) -> dict[str, Any]:
    """Origin of a model, for a report."""
    if not run.from_config:
        return {"run": str(run.folder.path), "update": run.update}
    lora = run.config.model.lora
    return {"model": run.config.model.path, **({"lora": lora.start_from} if lora and lora.start_from else {})}


def _description(model: Model) -> dict[str, Any]:
    section = model.run.config.model
    described = section.model_dump(mode="json", include={"dtype", "truncate_sigma", "max_sequence_length"})
    trained = {"lora": section.lora.identity if section.lora else None, WEIGHTS: model.weights}
    quantized = {"base": section.base} if section.base else {}
    merged = {"model": dict(model.run.model)} if section.lora and section.lora.merged else {}
    other = {"contrast_with": _description(Model("", model.other, TUNED))} if model.other else {}
    weight = {"rl_guidance": model.rl_guidance.plain}
    return described | quantized | merged | weight | (trained if model.weights else {}) | other | _contrast_text(model)


def _contrast_text(model: Model) -> dict[str, float]:
    return {} if model.contrast_text == 1 else {"contrast_text": model.contrast_text}


def guided_name(weight: ContrastWeight, other: TrainedRun | None = None, text: float = 1.0) -> str:
    """Name a run's model at a guidance weight: `base`, `tuned`, `rl_guidance_1.5`; `contrast_1.5` with another run.

    `contrast_1.5_text_0` reads another text with the other model.
    """
    if text != 1:
        return f"{'contrast' if other else 'rl_guidance'}_{weight.label}_text_{text:g}"
    if other is not None:
        return f"contrast_{weight.label}"
    return {BASE: "base", TUNED: "tuned"}.get(weight, f"rl_guidance_{weight.label}")


def origin_of(run: TrainedRun) -> str:
    """Name the place of a model in messages: the folder of its run, or its config."""
    return "the config" if run.from_config else str(run.folder.path)


def check_at_least(option: str, value: float | None, least: float) -> None:
    """Raise ValueError for an option below its minimum, or not a number; None passes."""
    if value is not None and not (math.isfinite(value) and value >= least):
        raise ValueError(f"{option}: expected a number of at least {least:g}, got {value:g}; raise it")


def check_selection(selection: Selection, min_gap: float, temperature: float | None) -> None:
    """Check the options of `rank` that choose pairs.

    Raises:
        ValueError: If a number is out of its range, or votes have differences of sums.
    """
    check_at_least("--min-gap", min_gap, 0)
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"--temperature: expected a number above 0, got {temperature:g}; raise it, or leave it out")
    check_vote(selection, {"--min-gap": min_gap, "--temperature": temperature}, "--select")


def check_same_model(option: str, run: TrainedRun, other: TrainedRun) -> None:
    """Raise ValueError unless two runs tuned the same model, so that noise and text features are common."""
    ours, theirs = run.config.model, other.config.model
    for key in ("path", "max_sequence_length"):
        if getattr(ours, key) != getattr(theirs, key):
            raise ValueError(
                f"{option}: expected a run of the same model, got {other.folder.path} with model.{key}"
                f" {getattr(theirs, key)!r} where {origin_of(run)} has {getattr(ours, key)!r}; choose runs with"
                " equal values"
            )
