"""Trials of a searched arm: combinations of a grid, draws from a space, or parts that continue from each other."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ray import tune
from ray.tune import ResultGrid, TuneConfig

from srpo_ray.config import ExperimentConfig, apply
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.arm import Arm
from srpo_ray.config.base import folder_name
from srpo_ray.config.conditions import searched_values_of
from srpo_ray.config.experiment_parts import TEST
from srpo_ray.config.objective import VOTES
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.numbers import param_text, param_titles
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.evaluation.search_parts import RoundResult, RungResult
from srpo_ray.evaluation.search_range import SearchedValue
from srpo_ray.live.state import RunState
from srpo_ray.search.budget_requests import admit_part, is_admitted
from srpo_ray.search.concurrency import with_current_number
from srpo_ray.search.draws import Draws
from srpo_ray.search.earlier_trials import earlier_trials_of
from srpo_ray.search.phase import PlannedRun, close_tracking, fit_phase, reason, run_planned
from srpo_ray.search.population import search_by_population
from srpo_ray.search.progress import RunsReporter
from srpo_ray.search.promotion import SearchInParts, search_by_promotion
from srpo_ray.search.searchers import search_algorithm
from srpo_ray.search.selection import read_row
from srpo_ray.search.space import absolute_changes, absolute_space, decode, param_space, scheduler
from srpo_ray.search.trial import (
    WORKER_KEYS,
    Experiment,
    opening,
    trains_here,
    trial_config,
    trial_folder,
)
from srpo_ray.search.trial_function import run_trial
from srpo_ray.search.votes import with_votes

_Draws = Draws
"""Name of the class in folders of earlier versions, which pickle it."""


class ArmTrials(NamedTuple):
    """Trials of a searched arm."""

    rows: list[TrialRow]
    rungs: Sequence[RungResult] = ()
    """Rungs of a search with promotion."""
    rounds: Sequence[RoundResult] = ()
    """Rounds of a population."""
    num_parts: int = 0
    """Rungs or rounds of the whole search."""
    added: Sequence[float] = ()
    """Values that widened the grid."""
    refusal: str = ""
    """Reason why the value beyond the best one of a grid cannot be trained; empty without one."""


def trials_of_space(experiment: Experiment, config: ExperimentConfig, arm: Arm) -> ArmTrials:
    """Train the trials of an arm with a space.

    Args:
        experiment: Facts that all runs share.
        config: The experiment.
        arm: The arm.
    """
    if config.search.scheduler.continues:
        return _search_in_parts(experiment, config, arm)
    return ArmTrials(_search_space(experiment, config, arm))


def train_runs(
    experiment: Experiment, config: ExperimentConfig, phase: str, title: str, runs: Sequence[PlannedRun]
) -> list[TrialRow]:
    return run_planned(experiment, phase, title, runs, config.concurrency)


def folder_of(experiment: Experiment) -> Callable[[str], str]:
    """Function from the name of a run to its folder."""
    return lambda name: str(trial_folder(experiment, name).path)


def trial_changes(config: ExperimentConfig, arm: Arm, values: Mapping[str, Any]) -> dict[str, Any]:
    return config.trial_settings(config.changes(arm, values))


def grid_runs(config: ExperimentConfig, arm: Arm, seed: int, added: Sequence[float] = ()) -> list[PlannedRun]:
    """A run per combination of the values of a grid, then one per added value of its only path."""
    runs = []
    for index, combination in enumerate([*product(*arm.grid.values()), *product(added)]):
        values = dict(zip(arm.grid, combination, strict=True))
        changes = trial_changes(config, arm, values)
        name = f"{folder_name(arm.name)}_trial_{index}"
        runs.append(PlannedRun(name, "trial", _label(values), changes, seed, group=arm.name))
    return runs


def _label(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{title} {text}" for title, text in _settings(values).items())


def _settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Short titles of the paths, and the values as text."""
    titles = param_titles(list(values))
    return {titles[path]: param_text(value) for path, value in values.items()}


def _search_space(experiment: Experiment, config: ExperimentConfig, arm: Arm) -> list[TrialRow]:
    """Train trials drawn from the space of an arm; weak ones are stopped early."""
    fixed = absolute_changes(experiment.base, trial_changes(config, arm, {}))
    space = absolute_space(arm.space, experiment.base, config.changes(arm))
    draws = Draws(space, fixed, {path: fixed[path] for path in (*config.search.set, TEST)})
    common = apply(experiment.base, fixed)
    updates, seed = common.training.num_updates, experiment.base.seed
    here = trains_here(experiment, common) and not any(path.startswith(WORKER_KEYS) for path in arm.space)

    def train(params: dict[str, Any]) -> None:
        name = str(tune.get_context().get_trial_name())
        run_trial(experiment, trial_config(experiment, name, draws.changes(draws.values(params))), here)

    def describe(name: str, params: Mapping[str, Any]) -> RunState:
        values = draws.values(params)
        label, settings = _label(values), _settings(values)
        return RunState(name, updates, "waiting", "trial", arm.name, label, settings, draws.changes(values), seed)

    reporter = RunsReporter(Path(experiment.folder), f"search for {arm.name}", describe, opening(experiment))
    tune_config = _tune_config(config, arm, space, Path(experiment.folder), updates)
    # A searcher that learns draws all values itself.
    drawn_by_tune = param_space(space) if config.search.searcher == "random" else {}
    phase, number = f"search_{folder_name(arm.name)}", config.search.num_samples
    results = fit_phase(experiment, phase, train, tune_config, drawn_by_tune, reporter, here, number)
    return _rows(experiment, draws, results)


