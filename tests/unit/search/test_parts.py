"""Searches whose trials are trained in parts: who is promoted, who copies whom, and what is trained."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from srpo_ray.config import ExperimentConfig, load_experiment, load_run
from srpo_ray.config.objective import VOTES
from srpo_ray.config.scheduler import Rung, SchedulerConfig
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.results import CALLS, TrialRow
from srpo_ray.evaluation.search_parts import Member, RoundResult, lineage
from srpo_ray.live.state import Progress, read_progress, write_progress
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search import arm_trials as trials_module
from srpo_ray.search import arms as arms_module
from srpo_ray.search import phase as phase_module
from srpo_ray.search.arms import search_arms, train_arms
from srpo_ray.search.budget_change import change_budget, note_over
from srpo_ray.search.budget_requests import write_decisions
from srpo_ray.search.phase import PlannedRun, run_planned
from srpo_ray.search.population import explore, next_round, perturb
from srpo_ray.search.promotion import order
from srpo_ray.search.trial import Experiment
from tests.conftest import ROOT, SMALL_WORLD

LR, WORDS, STRENGTH = "training.optimizer.lr", "algorithm.control_words", "algorithm.interpolation_strength"
HELD_OUT, CONTENT = "evaluator/held_out", "truth/content_accuracy"
SPACE = {
    LR: {"loguniform": [1e-6, 1e-5]},
    STRENGTH: {"uniform": [0.7, 0.95]},
    WORDS: {"choice": ["detailed", "realistic", "vivid"]},
}
RUNGS = [
    {"updates": 10, "keep": 0.5, "set": {"evaluation.num_prompts": 4}},
    {"updates": 20, "keep": 0.5},
    {"updates": 40},
]
PBT = SchedulerConfig(type="pbt", perturb_interval=10)
DIMENSIONS = {path: SearchDimension.model_validate(dimension) for path, dimension in SPACE.items()}


def experiment(**values: Any) -> ExperimentConfig:
    given = {"base": "base.yaml", "seeds": [1, 2], "arms": [{"name": "SRPO", "space": SPACE}], **values}
    return ExperimentConfig.model_validate(given)


def row(name: str, objective: float | None, content: float = 0.9, status: str = "finished") -> TrialRow:
    history = [{"update": 0, HELD_OUT: 0.1, CONTENT: 0.9}, {"update": 10, CONTENT: content}]
    if objective is not None:
        history[1][HELD_OUT] = objective
    return TrialRow(name, "trial", name, {}, history, status, 1.0, 0)


class Trainer:
    """Stands for training: a run's objective is higher the nearer its learning rate is to 4e-6, and rises by update."""

    def __init__(self, failing: Sequence[str] = ()) -> None:
        self.phases: list[str] = []
        self.runs: dict[str, PlannedRun] = {}
        self.failing = failing

    def __call__(
        self, experiment: Experiment, phase: str, title: str, runs: Sequence[PlannedRun], *_: object
    ) -> list[TrialRow]:
        self.phases += [phase] if runs else []
        self.runs |= {run.name: run for run in runs}
        return [self.row(run) for run in runs]

    def row(self, run: PlannedRun) -> TrialRow:
        updates = run.changes.get("training.num_updates", 40)
        value = updates / 100 - abs(math.log(run.changes[LR] / 4e-6))
        history = [{"update": 0, HELD_OUT: 0.0, CALLS: 0.0}, {"update": updates, HELD_OUT: value, CALLS: 5.0 * updates}]
        status = "failed: broken" if run.name in self.failing else "finished"
        return TrialRow(run.name, run.kind, run.label, run.changes, history, status, 1.0, run.seed)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    found = Trainer()
    monkeypatch.setattr(trials_module, "run_planned", found)
    return found


@pytest.fixture
def started(tmp_path: Path) -> Experiment:
    return Experiment(load_run([SMALL_WORLD], ["seed=5", "evaluation.test=null"]), str(tmp_path), {}, "", "", None)


def test_best_of_a_part_come_first_and_those_that_break_a_limit_last() -> None:
    rows = [row("a", 0.3), row("b", 0.9, content=0.5), row("c", 0.5), row("d", 0.3), row("e", None)]
    rows += [row("f", 0.95, status="failed: oom"), row("g", 0.95, status="stopped: reward hacking")]
    assert order(rows, experiment(max_fall={CONTENT: 0.1})) == [2, 0, 3, 1]
    assert order(rows, experiment()) == [1, 2, 0, 3]
    assert order(rows, experiment(mode="min")) == [0, 3, 2, 1]


