"""A study of methods from its file to its report: tune each, train each with several seeds, take one apart."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import torch

from srpo_ray.config import RunConfig, StudyConfig, apply
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.base import folder_name
from srpo_ray.config.study import Method
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.comparison import CALLS, GRADIENT_CALL, SECONDS, Arm, StudyReport, Tuned
from srpo_ray.evaluation.gallery import method_grid, save_png
from srpo_ray.evaluation.numbers import param_text, param_titles
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.launch.session import ray_session
from srpo_ray.launch.train import check_cluster, reward_pool
from srpo_ray.reports.comparison import EQUAL, comparison_report
from srpo_ray.reports.files import write_report
from srpo_ray.reports.terminal import print_report
from srpo_ray.runs.folder import RunFolder, load_images, read_rows
from srpo_ray.runs.inputs import require_same_inputs, text_hashes
from srpo_ray.runs.warnings import idle_warning
from srpo_ray.tracking.runs import flatten, git_commit
from srpo_ray.tuning.folder import first_command, open_study_folder
from srpo_ray.tuning.report import hardware, log_results
from srpo_ray.tuning.rows import baseline_row, choose_best
from srpo_ray.tuning.runs import PlannedRun, run_planned, start_parent_run
from srpo_ray.tuning.trial import Study, trial_folder


def run_study(config: StudyConfig, base: RunConfig, address: str | None, command: str) -> Path:
    """Run a study of methods, or go on with the one in the same folder.

    Args:
        config: Methods, ablations, seeds.
        base: Config that they start from.
        address: Ray cluster to use; None takes `RAY_ADDRESS` or starts a local one.
        command: What the person typed, for the report.

    Returns:
        Path of the HTML report.

    Raises:
        ValueError: If an input cannot be used, or none of a method's tuning runs finished.
        StudyInterruptedError: If it was stopped by Ctrl-C.
    """
    ablated = config.changes(config.method(config.ablated))
    changes = [
        *(config.changes(method) for method in config.methods),
        *({**ablated, **ablation.set} for ablation in config.ablations),
    ]
    variants = [apply(base, each) for each in changes]
    for variant in variants:
        check_inputs(variant)
    base = with_absolute_paths(base)
    folder = open_study_folder(config, base, list(map(with_absolute_paths, variants)))
    command = first_command(folder, command)
    with ray_session(address):
        check_cluster(base)
        with reward_pool(base, f"rewards_{config.name}") as pool:
            params = flatten(config.model_dump(mode="json", exclude={"methods", "ablations"}))
            parent_run = start_parent_run(base, config.name, folder, params)
            resume = f"python experiments/paper_table.py --resume {folder}"
            study = Study(base, str(folder), pool, parent_run, resume, git_commit(Path.cwd()))
            tuned, notes = tune_methods(study, config)
            arms = train_arms(study, config, tuned)
    rows = [row for arm in arms for row in arm.rows]
    warnings = [text for row in rows if (text := idle_warning(trial_folder(study, row.name)))]
    baseline = Arm("baseline", "base", {}, [baseline_row(next((row for row in rows if row.history), rows[0]))])
    report = StudyReport(
        title=config.name,
        objective=config.objective,
        mode=config.mode,
        ablated=config.ablated,
        target_share=config.target_share,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        commit=git_commit(Path.cwd()),
        hardware=hardware(),
        arms=[baseline, *arms],
        tuning=tuned,
        notes=[*notes, *compute_notes(arms, config.ablated), *failures(rows), *warnings],
    )
    return _publish(study, report)


def tune_methods(study: Study, config: StudyConfig) -> tuple[list[Tuned], list[str]]:
    """Try each method's values on the tuning seed.

    Returns:
        What was tried and kept, and what a reader should know about it.
    """
    planned = {method.name: _tuning_runs(study.base, config, method) for method in config.methods if method.tune}
    runs = [run for group in planned.values() for run in group]
    rows = {row.name: row for row in _run(study, config, "tuning", "values of each method", runs)}
    tuned, notes, edges = [], [], []
    for name, group in planned.items():
        tried = [rows[run.name] for run in group]
        best, note = choose_best(tried, config)
        tuned.append(Tuned(name, tried, best.name))
        notes += [f"{name}: {note}"] if note else []
        edges += _values_at_the_edge(config.method(name), best)
    if edges:
        notes.append(f"Kept at the end of what was tried, so a better one may lie beyond: {'; '.join(edges)}.")
    return tuned, notes


def _tuning_runs(base: RunConfig, config: StudyConfig, method: Method) -> list[PlannedRun]:
    """A run per combination of values.

    They are evaluated on other noise than the arms, whose scores would be biased by their own, and at their end
    alone.
    """
    titles = param_titles(list(method.tune))
    evaluated = {
        "evaluation.seed": base.evaluation.seed + 1,
        "evaluation.interval": max(1, apply(base, config.changes(method)).training.num_updates),
    }
    runs = []
    for index, values in enumerate(product(*method.tune.values())):
        chosen = dict(zip(method.tune, values, strict=True))
        label = ", ".join(f"{titles[path]} {param_text(value)}" for path, value in chosen.items())
        changes = {**config.changes(method), **chosen, **evaluated, "seed": config.tuning_seed}
        runs.append(PlannedRun(f"tune_{folder_name(method.name)}_{index}", "trial", label, changes))
    return runs


def _values_at_the_edge(method: Method, best: TrialRow) -> list[str]:
    found = []
    for path, values in method.tune.items():
        numbers = [value for value in values if isinstance(value, int | float)]
        if len(numbers) > 1 and best.params[path] in (min(numbers), max(numbers)):
            found.append(f"{method.name}, {path} {param_text(best.params[path])}")
    return found


def train_arms(study: Study, config: StudyConfig, tuned: Sequence[Tuned]) -> list[Arm]:
    """Train every method and ablation with every seed; all arms with the first seed come first."""
    kept = {item.method: next(row.params for row in item.rows if row.name == item.chosen) for item in tuned}
    arms: dict[str, tuple[str, dict[str, Any], Sequence[int]]] = {}
    for method in config.methods:
        values = _tuned_values(config, method, kept)
        arms[method.name] = ("method", {**config.changes(method), **values, **method.set}, method.seeds or config.seeds)
    for ablation in config.ablations:
        changes = {**arms[config.ablated][1], **ablation.set}
        arms[ablation.name] = ("ablation", changes, config.seeds)
    planned = {
        name: [
            PlannedRun(f"{folder_name(name)}_seed_{seed}", "repeat", f"{name}, seed {seed}", {**changes, "seed": seed})
            for seed in seeds
        ]
        for name, (_, changes, seeds) in arms.items()
    }
    most = max(len(runs) for runs in planned.values())
    runs = [group[index] for index in range(most) for group in planned.values() if index < len(group)]
    rows = {row.name: row for row in _run(study, config, "arms", "all methods and ablations", runs)}
    return [
        Arm(name, "method" if kind == "method" else "ablation", changes, [rows[run.name] for run in planned[name]])
        for name, (kind, changes, _) in arms.items()
    ]


def _tuned_values(config: StudyConfig, method: Method, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The values kept for the method, or for the one that it is like."""
    if method.like is not None:
        return _tuned_values(config, config.method(method.like), kept)
    return {path: kept[method.name][path] for path in method.tune}


