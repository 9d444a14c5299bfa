"""Arms of an experiment: the search for their values, and their training with several seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product, zip_longest
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from ray import tune
from ray.tune import TuneConfig

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.base import folder_name
from srpo_ray.config.conditions import searched_values_of
from srpo_ray.config.continued_runs import schedule_changes
from srpo_ray.config.experiment import TEST, VOTES, Ablation, Arm
from srpo_ray.config.scheduler import UPDATES
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.numbers import param_text, param_titles
from srpo_ray.evaluation.pareto import front_names
from srpo_ray.evaluation.results import Arm as TrainedArm
from srpo_ray.evaluation.results import Search, TrialRow
from srpo_ray.evaluation.search_parts import RoundResult, RungResult
from srpo_ray.evaluation.search_range import SearchedValue
from srpo_ray.live.state import RunState
from srpo_ray.search.budget import is_admitted, note_search, require_measured_budget
from srpo_ray.search.chains import seed_chain, train_chains
from srpo_ray.search.earlier_trials import earlier_trials_of
from srpo_ray.search.phase import PlannedRun, close_tracking, fit_phase, reason, run_planned
from srpo_ray.search.population import search_by_population
from srpo_ray.search.progress import RunsReporter
from srpo_ray.search.promotion import SearchInParts, search_by_promotion
from srpo_ray.search.searchers import search_algorithm
from srpo_ray.search.selection import choose_best, keeps, read_row
from srpo_ray.search.space import absolute_changes, absolute_space, decode, param_space, scheduler
from srpo_ray.search.trial import WORKER_KEYS, Experiment, run_trial, trains_here, trial_config, trial_folder
from srpo_ray.search.votes import with_votes

T = TypeVar("T")

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
    searched = [arm for arm in config.arms if arm.searched]
    trials, parts = dict[str, list[TrialRow]](), dict[str, tuple[list[RungResult], list[RoundResult]]]()
    for arm in searched:
        given = [rows[run.name] for run in grids.get(arm.name, []) if run.name in rows]
        trials[arm.name], rungs, rounds = _trials_of(experiment, config, arm, given)
        parts[arm.name] = (rungs, rounds)
    if config.objective == VOTES:
        voted = {
            row.name: row for row in with_votes(experiment, config, [row for each in trials.values() for row in each])
        }
        trials = {name: [voted[row.name] for row in each] for name, each in trials.items()}
    found, notes = [], []
    for arm in searched:
        if experiment.budget and not any(row.ended for row in trials[arm.name]):
            names = [row.name for row in trials[arm.name]]
            require_measured_budget(Path(experiment.folder), experiment.budget, names)
        best, note = choose_best(trials[arm.name], config, arm.name)
        breaking = _breaking_limits(trials[arm.name], config)
        keeping = [row for row in trials[arm.name] if row.name not in breaking]
        found.append(
            Search(
                arm.name,
                trials[arm.name],
                best.name,
                bool(arm.space),
                searched_values(arm, best),
                breaking=breaking,
                front=front_names(keeping or trials[arm.name], config.objectives),
                rungs=parts[arm.name][0],
                rounds=parts[arm.name][1],
            )
        )
        notes += _missing_objectives(trials[arm.name], config, arm.name)
        notes += [*earlier_trials_of(Path(experiment.folder), arm.name).notes, *([note] if note else [])]
    if shared := _arms_on_the_noise_of_trials(experiment.base, config):
        notes.append(
            f"Trials were evaluated on the same noise as {', '.join(shared)}, which favours the chosen values: give"
            " `search.set` another evaluation.seed, or test the arms on prompts that choose nothing (evaluation.test)."
        )
    if experiment.budget:
        note_search(Path(experiment.folder), experiment.budget)
    return found, notes


def _trials_of(
    experiment: Experiment, config: ExperimentConfig, arm: Arm, of_grid: list[TrialRow]
) -> tuple[list[TrialRow], list[RungResult], list[RoundResult]]:
    """Trials of a searched arm, and the rungs or rounds in which they were trained."""
    if arm.grid:
        return of_grid, [], []
    if config.search.scheduler.continues:
        return _search_in_parts(experiment, config, arm)
    return _search_space(experiment, config, arm), [], []


def _breaking_limits(rows: Sequence[TrialRow], config: ExperimentConfig) -> list[str]:
    """Names of the trials that ended and broke a `max_fall`."""
    return [row.name for row in rows if row.ended and row.history and not keeps(row, config.max_fall)]


def _missing_objectives(rows: Sequence[TrialRow], config: ExperimentConfig, arm: str) -> list[str]:
    """Note on objectives that no trial has, so that there is no front; empty without any."""
    ended = [row for row in rows if row.ended]
    missing = [metric for metric in config.objectives if all(row.value(metric) is None for row in ended)]
    if not missing:
        return []
    known = sorted({name for row in ended for name in row.evaluated} - {"update"})
    return [
        f"{arm}: no trial has {', '.join(missing)} of `objectives`, so there is no Pareto front; metrics that trials"
        f" have: {', '.join(known) or 'none'}."
    ]


def _in_turns(groups: Iterable[Sequence[T]]) -> list[T]:
    """The first entry of every group before the second of any."""
    return [entry for entries in zip_longest(*groups) for entry in entries if entry is not None]


def _train(
    experiment: Experiment, config: ExperimentConfig, phase: str, title: str, runs: Sequence[PlannedRun]
) -> list[TrialRow]:
    return run_planned(experiment, phase, title, runs, config.concurrency)


def folder_of(experiment: Experiment) -> Callable[[str], str]:
    """Function from the name of a run to its folder."""
    return lambda name: str(trial_folder(experiment, name).path)


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

    def train(params: dict[str, Any]) -> None:
        name = str(tune.get_context().get_trial_name())
        run_trial(experiment, trial_config(experiment, name, {**fixed, **values_of(params), **last}), here)

    def values_of(params: Mapping[str, Any]) -> dict[str, Any]:
        return searched_values_of(searched, decode(params))

    searched = absolute_space(arm.space, experiment.base, config.changes(arm))
    fixed = absolute_changes(experiment.base, _trial_changes(config, arm, {}))
    last = {path: fixed[path] for path in (*config.search.set, TEST)}
    common = apply(experiment.base, fixed)
    updates = common.training.num_updates
    here = trains_here(experiment, common) and not any(path.startswith(WORKER_KEYS) for path in arm.space)
    folder = Path(experiment.folder)
    earlier = earlier_trials_of(folder, arm.name)
    numbered = partial(_numbered, folder_name(arm.name))
    # Tune refuses a metric that trials do not report.
    voted = config.objective == VOTES
    tune_config = TuneConfig(
        metric=None if voted else config.objective,
        mode=None if voted else config.mode,
        num_samples=config.search.num_samples,
        search_alg=search_algorithm(config, searched, folder, arm.name, earlier.known, earlier.first),
        scheduler=scheduler(config.search.scheduler, updates),
        trial_name_creator=numbered,
        trial_dirname_creator=numbered,
    )
    # A searcher that learns draws all values itself.
    space = param_space(searched) if config.search.searcher == "random" else {}
    title = f"search for {arm.name}"
    seed = experiment.base.seed

    def describe(name: str, params: Mapping[str, Any]) -> RunState:
        values = values_of(params)
        changes = {**fixed, **values, **last}
        return RunState(name, updates, "waiting", "trial", arm.name, _label(values), _settings(values), changes, seed)

    reporter = RunsReporter(Path(experiment.folder), title, describe)
    rows = []
    for result in fit_phase(experiment, f"search_{folder_name(arm.name)}", train, tune_config, space, reporter, here):
        name, values = result.path.rsplit("/", 1)[-1], values_of(result.config or {})
        if not is_admitted(Path(experiment.folder), experiment.budget, name):
            continue
        run = trial_folder(experiment, name)
        changes = {**fixed, **values, **last}
        rows.append(read_row(run, "trial", _label(values), changes, experiment.base.seed, reason(result.error)))
    for row in rows:
        close_tracking(experiment, row)
    return rows


def _search_in_parts(
    experiment: Experiment, config: ExperimentConfig, arm: Arm
) -> tuple[list[TrialRow], list[RungResult], list[RoundResult]]:
    """Train trials drawn from the space of an arm in parts that continue from checkpoints, by promotion or `pbt`."""
    domains = param_space(arm.space)

    def draw(path: str, random: Random) -> Any:
        return decode({path: domains[path].sample(random_state=random.getrandbits(32))})[path]

    def train(phase: str, title: str, runs: Sequence[PlannedRun]) -> list[TrialRow]:
        rows = _train(experiment, config, phase, title, runs)
        # People are asked after each rung or round, which decides what continues.
        return with_votes(experiment, config, rows) if config.objective == VOTES else rows

    search = SearchInParts(config, arm, experiment.base.seed, _label, folder_of(experiment), train)
    random = Random(f"{config.search.seed} {arm.name}")
    all_drawn = [{path: draw(path, random) for path in arm.space} for _ in range(config.search.num_samples)]
    drawn = [searched_values_of(arm.space, values) for values in all_drawn]
    if config.search.scheduler.rungs:
        rows, rungs = search_by_promotion(search, drawn)
        return rows, rungs, []
    num_updates = apply(experiment.base, _trial_changes(config, arm, {})).training.num_updates
    rows, rounds = search_by_population(search, drawn, num_updates, draw)
    return rows, [], rounds


def _numbered(arm: str, trial: Any) -> str:
    """`SRPO_trial_3`: both of Tune's ways to add trials begin the tag with a count that a resumed search continues."""
    return f"{arm}_trial_{trial.experiment_tag.partition('_')[0]}"