@pytest.mark.parametrize(("trials", "share", "expected"), [(8, 0.5, 4), (5, 0.5, 2), (10, 0.3, 3), (3, 0.1, 1)])
def test_number_of_promoted_trials_is_rounded_down(trials: int, share: float, expected: int) -> None:
    assert Rung(updates=10, keep=share).num_promoted(trials) == expected
    assert Rung(updates=10).num_promoted(trials) == 0


def test_promoted_trials_continue_the_runs_of_the_rung_before(trainer: Trainer, started: Experiment) -> None:
    config = experiment(search={"num_samples": 8, "scheduler": {"type": "promotion", "rungs": RUNGS}})
    searches, _ = search_arms(started, config)
    (search,) = searches
    assert trainer.phases == ["search_SRPO_rung_1", "search_SRPO_rung_2", "search_SRPO_rung_3"]
    first = {index: trainer.runs[f"SRPO_trial_{index}_rung_1"] for index in range(8)}
    nearest = sorted(first, key=lambda index: abs(math.log(first[index].changes[LR] / 4e-6)))
    for rung, count, updates in ((2, 4, 20), (3, 2, 40)):
        runs = [run for name, run in trainer.runs.items() if name.endswith(f"_rung_{rung}")]
        assert [run.name for run in runs] == [f"SRPO_trial_{index}_rung_{rung}" for index in sorted(nearest[:count])]
        for run in runs:
            before = run.name.replace(f"rung_{rung}", f"rung_{rung - 1}")
            assert run.start_from == f"{started.folder}/trials/{before}"
            assert run.changes["training.num_updates"] == updates
            assert "evaluation.num_prompts" not in run.changes
            assert run.seed == 5
    assert all(run.start_from is None and run.changes["evaluation.num_prompts"] == 4 for run in first.values())
    assert search.chosen == f"SRPO_trial_{nearest[0]}_rung_3"
    ended = {row.name for row in search.rows if row.ended}
    assert ended == {f"SRPO_trial_{index}_rung_3" for index in nearest[:2]}
    assert {row.status for row in search.rows if row.name not in ended} == {"stopped early"}
    # A rung's own changes are no values of a trial.
    assert all(
        {LR, STRENGTH, WORDS} < set(row.params) and "evaluation.num_prompts" not in row.params for row in search.rows
    )
    rungs = [(rung.updates, rung.trials, rung.promoted, rung.made, rung.calls) for rung in search.rungs]
    assert rungs == [(10, 8, 4, 80, 400.0), (20, 4, 2, 40, 200.0), (40, 2, 0, 40, 200.0)]


def test_draws_and_promotions_depend_on_the_seed_of_the_search_alone(trainer: Trainer, started: Experiment) -> None:
    def searched(seed: int) -> list[tuple[str, Any]]:
        scheduler = {"type": "promotion", "rungs": RUNGS}
        (search,), _ = search_arms(started, experiment(search={"seed": seed, "scheduler": scheduler}))
        return [(row.name, row.params) for row in search.rows]

    assert searched(3) == searched(3) != searched(4)