def _tune_config(
    config: ExperimentConfig, arm: Arm, space: Mapping[str, SearchDimension], folder: Path, updates: int
) -> TuneConfig:
    """Settings of Ray Tune for the search of an arm."""
    earlier = earlier_trials_of(folder, arm.name)
    numbered = partial(_numbered, folder_name(arm.name))
    # Tune refuses a metric that trials do not report.
    voted = config.objective == VOTES
    return TuneConfig(
        metric=None if voted else config.objective,
        mode=None if voted else config.mode,
        num_samples=config.search.num_samples,
        search_alg=search_algorithm(config, space, folder, arm.name, earlier.known, earlier.first),
        scheduler=scheduler(config.search.scheduler, updates),
        trial_name_creator=numbered,
        trial_dirname_creator=numbered,
    )


def _rows(experiment: Experiment, draws: Draws, results: ResultGrid) -> list[TrialRow]:
    """Read the rows of the trials that a budget has admitted, and close their tracking."""
    rows = []
    for result in results:
        name, values = result.path.rsplit("/", 1)[-1], draws.values(result.config or {})
        if not is_admitted(Path(experiment.folder), experiment.budget, name):
            continue
        run, seed = trial_folder(experiment, name), experiment.base.seed
        error = reason(result.error)
        rows.append(read_row(run, "trial", _label(values), draws.changes(values), seed, error))
    for row in rows:
        close_tracking(experiment, row)
    return rows


def _search_in_parts(experiment: Experiment, config: ExperimentConfig, arm: Arm) -> ArmTrials:
    """Train trials drawn from the space of an arm in parts that continue from checkpoints, by promotion or `pbt`."""
    domains = param_space(arm.space)

    def draw(path: str, random: Random) -> Any:
        return decode({path: domains[path].sample(random_state=random.getrandbits(32))})[path]

    def train(phase: str, title: str, runs: Sequence[PlannedRun]) -> list[TrialRow]:
        rows = train_runs(experiment, config, phase, title, runs)
        # People are asked after each rung or round, which decides what continues.
        return with_votes(experiment, config, rows) if config.objective == VOTES else rows

    def admit(runs: Sequence[PlannedRun], all_or_none: bool) -> set[str]:
        if experiment.budget is None:
            return {run.name for run in runs}
        configs = [with_absolute_paths(trial_config(experiment, run.name, run.config_changes)) for run in runs]
        terms = with_current_number(experiment.budget, experiment.follows)
        return admit_part(Path(experiment.folder), terms, configs, all_or_none=all_or_none)

    search = SearchInParts(config, arm, experiment.base.seed, _label, folder_of(experiment), train, admit)
    random = Random(f"{config.search.seed} {arm.name}")
    all_drawn = [{path: draw(path, random) for path in arm.space} for _ in range(config.search.num_samples)]
    drawn = [searched_values_of(arm.space, values) for values in all_drawn]
    if config.search.scheduler.rungs:
        rows, rungs = search_by_promotion(search, drawn)
        return ArmTrials(rows, rungs, num_parts=len(config.search.scheduler.rungs))
    num_updates = apply(experiment.base, trial_changes(config, arm, {})).training.num_updates
    rows, rounds = search_by_population(search, drawn, num_updates, draw)
    return ArmTrials(rows, rounds=rounds, num_parts=len(config.search.scheduler.ends(num_updates)))


def _numbered(arm: str, trial: Any) -> str:
    """`SRPO_trial_3`: both of Tune's ways to add trials begin the tag with a count that a resumed search continues."""
    return f"{arm}_trial_{trial.experiment_tag.partition('_')[0]}"


def searched_values(arm: Arm, best: TrialRow, trials: ArmTrials) -> list[SearchedValue]:
    """Ranges of an arm's searched values, with the values of its best trial; without those it did not search."""
    grids = [_searched_list(path, values, best.params[path], trials) for path, values in arm.grid.items()]
    drawn = {path: dimension for path, dimension in arm.space.items() if path in best.params}
    return grids + [_searched_dimension(path, dimension, best.params[path]) for path, dimension in drawn.items()]


def _searched_list(path: str, given: Sequence[Any], chosen: Any, trials: ArmTrials) -> SearchedValue:
    trained = [row.params[path] for row in trials.rows]
    added = [value for value in trials.added if value in trained]
    return SearchedValue(path, (*given, *added), "values", chosen, added, bool(trials.refusal))


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
