"""Admission of runs by a budget: what starts, waits and is refused, and what spending is counted."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config.budget import Limit
from srpo_ray.planning.prices import Prices
from srpo_ray.planning.starts import PHASE_S
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.usage import metered, used_gpu_seconds, used_seconds
from srpo_ray.search.admission import Request, decide, stops, too_small
from srpo_ray.search.budget_clock import clock_file, note_seconds, phases_file, walls_file
from srpo_ray.search.budget_terms import BudgetTerms, FinalRun, parse_name
from srpo_ray.search.spending import Spending

HOUR = 3600


def spending(folder: Path, hours: float = 0.0, **values: Any) -> Spending:
    """An experiment with two searched arms, of 10 GPU-hours, whose clock has counted some hours."""
    terms: dict[str, Any] = {"limits": {"gpu_hours": 10.0}, "prices": None, "reward_gpus": 0.0, "concurrency": 2}
    now = time.time()
    clock_file(folder).parent.mkdir(parents=True, exist_ok=True)
    clock_file(folder).write_text(json.dumps({"earlier_s": hours * HOUR, "began": now, "seen": now}))
    return Spending(folder, BudgetTerms(**{**terms, "searched": ["A", "B"], **values}))


def run(folder: Path, name: str, hours: float, updates: int, *, gpus: float = 1.0, ended: bool = True) -> None:
    """A run that has been at work for some hours."""
    path = RunFolder(folder / "trials" / name)
    path.make()
    path.usage.write_text(json.dumps({"starts": [{"seconds": hours * HOUR, "workers": 1, "gpus": gpus}]}))
    path.updates.write_text("".join(json.dumps({"update": update + 1}) + "\n" for update in range(updates)))
    if ended:
        path.finished.write_text("{}")


def trial(name: str, updates: int = 10) -> Request:
    return Request(name, updates, 1.0)


def test_name_of_a_run_says_its_arm_and_kind() -> None:
    assert parse_name("ReFL_plain_trial_12") == ("ReFL_plain", True, 0, 0)
    assert parse_name("my_trial_arm_seed_3") == ("my_trial_arm", False, 0, 0)
    assert parse_name("A_trial_3_rung_2") == ("A", True, 2, 0)
    assert parse_name("A_rung_1_trial_3_round_12") == ("A_rung_1", True, 0, 12)
    assert parse_name("A_seed_1_round_2") == ("A", False, 0, 2)


def test_spending_is_what_trainers_and_reward_pools_have_reserved(tmp_path: Path) -> None:
    run(tmp_path, "A_trial_0", 1.5, 10, gpus=4)
    run(tmp_path, "A_trial_1", 0.5, 3, gpus=2, ended=False)
    limits: dict[Limit, float] = {"gpu_hours": 10.0, "hours": 9.0, "money": 100.0}
    spent = spending(tmp_path, 2.0, limits=limits, prices=Prices(3.0, 1.0), reward_gpus=0.5).amounts()
    assert spent["hours"] == pytest.approx(2.0, abs=0.01)
    assert spent["gpu_hours"] == pytest.approx(1.5 * 4 + 0.5 * 2 + 2 * 0.5, abs=0.01)
    assert spent["money"] == pytest.approx(3 * 7 + 1 * 1, abs=0.01)


def test_first_trial_of_an_arm_starts_while_anything_is_left(tmp_path: Path) -> None:
    spent = spending(tmp_path)
    assert decide(trial("A_trial_0"), spent, [], {}) == "start"
    run(tmp_path, "A_trial_0", 10.0, 10)
    assert decide(trial("B_trial_0"), spent, [], {"A_trial_0": True}) == "refuse"


def test_search_of_an_arm_leaves_the_next_arm_its_share(tmp_path: Path) -> None:
    spent, admitted = spending(tmp_path), {"A_trial_0": True, "A_trial_1": True}
    for name in admitted:
        run(tmp_path, name, 2.0, 10)
    # 4 of 10 are spent and a trial takes 2: the first arm's share of 5 is full, that of both is not.
    assert decide(trial("A_trial_2"), spent, [], admitted) == "refuse"
    assert decide(trial("B_trial_0"), spent, [], admitted) == "start"
    assert decide(trial("B_trial_1"), spent, [], {**admitted, "B_trial_0": True}) == "start"


def test_search_leaves_room_for_the_runs_after_it(tmp_path: Path) -> None:
    finals = [FinalRun("A", 10, 1.0)] * 2
    spent, admitted = spending(tmp_path, searched=["A"], finals=finals), {"A_trial_0": True, "A_trial_1": True}
    run(tmp_path, "A_trial_0", 2.0, 10)
    assert decide(trial("A_trial_2"), spent, [], admitted) == "start"
    run(tmp_path, "A_trial_1", 2.0, 10)
    # 4 are spent, and two seeds take 4: a third trial has room, a fourth has none, and the seeds have.
    assert decide(trial("A_trial_2"), spent, [], admitted) == "start"
    run(tmp_path, "A_trial_2", 2.0, 10)
    assert decide(trial("A_trial_3"), spent, [], {**admitted, "A_trial_2": True}) == "refuse"
    assert decide(trial("A_seed_1"), spent, [], admitted) == "start"
    assert decide(trial("A_seed_2"), spent, [trial("A_seed_1")], admitted) == "start"
    assert decide(trial("A_seed_3"), spent, [trial("A_seed_1"), trial("A_seed_2")], admitted) == "wait"


@pytest.mark.parametrize(("ranges", "reserve", "decision"), [(True, 4.0, "refuse"), (False, 2.0, "start")])
def test_run_with_a_range_of_workers_is_expected_to_reserve_what_those_of_its_arm_did(
    ranges: bool, reserve: float, decision: str, tmp_path: Path
) -> None:
    finals = [FinalRun("A", 10, 1.0)]
    spent = spending(tmp_path, searched=["A"], finals=finals, ranges=ranges)
    run(tmp_path, "A_trial_0", 1.0, 10)
    starts = [{"seconds": HOUR, "workers": 1, "gpus": 1}, {"seconds": HOUR, "workers": 3, "gpus": 3}]
    RunFolder(tmp_path / "trials" / "A_trial_0").usage.write_text(json.dumps({"starts": starts}))
    # 4 of 10 are spent in 2 hours, so another one takes 4 again, and a seed another 4.
    assert spent.amounts() == {"gpu_hours": pytest.approx(4.0)}
    assert spent.reserve() == {"gpu_hours": pytest.approx(reserve)}
    assert decide(trial("A_trial_1"), spent, [], {"A_trial_0": True}) == decision


def test_reserve_is_at_most_half_of_the_budget(tmp_path: Path) -> None:
    spent = spending(tmp_path, finals=[FinalRun("A", 10, 1.0)] * 9)
    run(tmp_path, "A_trial_0", 2.0, 10)
    assert spent.reserve() == {"gpu_hours": 5.0}


@pytest.mark.parametrize(
    ("finals", "start", "expected"),
    [
        # Five runs of 2 hours on two places take three turns; one run takes its whole time.
        ([10] * 5, 0.0, 6.0),
        ([10], 0.0, 2.0),
        # The longer ones first: 4 hours, then 2.
        ([10, 20, 10], 0.0, 6.0),
        ([10], 0.5, 2.5),
        ([], 0.5, 0.0),
    ],
)
def test_reserve_of_wall_clock_time_has_room_for_start_and_turns_of_the_runs_after_the_search(
    finals: list[int], start: float, expected: float, tmp_path: Path
) -> None:
    spent = spending(tmp_path, limits={"hours": 20.0}, finals=[FinalRun("A", updates, 1.0) for updates in finals])
    run(tmp_path, "A_trial_0", 2.0, 10)
    note_seconds(phases_file(tmp_path), "search", start * HOUR)
    note_seconds(walls_file(tmp_path), "A_trial_0", 2.0 * HOUR)
    # The start of a phase counts at least as its allowance.
    allowance = PHASE_S / HOUR if finals and not start else 0.0
    assert spent.reserve() == {"hours": pytest.approx(expected + allowance)}


def test_trial_waits_for_what_running_ones_may_leave(tmp_path: Path) -> None:
    spent, admitted = spending(tmp_path, searched=["A"]), {"A_trial_0": True, "A_trial_1": True}
    run(tmp_path, "A_trial_0", 4.0, 10)
    run(tmp_path, "A_trial_1", 1.0, 2, ended=False)
    # 5 of 10 are spent; the running one needs 3 more, so a new one of 4 has no room until it ends early.
    assert decide(trial("A_trial_2"), spent, [trial("A_trial_1")], admitted) == "wait"
    assert decide(trial("A_trial_2"), spent, [], admitted) == "start"


def test_concurrent_runs_take_the_wall_clock_time_of_the_longest(tmp_path: Path) -> None:
    spent = spending(tmp_path, 4.0, limits={"hours": 9.0}, searched=["A"])
    admitted = {"A_trial_0": True, "A_trial_1": True}
    run(tmp_path, "A_trial_0", 4.0, 10)
    assert decide(trial("A_trial_2"), spent, [trial("A_trial_1")], admitted) == "start"
    assert decide(trial("A_trial_2", updates=15), spent, [trial("A_trial_1")], admitted) == "wait"


def test_plan_is_the_cost_of_an_update_until_one_is_measured(tmp_path: Path) -> None:
    spent = spending(tmp_path, planned={"A": 2.0})
    assert spent.hours_per_update("A") == 2.0
    assert decide(trial("A_trial_0"), spent, [], {}) == "refuse"
    run(tmp_path, "A_trial_0", 1.0, 4, ended=False)
    assert spent.hours_per_update("A") == 0.25
    run(tmp_path, "A_trial_1", 1.0, 10)
    assert spent.hours_per_update("A") == 0.1
    assert spent.hours_per_update("B") == 0.1


def test_trial_is_stopped_at_its_report_once_the_budget_is_spent_and_a_seed_is_not(tmp_path: Path) -> None:
    spent = spending(tmp_path)
    run(tmp_path, "A_trial_0", 9.5, 10)
    assert not stops(trial("A_trial_1"), spent)
    run(tmp_path, "A_trial_1", 0.6, 2, ended=False)
    assert stops(trial("A_trial_1"), spent)
    assert not stops(trial("A_seed_1"), spent)


def test_first_trial_that_shows_a_budget_below_one_trial_per_arm_is_stopped(tmp_path: Path) -> None:
    spent = spending(tmp_path)
    run(tmp_path, "A_trial_0", 1.0, 2, ended=False)
    # 5 hours a trial: two arms need just the budget.
    assert not stops(trial("A_trial_0"), spent)
    assert too_small(trial("A_trial_0", updates=11), spent) == {"gpu_hours": pytest.approx(11.0)}
    assert stops(trial("A_trial_0", updates=11), spent)
    run(tmp_path, "A_trial_1", 1.0, 2)
    assert not stops(trial("A_trial_0", updates=11), spent)


def test_evaluation_of_the_base_model_after_the_first_update_is_no_cost_of_an_update(tmp_path: Path) -> None:
    spent = spending(tmp_path)
    run(tmp_path, "A_trial_0", 3.0, 1, ended=False)
    assert spent.hours_per_update("A") is None
    assert not stops(trial("A_trial_0"), spent)
    assert decide(trial("A_trial_1"), spent, [], {"A_trial_0": True}) == "start"
    run(tmp_path, "A_trial_0", 3.1, 2, ended=False)
    assert spent.hours_per_update("A") == 1.55
    assert stops(trial("A_trial_0"), spent)
    # A run of one update has nothing that follows.
    run(tmp_path, "A_trial_0", 3.0, 1)
    assert spent.hours_per_update("A") == 3.0


def test_seconds_of_every_start_of_a_run_are_counted_with_its_gpus(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with metered(folder, 2, 2.0):
        time.sleep(0.02)
    with pytest.raises(ValueError, match="x"), metered(folder, 1, 0.5):
        raise ValueError("x")
    starts = json.loads(folder.usage.read_text())["starts"]
    assert [(start["workers"], start["gpus"]) for start in starts] == [(2, 2.0), (1, 0.5)]
    assert used_seconds(folder) == sum(start["seconds"] for start in starts) >= 0.02
    assert used_gpu_seconds(folder) >= 0.04
