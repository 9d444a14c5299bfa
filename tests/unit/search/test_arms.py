"""Arms of an experiment: the runs that a search and the training with several seeds plan."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import ExperimentConfig, apply, load_run
from srpo_ray.config.arm import Arm as ConfigArm
from srpo_ray.config.search import SearchConfig
from srpo_ray.evaluation.results import Search, TrialRow
from srpo_ray.search import arm_trials as trials_module
from srpo_ray.search.arm_trials import ArmTrials, searched_values
from srpo_ray.search.arms import arm_changes, search_arms, train_arms
from srpo_ray.search.phase import PlannedRun
from srpo_ray.search.spending import BudgetTerms
from srpo_ray.search.trial import Experiment
from tests.conftest import SMALL_WORLD

LR, HELD_OUT, DRIFT = "training.optimizer.lr", "evaluator/held_out", "image/drift"
CONFIG = ExperimentConfig.model_validate(
    {
        "base": "base.yaml",
        "reference_arm": "SRPO",
        "seeds": [1, 2],
        "search": {"set": {"evaluation.seed": 77}},
        "arms": [
            {"name": "ReFL", "set": {"algorithm": {"type": "refl"}}, "grid": {LR: [1e-6, 2e-6]}},
            {"name": "SRPO", "grid": {LR: [1e-6, 2e-6, 3e-6]}},
            {"name": "ReFL, longer", "like": "ReFL", "set": {"training.num_updates": 80}, "seeds": [1]},
        ],
        "ablations": [
            {"name": "no inversion", "set": {"algorithm.branches": ["denoise"]}},
            {"name": "once", "set": {LR: 2e-6}, "seeds": [3]},
        ],
    }
)


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Experiment, list[PlannedRun]]:
    """An experiment whose runs are only noted; the held-out score is highest for a learning rate of 2e-6."""
    made: list[PlannedRun] = []

    def run(experiment: Experiment, phase: str, title: str, runs: Sequence[PlannedRun], *_: object) -> list[TrialRow]:
        made.extend(runs)
        return [
            TrialRow(
                run.name,
                run.kind,
                run.label,
                run.changes,
                [
                    {"update": 0, HELD_OUT: 0.5, DRIFT: 0.0},
                    {"update": 4, HELD_OUT: 0.6 - abs(run.changes[LR] - 2e-6) * 1e4, DRIFT: run.changes[LR] * 1e4},
                ],
                "finished",
                1.0,
                run.seed,
            )
            for run in runs
        ]

    monkeypatch.setattr(trials_module, "run_planned", run)
    return Experiment(
        load_run([SMALL_WORLD], ["seed=5", "evaluation.test=null"]), str(tmp_path), {}, "", "", None
    ), made


def test_grid_is_searched_with_the_seed_of_the_base_and_the_changes_of_the_search(
    planned: tuple[Experiment, list[PlannedRun]],
) -> None:
    experiment, made = planned
    searches, notes = search_arms(experiment, CONFIG)
    assert [(each.arm, each.chosen) for each in searches] == [("ReFL", "ReFL_trial_1"), ("SRPO", "SRPO_trial_1")]
    assert {run.seed for run in made} == {5}
    assert [run.label for run in made] == ["lr 1e-6", "lr 2e-6", "lr 1e-6", "lr 2e-6", "lr 3e-6"]
    # A trial is not tested.
    assert made[0].changes == {"algorithm": {"type": "refl"}, LR: 1e-6, "evaluation.seed": 77, "evaluation.test": None}
    assert notes == []
    assert [value.at_the_end for each in searches for value in each.searched] == [True, False]


def test_grids_of_arms_take_turns_with_a_budget(planned: tuple[Experiment, list[PlannedRun]]) -> None:
    experiment, made = planned
    terms = BudgetTerms({"hours": 1.0}, None, 0.0, 2)
    search_arms(replace(experiment, budget=terms), CONFIG)
    names = ["ReFL_trial_0", "SRPO_trial_0", "ReFL_trial_1", "SRPO_trial_1", "SRPO_trial_2"]
    assert [run.name for run in made] == names
    assert (Path(experiment.folder) / "budget" / "search.json").exists()


@pytest.mark.parametrize(("started", "kept"), [(5, 5), (3, 3), (1, 2)])
def test_arms_that_the_budget_had_no_run_for_are_left_out(
    started: int, kept: int, planned: tuple[Experiment, list[PlannedRun]], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, _ = planned
    searches, _ = search_arms(experiment, CONFIG)
    train: Any = trials_module.run_planned
    monkeypatch.setattr(trials_module, "run_planned", lambda *arguments: train(*arguments)[:started])
    arms = train_arms(experiment, CONFIG, searches)
    # Both searched arms have a chosen trial at least.
    assert [arm.name for arm in arms] == ["ReFL", "SRPO", "ReFL, longer", "no inversion", "once"][:kept]
    assert sum(len(arm.rows) for arm in arms) == started


def test_experiment_without_a_run_of_its_reference_arm_ends_with_the_reason(
    planned: tuple[Experiment, list[PlannedRun]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExperimentConfig.model_validate(
        {"base": "base.yaml", "reference_arm": "b", "arms": [{"name": "a", "set": {LR: 1e-6}}, {"name": "b"}]}
    )
    train: Any = trials_module.run_planned
    monkeypatch.setattr(trials_module, "run_planned", lambda *arguments: train(*arguments[:3], [])[:1])
    with pytest.raises(ValueError, match="budget: expected enough for one run of the reference arm 'b'"):
        train_arms(planned[0], config, [])


def test_ranges_of_a_space_are_those_that_trials_are_drawn_from() -> None:
    space = {
        "a.lr": {"loguniform": [1e-6, 1e-5]},
        "a.share": {"uniform": [0.0, 1.0]},
        "a.count": {"randint": [2, 5]},
        "a.words": {"choice": ["detailed", "vivid"]},
    }
    best = {"a.lr": 9.5e-6, "a.share": 0.5, "a.count": 4, "a.words": "vivid"}
    row = TrialRow("best", "trial", "", best, [], "finished", 1.0, 0)
    found = searched_values(ConfigArm.model_validate({"name": "SRPO", "space": space}), row, ArmTrials([row]))
    assert [(value.path, list(value.tried), value.scale, value.chosen, value.at_the_end) for value in found] == [
        ("a.lr", [1e-6, 1e-5], "log", 9.5e-6, True),
        ("a.share", [0.0, 1.0], "linear", 0.5, False),
        ("a.count", [2, 4], "linear", 4, True),
        ("a.words", ["detailed", "vivid"], "values", "vivid", False),
    ]


def test_selection_on_the_noise_of_the_reported_scores_is_noted(planned: tuple[Experiment, list[PlannedRun]]) -> None:
    experiment, _ = planned
    for search in (SearchConfig(), SearchConfig(set={"evaluation.seed": experiment.base.evaluation.seed})):
        _, notes = search_arms(experiment, CONFIG.model_copy(update={"search": search}))
        assert notes[0].startswith("Trials were evaluated on the same noise as ReFL, SRPO, which favours")


def test_noise_that_chose_the_values_is_no_concern_where_arms_are_tested(
    planned: tuple[Experiment, list[PlannedRun]],
) -> None:
    experiment, made = planned
    tested = replace(experiment, base=apply(experiment.base, {"evaluation.test": {"prompts": "final.txt"}}))
    searches, notes = search_arms(tested, CONFIG.model_copy(update={"search": SearchConfig()}))
    assert not any("noise" in note for note in notes)
    assert all(run.changes["evaluation.test"] is None for run in made), "a trial was tested"
    made.clear()
    train_arms(tested, CONFIG, searches)
    assert all(apply(tested.base, run.changes).evaluation.test == tested.base.evaluation.test for run in made)


def test_test_settings_of_an_arm_do_not_reach_its_trials(planned: tuple[Experiment, list[PlannedRun]]) -> None:
    experiment, made = planned
    arm = {"name": "SRPO", "set": {"evaluation.test.num_prompts": 4}, "grid": {LR: [2e-6]}}
    config = ExperimentConfig.model_validate({"base": "base.yaml", "arms": [arm]})
    search_arms(experiment, config)
    assert apply(experiment.base, made[0].changes).evaluation.test is None


def test_arms_are_trained_with_the_values_of_their_search_and_without_its_changes(
    planned: tuple[Experiment, list[PlannedRun]],
) -> None:
    experiment, made = planned
    searches, _ = search_arms(experiment, CONFIG)
    made.clear()
    arms = train_arms(experiment, CONFIG, searches)
    assert {run.changes[LR] for run in made} == {2e-6}
    assert [run.name for run in made] == [
        "ReFL_seed_1",
        "SRPO_seed_1",
        "ReFL_longer_seed_1",
        "no_inversion_seed_1",
        "once_seed_3",
        "ReFL_seed_2",
        "SRPO_seed_2",
        "no_inversion_seed_2",
    ]
    by_name = {run.name: (run.changes, run.seed) for run in made}
    longer = {"algorithm": {"type": "refl"}, LR: 2e-6, "training.num_updates": 80}
    assert by_name["ReFL_longer_seed_1"] == (longer, 1)
    assert by_name["no_inversion_seed_2"] == ({LR: 2e-6, "algorithm.branches": ["denoise"]}, 2)
    assert arm_changes(CONFIG, CONFIG.arm("ReFL, longer"), searches) == longer
    assert [(arm.name, arm.kind, [row.seed for row in arm.rows]) for arm in arms] == [
        ("ReFL", "method", [1, 2]),
        ("SRPO", "method", [1, 2]),
        ("ReFL, longer", "method", [1]),
        ("no inversion", "ablation", [1, 2]),
        ("once", "ablation", [3]),
    ]


def searched_front(experiment: Experiment, **values: object) -> tuple[Search, list[str]]:
    """Search of three learning rates: the second has the best score, the first the smallest drift."""
    arm = {"name": "SRPO", "grid": {LR: [1e-6, 2e-6, 3e-6]}}
    found, notes = search_arms(experiment, ExperimentConfig.model_validate({"base": "b.yaml", "arms": [arm], **values}))
    return found[0], notes


def test_front_of_a_search_has_the_trials_within_the_limits_that_no_other_beats(
    planned: tuple[Experiment, list[PlannedRun]],
) -> None:
    experiment, _ = planned
    objectives = {HELD_OUT: "max", DRIFT: "min"}
    search, _ = searched_front(experiment, objectives=objectives)
    assert (search.front, search.breaking) == (["SRPO_trial_0", "SRPO_trial_1"], [])
    # A negative fall is a rise: only the second trial rises by 0.095.
    search, _ = searched_front(experiment, objectives=objectives, max_fall={HELD_OUT: -0.095})
    assert (search.front, search.breaking) == (["SRPO_trial_1"], ["SRPO_trial_0", "SRPO_trial_2"])
    search, _ = searched_front(experiment, objectives=objectives, max_fall={HELD_OUT: -9})
    assert search.front == ["SRPO_trial_0", "SRPO_trial_1"]
    assert searched_front(experiment)[0].front == []


def test_objective_that_no_trial_has_is_noted(planned: tuple[Experiment, list[PlannedRun]]) -> None:
    experiment, _ = planned
    search, notes = searched_front(experiment, objectives={HELD_OUT: "max", "image/drift2": "min"})
    assert search.front == []
    assert any(note.startswith("SRPO: no trial has image/drift2 of `objectives`") for note in notes)


def test_arm_keeps_its_own_value_where_the_condition_of_a_searched_one_does_not_hold() -> None:
    space = {
        "algorithm.query": {"choice": ["relative", "guided"]},
        "algorithm.hinge": {"uniform": [0, 2], "when": {"algorithm.query": "relative"}},
    }
    arm = {"name": "SRPO", "set": {"training.batch_size": 2}, "space": space}
    config = ExperimentConfig.model_validate({"base": "b.yaml", "arms": [arm]})
    chosen = TrialRow("t", "trial", "t", {"algorithm.query": "guided"}, [], "finished", 1.0, 0)
    search = Search("SRPO", [chosen], "t")
    assert arm_changes(config, config.arms[0], [search]) == {"training.batch_size": 2, "algorithm.query": "guided"}
    assert [value.path for value in searched_values(config.arms[0], chosen, ArmTrials([chosen]))] == ["algorithm.query"]
