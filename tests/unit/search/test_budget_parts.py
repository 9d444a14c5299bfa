"""Budgets of searches whose runs continue from each other: what a part needs, and what an ended search keeps."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.config import apply, load_experiment, load_run
from srpo_ray.search import budget_terms as terms
from srpo_ray.search.admission import Request, decide, later_parts, num_covered, too_small
from srpo_ray.search.budget_requests import admit_part, read_decisions, request_of, write_decisions
from srpo_ray.search.budget_terms import BudgetTerms, FinalRun, Part, budget_terms, parse_name
from srpo_ray.search.chains import train_chains
from srpo_ray.search.phase import PlannedRun
from srpo_ray.search.population import search_by_population
from srpo_ray.search.promotion import SearchInParts, search_by_promotion
from tests.conftest import SMALL_WORLD
from tests.unit.search.test_admission import run, spending
from tests.unit.search.test_parts import LR, RUNGS, Trainer, experiment

PARTS = [Part(1, 10, 0.5), Part(2, 10, 0.5), Part(3, 20, None)]
ROUNDS = [Part(0, 10, 1.0), Part(0, 10, None)]


def chained(folder: Path, **values: Any) -> Any:
    """A promotion of one arm with 100 GPU-hours, in which an update of the first rung takes 0.1 GPU-hours."""
    limits = {"gpu_hours": 100.0}
    spent = spending(folder, **{"limits": limits, "searched": ["A"], "parts": {"A": PARTS}, **values})
    run(folder, "A_trial_0_rung_1", 1.0, 10)
    return spent


def asked(name: str, updates: int = 10) -> Request:
    return Request(name, updates, 1.0)


def test_tests_of_larger_images_take_longer_in_proportion_to_their_tokens() -> None:
    test = {"prompts": "small_world:test", "num_prompts": 32, "samples_per_prompt": 2}
    base = apply(load_run([SMALL_WORLD]), {"evaluation.num_prompts": 32, "evaluation.test": test})
    assert terms.tests_of(base) == 2
    assert terms.tests_of(apply(base, {"evaluation.test.resolution": [128, 64]})) == 4
    assert terms.tests_of(apply(base, {"evaluation.resolution": [128, 64]})) == 2


def test_continued_run_has_spent_its_own_updates_only(tmp_path: Path) -> None:
    spent = chained(tmp_path)
    run(tmp_path, "A_trial_0_rung_2", 3.0, 20)
    (tmp_path / "trials" / "A_trial_0_rung_2" / "start.json").write_text(json.dumps({"run": "", "update": 10}))
    assert {use.name: use.updates for use in spent.runs()} == {"A_trial_0_rung_1": 10, "A_trial_0_rung_2": 10}
    assert spent.amounts() == {"gpu_hours": 4.0}
    # Each rung has its own time per update, and an unknown rung that of the last one known.
    assert [spent.hours_per_update("A", rung) for rung in (1, 2, 3, 0)] == pytest.approx([0.1, 0.3, 0.3, 0.3])


def test_rung_that_was_not_trained_costs_what_the_plan_says_in_relation_to_others(tmp_path: Path) -> None:
    spent = chained(tmp_path, planned={"A_rung_1": 1.0, "A_rung_3": 4.0})
    assert spent.hours_per_update("A", 3) == pytest.approx(0.4)
    assert spent.hours_per_update("A", 2) == pytest.approx(0.1)


def test_later_rungs_cost_the_trials_that_are_promoted(tmp_path: Path) -> None:
    spent = chained(tmp_path)
    first, second = parse_name("A_trial_0_rung_1"), parse_name("A_trial_0_rung_2")
    # 8 trials: 4 make 10 updates, then 2 make 20, at 0.1 hours each.
    assert later_parts(first, 8, 1.0, spent) == {"gpu_hours": pytest.approx(4 * 1 + 2 * 2)}
    assert later_parts(second, 5, 1.0, spent) == {"gpu_hours": pytest.approx(2 * 2)}
    assert later_parts(parse_name("A_trial_0_rung_3"), 2, 1.0, spent) == {"gpu_hours": 0.0}
    rounds = spending(tmp_path, parts={"A": ROUNDS}, limits={"gpu_hours": 100.0})
    assert later_parts(parse_name("A_trial_0_round_1"), 3, 1.0, rounds) == {"gpu_hours": pytest.approx(3.0)}


def test_trial_starts_if_the_budget_covers_it_with_the_rungs_after_it_and_the_final_runs(tmp_path: Path) -> None:
    admitted = {"A_trial_0_rung_1": True}
    finals = [FinalRun("A", 40, 1.0)]
    # 1 is spent, the second trial takes 1, the later rungs of two trials 1 + 2, and the final run 4.
    for limit, expected in ((9.1, "start"), (8.9, "refuse")):
        spent = chained(tmp_path, limits={"gpu_hours": limit}, finals=finals)
        assert decide(asked("A_trial_1_rung_1"), spent, [], admitted) == expected


def test_part_of_the_runs_of_a_rung_starts_and_a_round_is_whole_or_not_trained(tmp_path: Path) -> None:
    requests = [asked(f"A_trial_{trial}_rung_2") for trial in range(4)]
    # 1 is spent. A run takes 1; of two runs one makes the last rung, which takes 2 more.
    for limit, expected in ((9.1, 4), (6.1, 3), (5.1, 2), (4.1, 1), (3.9, 0)):
        spent = chained(tmp_path, limits={"gpu_hours": limit})
        assert num_covered(requests, spent, {}, all_or_none=False) == expected, limit
        assert num_covered(requests, spent, {}, all_or_none=True) == (4 if limit > 9 else 0)
    spent = chained(tmp_path, limits={"gpu_hours": 3.9})
    assert num_covered(requests, spent, {"A_trial_0_rung_2": True}, all_or_none=False) == 1


def test_first_trial_shows_the_cost_of_one_trial_through_all_rungs(tmp_path: Path) -> None:
    spent = chained(tmp_path, limits={"gpu_hours": 3.0})
    run(tmp_path, "A_trial_0_rung_1", 0.5, 5, ended=False)
    (tmp_path / "trials" / "A_trial_0_rung_1" / "finished.json").unlink()
    assert too_small(asked("A_trial_0_rung_1"), spent) == {"gpu_hours": pytest.approx(4.0)}


def test_seed_starts_if_the_budget_covers_all_rounds_of_its_schedule_and_those_begun(tmp_path: Path) -> None:
    spent = spending(tmp_path, limits={"gpu_hours": 10.0}, searched=[], schedules={"A": [10, 10, 20]})
    run(tmp_path, "A_seed_1_round_1", 1.0, 10)
    admitted = {"A_seed_1_round_1": True}
    # 1 is spent, the first seed needs 3 more, and the second one 4.
    assert decide(asked("A_seed_2_round_1"), spent, [], admitted) == "start"
    admitted["A_seed_2_round_1"] = True
    assert decide(asked("A_seed_3_round_1"), spent, [], admitted) == "refuse"
    # A seed that has begun is trained to its end.
    run(tmp_path, "A_seed_2_round_1", 99.0, 10)
    assert decide(asked("A_seed_1_round_2"), spent, [], admitted) == "start"
    assert decide(asked("A_seed_1", 20), spent, [], admitted) == "start"


def test_decisions_on_a_rung_are_kept_when_the_experiment_is_resumed(tmp_path: Path) -> None:
    chained(tmp_path)
    terms = BudgetTerms({"gpu_hours": 4.1}, None, 0.0, 2, searched=["A"], parts={"A": PARTS})
    before = str(tmp_path / "trials" / "A_trial_0_rung_1")
    settings = ["training.num_updates=20", "training.num_gpus=1", f"start_from={before}"]
    runs = [load_run([SMALL_WORLD], [f"name=A_trial_{trial}_rung_2", *settings]) for trial in (1, 0)]
    assert [request_of(tmp_path, each).updates for each in runs] == [10, 10]
    assert admit_part(tmp_path, terms, runs, all_or_none=False) == {"A_trial_1_rung_2"}
    # The run that is covered still asks for its start.
    assert read_decisions(tmp_path) == {"A_trial_0_rung_2": False}
    write_decisions(tmp_path, {"A_trial_1_rung_2": True, "A_trial_0_rung_2": False})
    run(tmp_path, "A_trial_1_rung_2", 50.0, 20)
    assert admit_part(tmp_path, terms, runs, all_or_none=False) == {"A_trial_1_rung_2"}


class Budget:
    """Stands for a budget with room for so many runs of the first part, and then of each later one."""

    def __init__(self, first: int, *later: int) -> None:
        self.first, self.later, self.trainer = first, [*later], Trainer()
        self.stopped = ""

    def train(self, phase: str, title: str, runs: Sequence[PlannedRun]) -> list[Any]:
        started = runs[: self.first] if phase.endswith("_1") else runs
        rows: list[Any] = self.trainer(None, phase, title, started)  # pyright: ignore[reportArgumentType]
        return [replace(row, status="stopped early") if phase == self.stopped else row for row in rows]

    def admit(self, runs: Sequence[PlannedRun], all_or_none: bool) -> set[str]:
        room = self.later.pop(0)
        return {run.name for run in runs[: room if not all_or_none or room >= len(runs) else 0]}

    def search(self, scheduler: dict[str, Any]) -> SearchInParts:
        config = experiment(search={"num_samples": 8, "scheduler": scheduler})
        return SearchInParts(config, config.arms[0], 0, str, lambda name: f"/{name}", self.train, self.admit)


PROMOTION = {"type": "promotion", "rungs": RUNGS}
DRAWN = [{LR: rate * 1e-6} for rate in (1, 9, 4, 8, 2, 7, 3, 6)]


def test_promotion_continues_the_best_of_the_trials_that_started(tmp_path: Path) -> None:
    rows, rungs = search_by_promotion(Budget(6, 2, 1).search(PROMOTION), DRAWN)
    # Of six trials three may be promoted, and the budget has room for the best two; then for one.
    assert [(rung.trials, rung.promoted) for rung in rungs] == [(6, 2), (2, 1), (1, 0)]
    assert [row.name for row in rows if row.ended] == ["SRPO_trial_2_rung_3"]
    assert len(rows) == 6
    _, rungs = search_by_promotion(Budget(6, 8, 8).search(PROMOTION), DRAWN)
    assert [(rung.trials, rung.promoted) for rung in rungs] == [(6, 3), (3, 1), (1, 0)]


def test_promotion_without_room_for_a_rung_ends_with_the_best_of_the_one_before(tmp_path: Path) -> None:
    rows, rungs = search_by_promotion(Budget(8, 4, 0).search(PROMOTION), DRAWN)
    assert [(rung.trials, rung.promoted) for rung in rungs] == [(8, 4), (4, 0)]
    assert sorted(row.name for row in rows if row.ended) == [f"SRPO_trial_{trial}_rung_2" for trial in (2, 5, 6, 7)]
    budget = Budget(8, 4, 2)
    budget.stopped = "search_SRPO_rung_3"
    rows, rungs = search_by_promotion(budget.search(PROMOTION), DRAWN)
    assert len(rungs) == 2
    assert sorted(row.name for row in rows if row.ended) == [f"SRPO_trial_{trial}_rung_2" for trial in (2, 5, 6, 7)]


def test_population_without_room_for_a_round_ends_with_the_round_before(tmp_path: Path) -> None:
    scheduler = {"type": "pbt", "perturb_interval": 10}
    draws = [{**values, "algorithm.interpolation_strength": 0.8} for values in DRAWN]
    budget = Budget(5, 5, 0)
    rows, rounds = search_by_population(budget.search(scheduler), draws, 40, lambda *_: 0.8)
    assert [len(part.members) for part in rounds] == [5, 5]
    assert [row.name for row in rows] == [f"SRPO_trial_{trial}_round_2" for trial in range(5)]
    assert all(row.ended for row in rows)


def test_chain_that_the_budget_has_no_room_for_is_not_begun(tmp_path: Path) -> None:
    chains = [
        [PlannedRun(f"A_seed_{seed}{end}", "repeat", "", {LR: 1e-6}, seed) for end in ("_round_1", "")]
        for seed in (1, 2)
    ]
    budget = Budget(1)
    rows = train_chains(budget.train, "arms", "all", chains)
    assert [*rows] == ["A_seed_1"]
    assert budget.trainer.phases == ["arms_round_1", "arms"]


def test_terms_have_the_parts_of_a_search_and_the_rounds_of_its_seeds(tmp_path: Path) -> None:
    def terms(**values: Any) -> BudgetTerms:
        arm = {"name": "my arm", "space": {LR: {"uniform": [1e-6, 2e-6]}}}
        content = {"base": str(SMALL_WORLD), "arms": [arm], "budget": {"hours": 1}, "seeds": [1, 2], **values}
        (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content))
        config, base = load_experiment(tmp_path / "experiment.yaml", ["training.num_updates=40"])
        found = budget_terms(config, base, {})
        assert found is not None
        return found

    found = terms(search={"scheduler": PROMOTION})
    assert found.parts == {"my_arm": [(1, 10, 0.5), (2, 10, 0.5), (3, 20, None)]}
    assert [(final.updates, final.rounds) for final in found.finals] == [(40, 1)] * 2
    found = terms(search={"scheduler": {"type": "pbt", "perturb_interval": 15}})
    assert found.parts == {"my_arm": [(0, 15, 1.0), (0, 15, 1.0), (0, 10, None)]}
    assert found.schedules == {"my_arm": [15, 15, 10]}
    schedule = [{"updates": updates, "set": {LR: 1e-6}} for updates in (10, 40)]
    found = terms(arms=[{"name": "A", "schedule": schedule}, {"name": "B"}])
    assert found.schedules == {"A": [10, 30]}
    assert [(final.arm, final.updates, final.rounds) for final in found.finals] == [("A", 40, 2)] * 2 + [
        ("B", 40, 1)
    ] * 2