def test_trial_that_fails_in_a_rung_is_not_promoted(started: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(search={"num_samples": 4, "scheduler": {"type": "promotion", "rungs": RUNGS}})
    names = [f"SRPO_trial_{index}_rung_1" for index in range(4)]
    monkeypatch.setattr(trials_module, "run_planned", Trainer(failing=names[:3]))
    (search,), _ = search_arms(started, config)
    assert search.chosen == "SRPO_trial_3_rung_3"
    assert [row.status for row in search.rows] == ["failed: broken"] * 3 + ["finished"]
    monkeypatch.setattr(trials_module, "run_planned", Trainer(failing=names))
    with pytest.raises(ValueError, match=r"expected a finished trial of SRPO .* \(failed: broken\)"):
        search_arms(started, config)


def test_worst_trials_copy_one_of_the_best_and_the_others_go_on() -> None:
    values = [{LR: rate * 1e-6, STRENGTH: 0.8, WORDS: "vivid"} for rate in range(1, 9)]
    ranked = [3, 5, 0, 1, 2, 4, 6, 7]
    steps = next_round(values, ranked, PBT, DIMENSIONS, lambda path, _: values[0][path], Random(0))
    assert [step.source for step in steps[:6]] == [0, 1, 2, 3, 4, 5]
    assert [step.values for step in steps[:6]] == values[:6]
    assert {step.source for step in steps[6:]} <= {3, 5}
    drawn = {next_round(values, ranked, PBT, DIMENSIONS, lambda *_: 0, Random(seed))[6].source for seed in range(20)}
    assert drawn == {3, 5}


def test_trials_that_cannot_continue_copy_however_many_they_are() -> None:
    values = [{STRENGTH: 0.8}] * 4
    steps = next_round(values, [2], PBT, DIMENSIONS, lambda *_: 0.9, Random(0))
    assert [step.source for step in steps] == [2, 2, 2, 2]
    steps = next_round(values, [2, 0, 1], PBT, DIMENSIONS, lambda *_: 0.9, Random(0))
    assert [step.source for step in steps] == [0, 1, 2, 2]
    steps = next_round(values[:2], [1, 0], PBT, DIMENSIONS, lambda *_: 0.9, Random(0))
    assert [step.source for step in steps] == [1, 1]


def test_numbers_are_multiplied_and_kept_in_their_range() -> None:
    share = SearchDimension(uniform=(0.7, 0.95))
    assert perturb(0.9, share, (0.9,), lambda: None, Random(0)) == pytest.approx(0.81)
    assert perturb(0.9, share, (1.25,), lambda: None, Random(0)) == 0.95
    count = SearchDimension(randint=(2, 9))
    assert [perturb(4, count, (factor,), lambda: None, Random(0)) for factor in (0.5, 1.25, 1.01, 0.99)] == [2, 5, 5, 3]
    assert perturb(8, count, (1.25,), lambda: None, Random(0)) == 8
    both = {perturb(0.8, share, (0.9, 1.1), lambda: None, Random(seed)) for seed in range(20)}
    assert sorted(both) == pytest.approx([0.72, 0.88])


def test_choices_move_to_a_neighbour_if_they_are_numbers_and_are_drawn_again_otherwise() -> None:
    numbers = SearchDimension(choice=(8, 1, 4, 2))
    assert {perturb(4, numbers, (1.2,), lambda: None, Random(seed)) for seed in range(20)} == {2, 8}
    assert {perturb(8, numbers, (1.2,), lambda: None, Random(seed)) for seed in range(20)} == {4, 8}
    words = SearchDimension(choice=("detailed", "vivid"))
    assert perturb("vivid", words, (1.2,), lambda: "drawn", Random(0)) == "drawn"


def test_share_of_values_that_are_drawn_again_is_the_probability() -> None:
    def drawn(probability: float) -> int:
        scheduler = SchedulerConfig(type="pbt", perturb_interval=10, resample_probability=probability)
        random = Random(0)
        found = [explore({STRENGTH: 0.8}, scheduler, DIMENSIONS, lambda *_: 0.123, random) for _ in range(400)]
        return sum(values[STRENGTH] == 0.123 for values in found)

    assert (drawn(0.0), drawn(1.0)) == (0, 400)
    # Four standard deviations.
    assert abs(drawn(0.25) - 100) < 35


def population(num_samples: int = 4, **values: Any) -> ExperimentConfig:
    return experiment(
        search={"num_samples": num_samples, "scheduler": {"type": "pbt", "perturb_interval": 15}}, **values
    )


def test_population_is_trained_in_rounds_and_its_schedule_by_chains_of_runs(
    trainer: Trainer, started: Experiment
) -> None:
    config = population(ablations=[{"name": "late", "set": {STRENGTH: 0.5}, "seeds": [1]}])
    searches, _ = search_arms(started, config)
    (search,) = searches
    assert trainer.phases == [f"search_SRPO_round_{number}" for number in (1, 2, 3)]
    assert [part.updates for part in search.rounds] == [15, 30, 40]
    for before, part in zip(search.rounds, search.rounds[1:], strict=False):
        worst = min(before.members, key=lambda member: member.objective or 0.0)
        best = max(before.members, key=lambda member: member.objective or 0.0)
        copied = [member for member in part.members if member.copied]
        assert [(each.name.rpartition("_round_")[0], each.source) for each in copied] == [
            (worst.name.rpartition("_round_")[0], best.name)
        ]
        for member in part.members:
            run = trainer.runs[member.name]
            assert run.start_from == f"{started.folder}/trials/{member.source}"
            assert {path: run.changes[path] for path in SPACE} == member.values
    assert [member.name.rpartition("_")[2] for member in search.lineage] == ["1", "2", "3"]
    assert search.lineage[-1].name == search.chosen

    trainer.phases.clear()
    trained = train_arms(started, config, searches)
    assert trainer.phases == ["arms_round_1", "arms_round_2", "arms"]
    assert [[row.name for row in arm.rows] for arm in trained] == [["SRPO_seed_1", "SRPO_seed_2"], ["late_seed_1"]]
    for number, (updates, values) in enumerate(search.schedule, 1):
        for name, seed in (("SRPO_seed_1", 1), ("SRPO_seed_2", 2), ("late_seed_1", 1)):
            run = trainer.runs[name if number == 3 else f"{name}_round_{number}"]
            own = {STRENGTH: 0.5} if name == "late_seed_1" else {}
            assert {path: run.changes[path] for path in SPACE} == {**values, **own}
            assert run.seed == seed
            assert run.changes.get("training.num_updates") == (updates if number < 3 else None)
            before = None if number == 1 else f"{started.folder}/trials/{name}_round_{number - 1}"
            assert run.start_from == before
            # Only the last weights are tested.
            assert ("evaluation.test" in run.changes) == (number < 3)


def test_chain_ends_at_a_round_that_fails(started: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [{"updates": 10, "set": {LR: 4e-6}}, {"updates": 40, "set": {LR: 2e-6}}]
    config = experiment(arms=[{"name": "SRPO", "schedule": rounds}])
    trainer = Trainer(failing=["SRPO_seed_2_round_1"])
    monkeypatch.setattr(trials_module, "run_planned", trainer)
    (arm,) = train_arms(started, config, [])
    assert [(row.name, row.status) for row in arm.rows] == [
        ("SRPO_seed_1", "finished"),
        ("SRPO_seed_2_round_1", "failed: broken"),
    ]
    assert "SRPO_seed_2" not in trainer.runs
    assert trainer.runs["SRPO_seed_1_round_1"].changes[LR] == 4e-6
    assert trainer.runs["SRPO_seed_1"].changes[LR] == 2e-6


def test_rows_of_a_phase_that_ray_tune_restored_are_in_the_order_of_its_runs(
    started: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resumed search would promote other trials."""
    runs = [PlannedRun(name, "trial", name, {}, 5) for name in ("a", "b", "c")]
    restored = [SimpleNamespace(path=f"tune/phase/{name}", error=None) for name in ("c", "a", "b")]
    monkeypatch.setattr(phase_module, "fit_phase", lambda *_: restored)
    monkeypatch.setattr(phase_module, "close_tracking", lambda *_: None)
    assert [row.name for row in run_planned(started, "phase", "runs", runs, 2)] == ["a", "b", "c"]


def test_runs_that_ended_before_a_change_of_the_budget_stay_in_the_progress(
    started: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("SRPO_seed_1", "SRPO_seed_2", "SRPO_seed_3")
    runs = [PlannedRun(name, "repeat", name, {}, 5, group="SRPO") for name in names]
    write_decisions(tmp_path, {"SRPO_seed_1": True, "SRPO_seed_2": True, "SRPO_seed_3": False})
    for name in names[:2]:
        note_over(tmp_path, name)
    RunFolder(tmp_path / "trials" / names[0]).make()
    (tmp_path / "trials" / names[0] / "finished.json").write_text("{}")
    change_budget(tmp_path)
    write_progress(tmp_path, Progress.start("mine", "experiment", 3, [HELD_OUT]))
    monkeypatch.setattr(phase_module, "fit_phase", lambda *_: [])
    monkeypatch.setattr(phase_module, "close_tracking", lambda *_: None)
    run_planned(started, "arms", "all arms", runs, 2)
    progress = read_progress(tmp_path)
    assert progress is not None
    states = [(run.name, run.status, run.kind, run.group) for run in progress.runs]
    assert states == [(names[0], "done", "repeat", "SRPO"), (names[1], "stopped early", "repeat", "SRPO")]


def test_people_decide_after_each_rung_which_trials_continue(
    trainer: Trainer, started: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The people here like the opposite of the metric: values of the rate that are far from 4e-6."""
    asked: list[list[str]] = []

    def vote(_experiment: Experiment, _config: ExperimentConfig, rows: Sequence[TrialRow]) -> list[TrialRow]:
        asked.append([row.name for row in rows if row.ended])
        return [
            replace(row, history=[*row.history[:-1], {**row.evaluated, VOTES: -row.evaluated[HELD_OUT]}])
            for row in rows
        ]

    for module in (trials_module, arms_module):
        monkeypatch.setattr(module, "with_votes", vote)
    search = {"num_samples": 8, "scheduler": {"type": "promotion", "rungs": RUNGS}}
    (found,) = search_arms(started, experiment(objective=VOTES, search=search))[0]
    first = {index: trainer.runs[f"SRPO_trial_{index}_rung_1"] for index in range(8)}
    farthest = sorted(first, key=lambda index: -abs(math.log(first[index].changes[LR] / 4e-6)))
    assert asked[0] == [f"SRPO_trial_{index}_rung_1" for index in range(8)]
    assert asked[1] == [f"SRPO_trial_{index}_rung_2" for index in sorted(farthest[:4])]
    assert asked[2] == [f"SRPO_trial_{index}_rung_3" for index in sorted(farthest[:2])]
    assert found.chosen == f"SRPO_trial_{farthest[0]}_rung_3"


def test_lineage_follows_copies_back_to_the_first_round() -> None:
    rounds = [
        RoundResult(10, [Member("a1", {}, None, 0.1), Member("b1", {}, None, 0.2)]),
        RoundResult(20, [Member("a2", {}, "b1", 0.3, copied=True), Member("b2", {}, "b1", 0.2)]),
        RoundResult(30, [Member("a3", {}, "a2", 0.3), Member("b3", {}, "b2", 0.2)]),
    ]
    assert [member.name for member in lineage(rounds, "a3")] == ["b1", "a2", "a3"]


@pytest.mark.parametrize(("name", "ends"), [("promotion", [10, 20, 40]), ("pbt", [10, 20, 30, 40])])
def test_shipped_files_can_be_used(name: str, ends: list[int]) -> None:
    config, base = load_experiment(ROOT / "configs" / "experiments" / f"small_world_{name}.yaml")
    assert config.search.scheduler.ends(base.training.num_updates) == ends


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"type": "promotion"}, "expected `rungs` with type: promotion"),
        ({"rungs": RUNGS}, "expected `rungs` with type: promotion and only there, got 3 rungs with type: asha"),
        ({"type": "promotion", "rungs": [{"updates": 40}]}, "at least two rungs"),
        ({"type": "promotion", "rungs": [RUNGS[1], RUNGS[0], RUNGS[2]]}, r"rising updates, got \[20, 10, 40\]"),
        ({"type": "promotion", "rungs": [RUNGS[2], {"updates": 50}]}, "expected `keep` .* got none in rung 1"),
        ({"type": "promotion", "rungs": RUNGS[:2]}, "expected `keep` in every rung but the last, got one in the last"),
        ({"type": "promotion", "rungs": [*RUNGS[:2], {"updates": 30}]}, "last rung to end at .*=40, got 30"),
        (
            {"type": "promotion", "rungs": [{**RUNGS[0], "set": {"training.batch_size": 4}}, *RUNGS[1:]]},
            "arm 'SRPO': expected the training.batch_size of the run that it continues from, 4, got 8",
        ),
        (
            {"type": "promotion", "rungs": [{**RUNGS[0], "set": {"model.resolutoin": 32}}, *RUNGS[1:]]},
            "rung 1 for arm 'SRPO'.*\n.*unknown key",
        ),
        (
            {"type": "promotion", "rungs": [{**RUNGS[0], "set": {LR: 1e-6}}, *RUNGS[1:]]},
            "no searched value in search.set or `set` of a rung, got training.optimizer.lr",
        ),
        (
            {"type": "promotion", "rungs": [{**RUNGS[0], "set": {"evaluation.test.num_prompts": 1}}, *RUNGS[1:]]},
            "trials are not tested",
        ),
        ({"type": "pbt"}, "expected `perturb_interval` with type: pbt"),
        ({"perturb_interval": 10}, "expected `perturb_interval` with type: pbt and only there"),
        ({"type": "pbt", "perturb_interval": 40}, "expected perturb_interval below .*=40, got 40"),
        ({"type": "pbt", "perturb_interval": 10, "perturb_factors": [0]}, "perturb_factors above 0"),
    ],
)
def test_unusable_scheduler_is_refused(tmp_path: Path, scheduler: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, search={"scheduler": scheduler})


