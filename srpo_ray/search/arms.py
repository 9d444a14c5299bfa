"""Arms of an experiment: the search for their values, and their training with several seeds."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import TuneConfig

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.base import folder_name
from srpo_ray.config.experiment import TEST, Ablation, Arm
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.numbers import param_text, param_titles
from srpo_ray.evaluation.results import Arm as TrainedArm
from srpo_ray.evaluation.results import Search, TrialRow
from srpo_ray.evaluation.search_range import SearchedValue
from srpo_ray.search.budget import is_admitted, note_search, require_measured_budget
from srpo_ray.search.phase import PlannedRun, close_tracking, fit_phase, reason, run_planned, runs_table
from srpo_ray.search.selection import choose_best, read_row
from srpo_ray.search.space import absolute_changes, absolute_space, decode, param_space, scheduler, search_algorithm
from srpo_ray.search.trial import WORKER_KEYS, Experiment, run_trial, trains_here, trial_config, trial_folder

GRIDS, ARMS = "grids", "arms"
"""Names of phases in the experiment's folder; the search of a space is named after its arm."""


def search_arms(experiment: Experiment, config: ExperimentConfig) -> tuple[list[Search], list[str]]:
    """Search the values of every arm that has a grid or a space.

    The grids of all arms are trained together, as none of their trials waits for another. Each space is searched on its
    own, because its searcher and scheduler compare trials with each other.

    Returns:
        The trials of each searched arm and which was chosen, and notes for the reader.
    """
    grids = {arm.name: _grid_runs(config, arm, experiment.base.seed) for arm in config.arms if arm.grid}
    runs = [run for group in grids.values() for run in group]
    # The budget may end the grids before all are trained: then each arm has tried as many combinations.
    runs = _in_turns(grids.values()) if experiment.budget else runs
    title = "values of each arm's grid"
    rows = {row.name: row for row in _train(experiment, config, GRIDS, title, runs)}
    found, notes = [], []
    for arm in [arm for arm in config.arms if arm.searched]:
        trials = (
            _search_space(experiment, config, arm)
            if arm.space
            else [rows[run.name] for run in grids[arm.name] if run.name in rows]
        )
        if experiment.budget and not any(row.ended for row in trials):
            require_measured_budget(Path(experiment.folder), experiment.budget, [row.name for row in trials])
        best, note = choose_best(trials, config, arm.name)
        found.append(Search(arm.name, trials, best.name, bool(arm.space), searched_values(arm, best)))
        notes += [note] if note else []
    if shared := _arms_on_the_noise_of_trials(experiment.base, config):
        notes.append(
            f"Trials were evaluated on the same noise as {', '.join(shared)}, which favours the chosen values: give"
            " `search.set` another evaluation.seed, or test the arms on prompts that choose nothing (evaluation.test)."
        )
    if experiment.budget:
        note_search(Path(experiment.folder), experiment.budget)
    return found, notes


def _in_turns(groups: Iterable[Sequence[PlannedRun]]) -> list[PlannedRun]:
    """The first run of every group before the second of any."""
    return [run for runs in zip_longest(*groups) for run in runs if run is not None]


def _train(
    experiment: Experiment, config: ExperimentConfig, phase: str, title: str, runs: Sequence[PlannedRun]
) -> list[TrialRow]:
    return run_planned(experiment, phase, title, runs, config.concurrency, config.objective)


def _trial_changes(config: ExperimentConfig, arm: Arm, values: Mapping[str, Any]) -> dict[str, Any]:
    return config.trial_settings(config.changes(arm, values))


def _arms_on_the_noise_of_trials(base: RunConfig, config: ExperimentConfig) -> list[str]:
    """Names of searched arms without a test whose runs are evaluated on the noise that chose their values."""
    shared = []
    for arm in config.arms:
        run, trial = (apply(base, changes) for changes in (config.changes(arm), _trial_changes(config, arm, {})))
        if arm.searched and not run.evaluation.test and run.evaluation.seed == trial.evaluation.seed:
            shared.append(arm.name)
    return shared


def _grid_runs(config: ExperimentConfig, arm: Arm, seed: int) -> list[PlannedRun]:
    """A run per combination of the values of a grid."""
    runs = []
    for index, combination in enumerate(product(*arm.grid.values())):
        values = dict(zip(arm.grid, combination, strict=True))
        changes = _trial_changes(config, arm, values)
        runs.append(PlannedRun(f"{folder_name(arm.name)}_trial_{index}", "trial", _label(values), changes, seed))
    return runs