def searched_values(arm: Arm, best: TrialRow) -> list[SearchedValue]:
    """Ranges of an arm's searched values, with the values of its best trial; without those it did not search."""
    grids = [SearchedValue(path, values, "values", best.params[path]) for path, values in arm.grid.items()]
    drawn = {path: dimension for path, dimension in arm.space.items() if path in best.params}
    return grids + [_searched_dimension(path, dimension, best.params[path]) for path, dimension in drawn.items()]


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
    """Changes of an arm to the base config: with the values that the search of its origin chose, or those of the last
    round of its schedule."""
    origin = config.origin(arm)
    if origin.schedule:
        return schedule_changes(config, arm)[-1]
    search = next((search for search in searches if search.arm == origin.name), None)
    if search is None:
        return config.changes(arm)
    chosen = next(row for row in search.rows if row.name == search.chosen)
    # A value whose condition did not hold is that of the base config.
    return config.changes(arm, {path: chosen.params[path] for path in origin.searched if path in chosen.params})


def _rounds_of(config: ExperimentConfig, part: Arm | Ablation, searches: Sequence[Search]) -> list[dict[str, Any]]:
    """Changes of each round of an arm or ablation; one round, unless its values follow a schedule."""
    arm = part if isinstance(part, Arm) else config.reference
    origin = config.origin(arm)
    search = next((search for search in searches if search.arm == origin.name), None)
    if origin.schedule or (search and search.rounds):
        rounds = schedule_changes(config, arm, search.schedule if search else None)
    else:
        rounds = [arm_changes(config, arm, searches)]
    if isinstance(part, Arm):
        return rounds
    ends = [{UPDATES: changes[UPDATES]} for changes in rounds[:-1]]
    return [{**changes, **part.set, **end} for changes, end in zip(rounds, [*ends, {}], strict=True)]


def train_arms(experiment: Experiment, config: ExperimentConfig, searches: Sequence[Search]) -> list[TrainedArm]:
    """Train every arm and ablation with each of its seeds; the first seed of all comes before the second of any."""
    parts = [(part, _rounds_of(config, part, searches)) for part in (*config.arms, *config.ablations)]
    planned = {
        part.name: [seed_chain(part, rounds, seed, folder_of(experiment)) for seed in config.seeds_of(part)]
        for part, rounds in parts
    }
    chains = _in_turns(planned.values())
    rows = train_chains(partial(_train, experiment, config), ARMS, "all arms and ablations", chains)
    if config.objective == VOTES:
        rows = dict(zip(rows, with_votes(experiment, config, list(rows.values())), strict=True))
    trained = [
        TrainedArm(
            part.name,
            "method" if isinstance(part, Arm) else "ablation",
            rounds[-1],
            [rows[chain[-1].name] for chain in planned[part.name] if chain[-1].name in rows],
        )
        for part, rounds in parts
    ]
    return _with_runs(config, trained, searches) if len(rows) < len(chains) else trained


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