@pytest.mark.parametrize(
    ("values", "override", "message"),
    [
        ({"search": {"searcher": "optuna"}}, "seed=0", "expected searcher: random with scheduler.type: pbt"),
        ({"search": {"num_samples": 1}}, "seed=0", "expected num_samples of 2 or more"),
        ({}, "rollout.reuse=3", r"multiple of rollout\.reuse=3 updates, .* got 10"),
        ({}, "training.lr_schedule.type=cosine", "expected training.lr_schedule.type=constant"),
        ({}, "start_from=runs/other", "expected no start_from in the base config of an experiment"),
        (
            {"arms": [{"name": "SRPO", "space": {"training.batch_size": {"choice": [4, 8]}}}]},
            "seed=0",
            "expected the training.batch_size of the run that it continues from, 8, got 4",
        ),
        (
            {"arms": [{"name": "SRPO", "space": {"training.num_updates": {"choice": [40, 80]}}}]},
            "seed=0",
            "expected no training.num_updates in `space`",
        ),
    ],
)
def test_search_in_parts_that_could_not_continue_is_refused_before_it_starts(
    tmp_path: Path, values: dict[str, Any], override: str, message: str
) -> None:
    scheduler = {"type": "pbt", "perturb_interval": 10}
    search = {"scheduler": scheduler, **values.get("search", {})}
    with pytest.raises(ValueError, match=message):
        load(tmp_path, override, **{**values, "search": search})
    load(tmp_path, search={"scheduler": scheduler})