def _run(study: Study, config: StudyConfig, phase: str, title: str, runs: Sequence[PlannedRun]) -> list[TrialRow]:
    rows = run_planned(study, phase, title, runs, config.max_concurrent_trials, config.objective)
    return [with_costs(row, trial_folder(study, row.name)) for row in rows]


def with_costs(row: TrialRow, folder: RunFolder) -> TrialRow:
    """The row with what its updates had cost at each evaluation: velocity evaluations, and seconds."""
    updates = read_rows(folder.updates)
    calls = accumulate(update["cost/forward"] + GRADIENT_CALL * update["cost/forward_backward"] for update in updates)
    seconds = accumulate(update["time/update"] for update in updates)
    spent = {0: (0.0, 0.0)} | dict(
        zip((update["update"] for update in updates), zip(calls, seconds, strict=True), strict=True)
    )
    history = [{**e, CALLS: spent[int(e["update"])][0], SECONDS: spent[int(e["update"])][1]} for e in row.history]
    return replace(row, history=history)


def compute_notes(arms: Sequence[Arm], ablated: str) -> list[str]:
    """Methods that were trained for clearly more or less than the ablated one."""
    means = {arm.name: spent.mean for arm in arms if arm.kind == "method" and (spent := arm.over_seeds(CALLS))}
    reference = means.get(ablated)
    if reference is None:
        return []
    return [
        f"{name} was trained with {calls / reference:.2f} times the velocity evaluations of {ablated}."
        for name, calls in means.items()
        if abs(calls / reference - 1) > EQUAL
    ]


def failures(rows: Sequence[TrialRow]) -> list[str]:
    """Runs that did not come to their end; no figure counts them."""
    return [f"{row.name} is in no figure: {row.status}." for row in rows if not row.ended]


def _publish(study: Study, report: StudyReport) -> Path:
    folder = Path(study.folder)
    page = comparison_report(report, _images(study, report))
    print_report(page)
    path = write_report(folder, page)
    log_results(study, [path, folder / "table.csv", folder / "study.json"], {})
    return path


def _images(study: Study, report: StudyReport) -> Path | None:
    """Each method's images for the same prompts and noise, from its first seed.

    Raises:
        ValueError: If the evaluation prompts have changed since the study began, so that they are no captions.
    """
    folders = {arm.name: trial_folder(study, arm.rows[0].name) for arm in report.methods if arm.rows[0].ended}
    if not folders:
        return None
    base = load_images(next(iter(folders.values())).base_images)
    columns = {"baseline": base} | {name: load_images(folder.tuned_images) for name, folder in folders.items()}
    texts = read_texts(study.base)
    cure = "start the study again under another name"
    require_same_inputs(RunFolder(study.folder).inputs, text_hashes(study.base, texts), cure)
    stacked = {name: torch.stack(list(images.values())) for name, images in columns.items()}
    grid = method_grid(stacked, [texts.evaluated[index] for index in base])
    return save_png(grid, Path(study.folder) / "images" / "methods.png")
