"""Ballots from folders: of a run, of an experiment, or of `srpo-ray evaluate`, which has more images of a run."""

import csv
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from srpo_ray.config import RunConfig, load_run
from srpo_ray.data.prompt_formats import CONDITIONING
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.prompts import read_prompts
from srpo_ray.data.texts import Texts
from srpo_ray.decode_image import decode_image
from srpo_ray.evaluation.gallery import to_images
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.inputs import require_same_inputs, text_hashes
from srpo_ray.votes.ballot import BASE, TUNED, Ballot, Item, Shown, digest_of

_FIXED_COLUMNS = ("prompt_index", "prompt", "sample", "model", "image")
"""Columns of an evaluation's `rows.csv` that are no metric."""


def open_ballot(folder: Path, runs: Sequence[str] = ()) -> Ballot:
    """Read what a folder has to vote on.

    Args:
        folder: Folder of a run (base against tuned), of an experiment (its finished runs against each other and the
            base model) or of `srpo-ray evaluate` (its models).
        runs: Names of the systems to vote on beside the base model; empty takes all.

    Raises:
        ValueError: If the folder is none of these, a name is unknown, or there are no two images to compare.
    """
    folder = folder.resolve()
    if (folder / "experiment.yaml").is_file():
        ballot = _of_experiment(folder, runs)
    elif (folder / "rows.csv").is_file():
        ballot = _of_evaluation(folder, runs)
    elif (folder / "config.yaml").is_file():
        if runs:
            raise ValueError(
                f"--runs: expected no names for the folder of a run, got {', '.join(runs)}; its base and tuned"
                " model are compared: remove --runs, or name the folder of an experiment"
            )
        ballot = _of_runs(folder, {TUNED: RunFolder(folder)}, ())
    else:
        raise ValueError(
            f"expected the folder of a run, of an experiment or of `srpo-ray evaluate`, got {folder}; name the folder"
            " that the command printed when it ended"
        )
    ballot.check()
    return ballot


def _of_experiment(folder: Path, names: Sequence[str]) -> Ballot:
    """Ballot of named runs of an experiment, or of all that have finished."""
    runs = {path.name: RunFolder(path) for path in sorted((folder / "trials").glob("*")) if path.is_dir()}
    _check_known(names, list(runs), folder)
    if names:
        return _of_runs(folder, {name: run for name, run in runs.items() if name in names}, ())
    finished = {name: run for name, run in runs.items() if run.finished.exists()}
    left_out = [name for name in runs if name not in finished]
    notes = [f"left out because they have not finished: {', '.join(left_out)}"] if left_out else []
    return _of_runs(folder, finished, notes)


def _check_known(names: Sequence[str], known: Sequence[str], folder: Path) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"--runs: expected names of runs in {folder} ({', '.join(known) or 'none'}), got {', '.join(unknown)};"
            " correct them"
        )


def _of_runs(folder: Path, runs: dict[str, RunFolder], notes: Sequence[str]) -> Ballot:
    """Ballot of runs that were evaluated on the same prompts and noise, or on several sets of them."""
    items: dict[str, Item] = {}
    images: dict[tuple[str, str], Shown] = {}
    scores: dict[str, dict[tuple[str, str], float]] = {}
    bases: dict[str, str] = {}
    for name, run in runs.items():
        if not run.tuned_images.exists() or not run.base_images.exists():
            continue
        config = load_run([run.config])
        weights = _base_of(config)
        base = bases.setdefault(weights, BASE if not bases else f"{BASE} ({weights})")
        found = _items(config, run)
        items |= {item.key: item for item in found.values()}
        for system, file in ((base, run.base_images), (name, run.tuned_images)):
            for index, image in _shown(file).items():
                # Runs that share an item share the base model's image of it.
                images.setdefault((system, found[index].key), image)
        for system, row in zip((base, name), _score_rows(run), strict=True):
            _add_scores(scores, system, row, found, run.scores)
    if not images:
        raise ValueError(
            f"expected images of evaluations in {folder}, got none; a run writes them into images/ when it is evaluated"
        )
    systems = [*bases.values(), *(name for name in runs if any(system == name for system, _ in images))]
    return Ballot(folder, folder.name, systems, items, images, scores, notes)


def _items(config: RunConfig, run: RunFolder) -> dict[int, Item]:
    """Prompt index -> item, for the prompts that a run keeps images of."""
    evaluation = config.evaluation
    rows = read_prompts(evaluation.prompts, "evaluation.prompts").rows.first(evaluation.num_prompts)
    prompts = rows.prompts
    _check_prompts(config, run, rows)
    model = config.model_at(evaluation)
    noise = (config.model.path, model.size.resolution, evaluation.seed, evaluation.num_steps)
    sampler = (config.rollout.shift, model.truncate_sigma, model.max_sequence_length)
    found: dict[int, Item] = {}
    for index in _indices(run.tuned_images):
        if index >= len(prompts):
            raise ValueError(
                f"evaluation.prompts: expected at least {index + 1} prompts, as {run.tuned_images} has images of them,"
                f" got {len(prompts)}; restore the prompts that {run.path} was evaluated on"
            )
        own = [rows.conditioning[index]] if rows.conditioning[index] != prompts[index] else []
        parts = (*noise, evaluation.guidance_scale, index, prompts[index], *own)
        found[index] = Item(_digest((*parts, sampler)), index, prompts[index], former=_digest(parts))
    return found