def test_promotion_checks_conditional_values_together_with_those_that_they_need(tmp_path: Path) -> None:
    space: dict[str, Any] = {
        "algorithm.query": {"choice": ["relative", "plain"]},
        "algorithm.hinge": {"uniform": [0, 2], "when": {"algorithm.query": "relative"}},
        "algorithm.branches": {"choice": [["denoise"]], "when": {"algorithm.query": "plain"}},
    }
    search = {"scheduler": {"type": "promotion", "rungs": RUNGS}}
    load(tmp_path, search=search, arms=[{"name": "SRPO", "space": space}])
    rungs = [{**RUNGS[0], "set": {"training.batch_size": 4}}, *RUNGS[1:]]
    with pytest.raises(ValueError, match=r"arm 'SRPO': expected the training\.batch_size of the run"):
        load(
            tmp_path,
            search={"scheduler": {"type": "promotion", "rungs": rungs}},
            arms=[{"name": "SRPO", "space": space}],
        )


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"schedule": [{"updates": 20, "set": {}}, {"updates": 10, "set": {}}]}, "rising updates in arm 'SRPO'"),
        ({"schedule": [{"updates": 20, "set": {}}], "grid": {LR: [1e-6]}}, "beside the schedule of arm 'SRPO'"),
        (
            {"schedule": [{"updates": 20, "set": {"training.lr": 1}}, {"updates": 40, "set": {}}]},
            "arm 'SRPO': schedule, round 1",
        ),
        ({"schedule": [{"updates": 20, "set": {}}, {"updates": 30, "set": {}}]}, "schedule to end at .*=40, got 30"),
        (
            {"schedule": [{"updates": 20, "set": {"model.lora": {}}}, {"updates": 40, "set": {}}]},
            "arm 'SRPO': expected the model.lora of the run that it continues from",
        ),
    ],
)
def test_unusable_schedule_is_refused(tmp_path: Path, arm: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, arms=[{"name": "SRPO", **arm}])


def load(folder: Path, *overrides: str, **values: Any) -> ExperimentConfig:
    given = {"base": str(SMALL_WORLD), "arms": [{"name": "SRPO", "space": SPACE}], **values}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(given))
    return load_experiment(folder / "experiment.yaml", overrides)[0]
