"""Arms of an experiment: the search for their values, and their training with several seeds."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.arm import Ablation, Arm
from srpo_ray.config.continued_runs import schedule_changes
from srpo_ray.config.objective import VOTES
from srpo_ray.config.scheduler import UPDATES
from srpo_ray.evaluation.pareto import front_names
from srpo_ray.evaluation.results import Arm as TrainedArm
from srpo_ray.evaluation.results import Search, TrialRow
from srpo_ray.search.arm_trials import (
    ArmTrials,
    folder_of,
    searched_values,
    train_runs,
    trial_changes,
    trials_of_space,
)
from srpo_ray.search.budget_gate import require_measured_budget
from srpo_ray.search.budget_records import note_search
from srpo_ray.search.chains import seed_chain, train_chains
from srpo_ray.search.earlier_trials import earlier_trials_of
from srpo_ray.search.grids import in_turns, train_grids
from srpo_ray.search.selection import choose_best, keeps
from srpo_ray.search.trial import Experiment
from srpo_ray.search.votes import with_votes

ARMS = "arms"
"""Name of the phase of all arms and ablations in the experiment's folder."""


def search_arms(experiment: Experiment, config: ExperimentConfig) -> tuple[list[Search], list[str]]:
    """Search the values of every arm that has a grid or a space.

    The grids of all arms are trained together, as none of their trials waits for another. Each space is searched on its
    own, because its searcher and scheduler compare trials with each other.

    Returns:
        The trials of each searched arm and which was chosen, and notes for the reader.
    """
    grids = train_grids(experiment, config)
    trained = {
        arm.name: grids[arm.name] if arm.grid else trials_of_space(experiment, config, arm)
        for arm in config.arms
        if arm.searched
    }
    if config.objective == VOTES:
        everything = [row for trials in trained.values() for row in trials.rows]
        voted = {row.name: row for row in with_votes(experiment, config, everything)}
        trained = {
            arm: trials._replace(rows=[voted[row.name] for row in trials.rows]) for arm, trials in trained.items()
        }
    found, notes = [], []
    for name, trials in trained.items():
        search, remarks = _chosen(experiment, config, config.arm(name), trials)
        found.append(search)
        notes += remarks
    if shared := _arms_on_the_noise_of_trials(experiment.base, config):
        notes.append(
            f"Trials were evaluated on the same noise as {', '.join(shared)}, which favours the chosen values: give"
            " `search.set` another evaluation.seed, or test the arms on prompts that choose nothing (evaluation.test)."
        )
    if experiment.budget:
        note_search(Path(experiment.folder), experiment.budget)
    return found, notes


def _chosen(experiment: Experiment, config: ExperimentConfig, arm: Arm, trials: ArmTrials) -> tuple[Search, list[str]]:
    """Choose the best trial of an arm, and collect notes for the reader."""
    rows, folder = trials.rows, Path(experiment.folder)
    if experiment.budget and not any(row.ended for row in rows):
        require_measured_budget(folder, experiment.budget, [row.name for row in rows])
    best, note = choose_best(rows, config, arm.name)
    breaking = _breaking_limits(rows, config)
    keeping = [row for row in rows if row.name not in breaking]
    search = Search(
        arm.name,
        rows,
        best.name,
        bool(arm.space),
        searched_values(arm, best, trials),
        num_added=len(trials.added),
        breaking=breaking,
        front=front_names(keeping or rows, config.objectives),
        rungs=trials.rungs,
        rounds=trials.rounds,
        num_parts=trials.num_parts,
    )
    notes = [*_missing_objectives(rows, config, arm.name), *earlier_trials_of(folder, arm.name).notes]
    if trials.refusal:
        notes.append(f"{arm.name}: the grid was not widened beyond its best value: {trials.refusal}")
    return search, [*notes, *([note] if note else [])]


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


def _arms_on_the_noise_of_trials(base: RunConfig, config: ExperimentConfig) -> list[str]:
    """Names of searched arms without a test whose runs are evaluated on the noise that chose their values."""
    shared = []
    for arm in config.arms:
        run, trial = (apply(base, changes) for changes in (config.changes(arm), trial_changes(config, arm, {})))
        if arm.searched and not run.evaluation.test and run.evaluation.seed == trial.evaluation.seed:
            shared.append(arm.name)
    return shared


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
    chains = in_turns(planned.values())
    rows = train_chains(partial(train_runs, experiment, config), ARMS, "all arms and ablations", chains)
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