def _digest(parts: tuple[Any, ...]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _base_of(config: RunConfig) -> str:
    """Place of the weights that a run starts from: a LoRA to start from, or else the model's."""
    return (config.model.lora and config.model.lora.start_from) or config.model.path


def _check_prompts(config: RunConfig, run: RunFolder, rows: PromptRows) -> None:
    """Refuse prompts that are not those that the images were drawn from."""
    key, none = "evaluation.prompts", PromptRows.plain([])
    hashes = text_hashes(config, Texts(None, none, rows, none, [], []))
    require_same_inputs(run.inputs, {key: hashes[key]}, "evaluate the run again with the prompts of now")


def _indices(file: Path) -> list[int]:
    try:
        with safe_open(file, "pt") as tensors:
            return sorted(int(key) for key in tensors.keys())  # noqa: SIM118 # no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(
            f"expected images of an evaluation in {file}, got a damaged file ({error}); evaluate the run again"
        ) from error


def _shown(file: Path) -> dict[int, Shown]:
    """Prompt index -> image, read once for its digest and again each time that it is shown."""
    loaders = {index: partial(_load, file, f"{index:06d}") for index in _indices(file)}
    return {index: Shown(digest_of(load()), load) for index, load in loaders.items()}


def _load(file: Path, key: str) -> Image.Image:
    with safe_open(file, "pt") as tensors:
        return to_images(tensors.get_tensor(key)[None])[0]


def _score_rows(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of the base model and of the tuned model in the evaluation whose images the run keeps, its last one."""
    rows = [row for row in read_rows(run.scores) if "scores" in row]
    first = rows[0] if rows and rows[0].get("update") == 0 else {}
    return first, rows[-1] if rows else {}


def _add_scores(
    scores: dict[str, dict[tuple[str, str], float]],
    system: str,
    row: dict[str, Any],
    items: dict[int, Item],
    file: Path,
) -> None:
    """Add the scores of a prompt's first image, which is the one that the run keeps."""
    for metric, values in row.get("scores", {}).items():
        for index, item in items.items():
            if index < len(values):
                if not isinstance(values[index], int | float):
                    raise ValueError(
                        f"expected numbers as scores of {metric} in {file}, got {values[index]!r}; restore the file, or"
                        " evaluate the run again"
                    )
                scores.setdefault(metric, {}).setdefault((system, item.key), float(values[index]))


def _of_evaluation(folder: Path, names: Sequence[str]) -> Ballot:
    """Ballot of all images of `srpo-ray evaluate`, by the rows of its `rows.csv`."""
    file = folder / "rows.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or any(column not in rows[0] for column in _FIXED_COLUMNS):
        raise ValueError(
            f"expected the columns {', '.join(_FIXED_COLUMNS)} and a row per image in {file}, got another table; write"
            " it again with `srpo-ray evaluate`"
        )
    for line, row in enumerate(rows, 2):
        if any(row[column] is None for column in _FIXED_COLUMNS):
            raise ValueError(
                f"expected the cells {', '.join(_FIXED_COLUMNS)} in every row of {file}, got fewer in line {line}; the"
                " file was cut off: write it again with `srpo-ray evaluate`"
            )
    known = list(dict.fromkeys(row["model"] for row in rows))
    _check_known(names, known, folder)
    systems = [system for system in known if not names or system in (BASE, *names)]
    items: dict[str, Item] = {}
    images: dict[tuple[str, str], Shown] = {}
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for number, row in enumerate((row for row in rows if row["model"] in systems), 2):
        item = Item(f"{row['prompt_index']}-{row['sample']}", int(row["prompt_index"]), _text(row["prompt"]))
        items[item.key] = item
        load = partial(_read, folder / row["image"])
        images[row["model"], item.key] = Shown(digest_of(load()), load)
        for metric in [name for name in row if name not in (*_FIXED_COLUMNS, CONDITIONING) and row[name]]:
            scores.setdefault(metric, {})[row["model"], item.key] = _number(row[metric], metric, file, number)
    return Ballot(folder, folder.name, systems, items, images, scores)


def _text(cell: str) -> str:
    """A text as it was before the CSV writer put an apostrophe before what a spreadsheet takes for a formula."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in ("=", "+", "-", "@", "\t", "\n") else cell


def _number(text: str, metric: str, file: Path, line: int) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"expected a number for {metric} in row {line} of {file}, got {text!r}; write the file again"
        ) from error


def _read(path: Path) -> Image.Image:
    try:
        return decode_image(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a readable image, got {path} ({error}); draw it again") from error
