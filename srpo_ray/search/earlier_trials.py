"""Warm start of a search: finished trials of earlier experiments, as observed trials or as settings to try first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srpo_ray.config import ConfigError, ExperimentConfig, RunConfig, apply, load_run
from srpo_ray.config.arm import Arm
from srpo_ray.config.conditions import allowed_values, conditions_first
from srpo_ray.config.experiment_parts import TEST
from srpo_ray.config.load import get_path
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.numbers import param_text
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.files import read_json, write_text
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.inputs import Inputs, changed_inputs, read_inputs
from srpo_ray.search.proposals import Observation, in_space
from srpo_ray.search.searchers import observe
from srpo_ray.search.selection import read_row
from srpo_ray.search.space import absolute_changes, absolute_space
from srpo_ray.tracking.runs import flatten

_UNUSED_KEYS = ("name", "run_root", "tracking.", "rewards.pool.", "rewards.in_process", "evaluation.cache")
_UNUSED_TRAINING_KEYS = (
    *("num_workers", "num_cpus", "num_gpus", "resources", "resize_interval_s", "num_threads", "peak_tflops"),
    *("profile_updates", "max_failures", "checkpoint_interval", "checkpoints_kept", "checkpoint_storage"),
)
"""Keys that change no result of a trial, except by rounding."""
_SHOWN = 3


@dataclass
class EarlierTrials:
    """Trials of earlier experiments, as the search of one arm uses them."""

    known: list[Observation] = field(default_factory=list)
    """Trials with the settings of this search: their results count as its own."""
    first: list[dict[str, Any]] = field(default_factory=list)
    """Values to try first, the best of their own experiments first."""
    notes: list[str] = field(default_factory=list)
    """One sentence per earlier experiment: what was used, what not, and the reasons."""

    @property
    def used(self) -> bool:
        """True if any trial is of use."""
        return bool(self.known or self.first)


@dataclass(frozen=True)
class _Search:
    """The search of an arm, to compare earlier trials with."""

    config: ExperimentConfig
    base: RunConfig
    fixed: Mapping[str, Any]
    space: Mapping[str, SearchDimension]
    inputs: Inputs


def read_earlier_trials(config: ExperimentConfig, base: RunConfig, inputs: Inputs) -> dict[str, EarlierTrials]:
    """Read the trials of `search.points_from` for every arm with a space.

    Args:
        config: The experiment.
        base: Config that its runs start from, with absolute paths.
        inputs: Hashes of the files that its runs read.

    Raises:
        ValueError: If a folder is not of an experiment, or no trial is of use for any arm.
    """
    folders = [Path(text) for text in config.search.points_from]
    for folder in folders:
        if not (folder / "experiment.yaml").is_file() or not (folder / "trials").is_dir():
            raise ValueError(
                "search.points_from: expected the folder of an earlier experiment, with experiment.yaml and trials, got"
                f" {folder}; it is the folder that the sweep or comparison printed when it began"
            )
        if folder.resolve() == (Path(base.run_root) / config.name).resolve():
            raise ValueError(
                f"search.points_from: expected another experiment, got the folder of this one, {folder}; a resumed"
                " experiment remembers its own trials: remove it from points_from"
            )
    found = {arm.name: _for_arm(config, base, arm, folders, inputs) for arm in config.arms if arm.space}
    if folders and not any(each.used for each in found.values()):
        notes = " ".join(note for each in found.values() for note in each.notes)
        raise ValueError(
            f"search.points_from: expected an earlier trial whose values lie in the space of this search, got none."
            f" {notes} Give experiments with such trials, or remove points_from"
        )
    return found


def _for_arm(
    config: ExperimentConfig, base: RunConfig, arm: Arm, folders: Sequence[Path], inputs: Inputs
) -> EarlierTrials:
    changes = config.changes(arm)
    fixed = absolute_changes(base, config.trial_settings(changes))
    search = _Search(config, base, fixed, absolute_space(arm.space, base, changes), inputs)
    found, first = EarlierTrials(), list[tuple[float, dict[str, Any]]]()
    for folder in folders:
        first += _add_experiment(found, search, arm.name, folder)
    most = max(1, config.search.num_samples // 2)
    ordered = [values for _, values in sorted(first, key=lambda each: each[0], reverse=True)]
    found.first = [values for index, values in enumerate(ordered) if values not in ordered[:index]][:most]
    if left := len(ordered) - len(found.first):
        found.notes.append(
            f"{arm.name}: {left} of the settings to try first are left out: they are repeated, or more than half of"
            " num_samples."
        )
    return found


def _add_experiment(
    found: EarlierTrials, search: _Search, arm: str, folder: Path
) -> list[tuple[float, dict[str, Any]]]:
    """Add the observed trials of one experiment and its note; return the settings to try, each with its rank."""
    first, reasons = list[tuple[float, dict[str, Any]]](), dict[str, list[str]]()
    before = read_inputs(folder / "inputs.json")
    # No trial reads the test prompts.
    changed = sorted({key for key, _ in changed_inputs(before, search.inputs) if not key.startswith(TEST)})
    observed = 0
    for path in sorted((folder / "trials").glob("*_trial_*"), key=_by_number):
        try:
            values, row, differing = _compared(search, RunFolder(path))
        except ValueError as error:
            reasons.setdefault(f"not used, {error}", []).append(path.name)
            continue
        differing += [f"content of {key}" for key in changed]
        seen = observe(row, values, search.config)
        if seen.state == "finished" and not differing:
            found.known.append(seen)
            observed += 1
            continue
        why = f"other {_listed(differing)}" if differing else f"no {search.config.objective}"
        reasons.setdefault(f"tried first, {why}", []).append(path.name)
        score = row.value(search.config.objective)
        first.append((-float("inf") if score is None else score * (1 if search.config.mode == "max" else -1), values))
    parts = [f"{observed} observed"] + [f"{len(names)} {why} ({_listed(names)})" for why, names in reasons.items()]
    found.notes.append(f"{arm}: earlier trials of {folder}: {'; '.join(parts)}.")
    return first


def _compared(search: _Search, folder: RunFolder) -> tuple[dict[str, Any], TrialRow, list[str]]:
    """Values of a trial, the trial, and the keys of other settings that differ from those of this search.

    Raises:
        ValueError: If it is of no use, with the reason.
    """
    if not folder.finished.exists():
        raise ValueError("not finished")
    try:
        earlier = load_run([folder.config])
    except ConfigError as error:
        raise ValueError("its config cannot be read by this version") from error
    values = _values(search.space, earlier.model_dump(mode="json"))
    row = read_row(folder, "trial", folder.path.name, values, earlier.seed, None)
    last = {path: search.fixed[path] for path in (*search.config.search.set, TEST)}
    own = apply(search.base, {**search.fixed, **values, **last})
    before, after = (flatten(each.model_dump(mode="json")) for each in (earlier, own))
    keys = [key for key in dict.fromkeys([*after, *before]) if before.get(key) != after.get(key)]
    unused = (*_UNUSED_KEYS, *(f"training.{key}" for key in _UNUSED_TRAINING_KEYS))
    return values, row, [key for key in keys if not key.startswith(unused)]


def _values(space: Mapping[str, SearchDimension], run: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path in conditions_first(space):
        allowed = allowed_values(space, path)
        if not all(other in values and values[other] in choices for other, choices in allowed.items()):
            continue
        try:
            value = get_path(run, path)
        except (KeyError, TypeError, ConfigError) as error:
            raise ValueError(f"{path} is missing") from error
        if not in_space(space[path], value):
            raise ValueError(f"{path} {param_text(value)} is outside the space")
        values[path] = value
    return values


def _by_number(path: Path) -> tuple[str, int]:
    name, _, number = path.name.rpartition("_")
    return name, int(number) if number.isdigit() else 0


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def keep_earlier_trials(folder: Path, found: Mapping[str, EarlierTrials]) -> None:
    """Write what a search starts from into the experiment's folder, so that a resumed one starts from the same."""
    file = earlier_trials_file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({arm: asdict(each) for arm, each in found.items()}, indent=1) + "\n")


def earlier_trials_of(folder: Path, arm: str) -> EarlierTrials:
    """Read what the search of an arm starts from; nothing without `search.points_from`."""
    file = earlier_trials_file(folder)
    kept = read_json(file).get(arm) if file.exists() else None
    if kept is None:
        return EarlierTrials()
    return EarlierTrials([Observation(**each) for each in kept["known"]], kept["first"], kept["notes"])


def earlier_trials_file(folder: Path) -> Path:
    """File of the earlier trials in the folder of an experiment."""
    return folder / "searches" / "earlier_trials.json"