def _label(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{title} {text}" for title, text in _settings(values).items())


def _settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Short titles of the paths, and the values as text."""
    titles = param_titles(list(values))
    return {titles[path]: param_text(value) for path, value in values.items()}


def _search_space(experiment: Experiment, config: ExperimentConfig, arm: Arm) -> list[TrialRow]:
    """Train trials drawn from the space of an arm; weak ones are stopped early."""

    def train(params: dict[str, Any]) -> None:
        name = str(tune.get_context().get_trial_name())
        run_trial(experiment, trial_config(experiment, name, {**fixed, **decode(params), **last}), here)

    fixed = absolute_changes(experiment.base, _trial_changes(config, arm, {}))
    last = {path: fixed[path] for path in (*config.search.set, TEST)}
    common = apply(experiment.base, fixed)
    updates = common.training.num_updates
    here = trains_here(experiment, common) and not any(path.startswith(WORKER_KEYS) for path in arm.space)
    numbered = partial(_numbered, folder_name(arm.name))
    tune_config = TuneConfig(
        metric=config.objective,
        mode=config.mode,
        num_samples=config.search.num_samples,
        search_alg=search_algorithm(config),
        scheduler=scheduler(config.search.scheduler, updates),
        trial_name_creator=numbered,
        trial_dirname_creator=numbered,
    )
    space = param_space(absolute_space(arm.space, experiment.base, config.changes(arm)))
    title = f"search for {arm.name}"
    table = runs_table(experiment, title, config.objective, lambda _: updates, lambda params: _settings(decode(params)))
    rows = []
    for result in fit_phase(experiment, f"search_{folder_name(arm.name)}", train, tune_config, space, table, here):
        if not is_admitted(Path(experiment.folder), experiment.budget, result.path.rsplit("/", 1)[-1]):
            continue
        folder, values = trial_folder(experiment, result.path.rsplit("/", 1)[-1]), decode(result.config or {})
        changes = {**fixed, **values, **last}
        rows.append(read_row(folder, "trial", _label(values), changes, experiment.base.seed, reason(result.error)))
    for row in rows:
        close_tracking(experiment, row)
    return rows


def _numbered(arm: str, trial: Any) -> str:
    """`SRPO_trial_3`: both of Tune's ways to add trials begin the tag with a count that a resumed search continues."""
    return f"{arm}_trial_{trial.experiment_tag.partition('_')[0]}"


def searched_values(arm: Arm, best: TrialRow) -> list[SearchedValue]:
    """Ranges of an arm's searched values, with the values of its best trial."""
    grids = [SearchedValue(path, values, "values", best.params[path]) for path, values in arm.grid.items()]
    return grids + [_searched_dimension(path, dimension, best.params[path]) for path, dimension in arm.space.items()]


def _searched_dimension(path: str, dimension: SearchDimension, chosen: Any) -> SearchedValue:
    if dimension.choice is not None:
        return SearchedValue(path, dimension.choice, "values", chosen)
    if dimension.loguniform is not None:
        return SearchedValue(path, dimension.loguniform, "log", chosen)
    if dimension.uniform is not None:
        return SearchedValue(path, dimension.uniform, "linear", chosen)
    assert dimension.randint is not None
    low, high = dimension.randint
    return SearchedValue(path, (low, high - 1), "linear", chosen)


def arm_changes(config: ExperimentConfig, arm: Arm, searches: Sequence[Search]) -> dict[str, Any]:
    """Changes of an arm to the base config, the values that the search of its origin chose among them."""
    origin = config.origin(arm)
    search = next((search for search in searches if search.arm == origin.name), None)
    if search is None:
        return config.changes(arm)
    chosen = next(row for row in search.rows if row.name == search.chosen)
    return config.changes(arm, {path: chosen.params[path] for path in origin.searched})


def train_arms(experiment: Experiment, config: ExperimentConfig, searches: Sequence[Search]) -> list[TrainedArm]:
    """Train every arm and ablation with each of its seeds; the first seed of all comes before the second of any."""
    reference = arm_changes(config, config.reference, searches)
    arms = [(arm, arm_changes(config, arm, searches)) for arm in config.arms]
    parts = [*arms, *((ablation, {**reference, **ablation.set}) for ablation in config.ablations)]
    planned = {part.name: _seed_runs(config, part, changes) for part, changes in parts}
    runs = _in_turns(planned.values())
    rows = {row.name: row for row in _train(experiment, config, ARMS, "all arms and ablations", runs)}
    trained = [
        TrainedArm(
            part.name,
            "method" if isinstance(part, Arm) else "ablation",
            changes,
            [rows[run.name] for run in planned[part.name] if run.name in rows],
        )
        for part, changes in parts
    ]
    return _with_runs(config, trained, searches) if len(rows) < len(runs) else trained


def _with_runs(config: ExperimentConfig, arms: Sequence[TrainedArm], searches: Sequence[Search]) -> list[TrainedArm]:
    """Arms that have a run or a chosen trial; the budget had no room for any run of the others.

    Raises:
        ValueError: If the reference arm is among the others.
    """
    searched = {search.arm for search in searches}
    kept = [arm for arm in arms if arm.rows or arm.name in searched]
    if config.reference.name not in {arm.name for arm in kept}:
        raise ValueError(
            f"budget: expected enough for one run of the reference arm {config.reference.name!r}, got less, after the"
            " runs of other arms; raise it"
        )
    return kept


def _seed_runs(config: ExperimentConfig, part: Arm | Ablation, changes: dict[str, Any]) -> list[PlannedRun]:
    """A run of an arm or ablation per seed."""
    kind, folder = "repeat" if isinstance(part, Arm) else "ablation", folder_name(part.name)
    return [
        PlannedRun(f"{folder}_seed_{seed}", kind, f"{part.name}, seed {seed}", changes, seed)
        for seed in config.seeds_of(part)
    ]
