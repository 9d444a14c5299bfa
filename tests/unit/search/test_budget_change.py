"""Budget that is raised or lowered between two starts of an experiment: what asks again, and what is kept."""

import json
from pathlib import Path

from srpo_ray.config import load_experiment
from srpo_ray.config.budget import BudgetConfig
from srpo_ray.search.admission import decide
from srpo_ray.search.budget_change import change_budget, is_over, note_cut, note_over, phase_name
from srpo_ray.search.budget_records import budget_uses, note_search
from srpo_ray.search.budget_requests import is_admitted, is_asking, read_decisions, read_request, write_decisions
from srpo_ray.search.budget_terms import BudgetTerms
from srpo_ray.search.folder import load_experiment_folder, open_experiment_folder
from tests.unit.search.test_admission import run, spending, trial
from tests.unit.search.test_budget_gate import ask, count
from tests.unit.search.test_folder import SWEEP


def test_runs_that_a_budget_refused_or_stopped_ask_again_in_phases_of_their_own(tmp_path: Path) -> None:
    for name, ended in (("A_trial_0", True), ("A_trial_1", False), ("A_trial_2", False)):
        run(tmp_path, name, 1.0, 4, ended=ended)
    ask(tmp_path, "A_trial_0", "A_trial_1", "A_trial_2", "A_trial_3", "A_seed_1")
    started = dict.fromkeys(("A_trial_0", "A_trial_1", "A_trial_2", "A_seed_1"), True)
    write_decisions(tmp_path, {**started, "A_trial_3": False})
    note_over(tmp_path, "A_trial_0")
    # A scheduler has stopped the second, and the budget the third.
    note_over(tmp_path, "A_trial_1")
    note_cut(tmp_path, "A_trial_2")
    assert phase_name(tmp_path, "search_A") == "search_A"
    change_budget(tmp_path)
    assert read_decisions(tmp_path) == {"A_trial_0": True, "A_trial_1": True, "A_seed_1": True}
    assert not is_asking(tmp_path, "A_trial_2")
    assert phase_name(tmp_path, "search_A") == "search_A_budget_2"
    assert [is_over(tmp_path, f"A_trial_{number}") for number in range(4)] == [True, True, False, False]
    # Nothing is left to do if a start is interrupted after the change.
    change_budget(tmp_path)
    assert phase_name(tmp_path, "search_A") == "search_A_budget_2"


def test_phases_go_on_as_they_are_if_no_run_was_refused(tmp_path: Path) -> None:
    run(tmp_path, "A_trial_0", 1.0, 4, ended=False)
    ask(tmp_path, "A_trial_0")
    write_decisions(tmp_path, {"A_trial_0": True})
    change_budget(tmp_path)
    assert phase_name(tmp_path, "search_A") == "search_A"
    # A trial in the middle asks again, for what it still needs.
    assert read_decisions(tmp_path) == {}
    assert read_request(tmp_path, "A_trial_0") is None


def test_population_that_has_begun_does_not_grow(tmp_path: Path) -> None:
    write_decisions(tmp_path, {"A_trial_1_round_1": False, "A_trial_0_round_2": False})
    change_budget(tmp_path)
    assert read_decisions(tmp_path) == {"A_trial_1_round_1": False}


def test_trial_asks_for_what_it_still_needs_and_is_refused_once_a_lower_budget_is_spent(tmp_path: Path) -> None:
    run(tmp_path, "A_trial_0", 4.0, 10)
    run(tmp_path, "A_trial_1", 3.0, 7, ended=False)
    admitted = {"A_trial_0": True}
    # 7 are spent, and the trial needs 1 more of its 4.
    for limit, expected in ((8.5, "start"), (7.5, "refuse"), (6.0, "refuse")):
        spent = spending(tmp_path, limits={"gpu_hours": limit}, searched=["A"])
        assert decide(trial("A_trial_1"), spent, [], admitted) == expected


def test_trial_that_a_lower_budget_refuses_keeps_its_evaluations(tmp_path: Path) -> None:
    terms = BudgetTerms({"hours": 1.0}, None, 0.0, 2, searched=["A"])
    write_decisions(tmp_path, {"A_trial_0": False, "A_trial_1": False})
    (tmp_path / "trials" / "A_trial_0").mkdir(parents=True)
    (tmp_path / "trials" / "A_trial_0" / "evaluations.jsonl").touch()
    assert is_admitted(tmp_path, terms, "A_trial_0")
    assert not is_admitted(tmp_path, terms, "A_trial_1")
    # One that was interrupted within its first evaluation has no row for the results.
    run(tmp_path, "A_trial_1", 0.1, 1, ended=False)
    assert not is_admitted(tmp_path, terms, "A_trial_1")


def test_spent_amounts_are_kept_and_limits_of_another_kind_are_shown(tmp_path: Path) -> None:
    count(tmp_path, 0.5)
    run(tmp_path, "A_trial_0", 4.0, 10)
    note_search(tmp_path, BudgetTerms({"hours": 1.0}, None, 0.0, 2, searched=["A"]))
    (use,) = budget_uses(tmp_path, BudgetTerms({"gpu_hours": 9.0}, None, 0.0, 2, searched=["A"]))
    assert (use.name, use.limit, use.search, use.final) == ("gpu_hours", 9.0, 4.0, 0.0)


def test_same_experiment_goes_on_with_another_budget_and_price(tmp_path: Path) -> None:
    config, base = load_experiment(SWEEP, [f"run_root={tmp_path}", "experiment.budget={hours: 1}"])
    folder = open_experiment_folder(config, base)
    write_decisions(folder, {"A_trial_0": False})
    assert open_experiment_folder(config, base) == folder
    assert read_decisions(folder) == {"A_trial_0": False}
    raised = config.model_copy(update={"budget": BudgetConfig(hours=2), "price": 2.5})
    assert open_experiment_folder(raised, base) == folder
    assert read_decisions(folder) == {}
    assert load_experiment_folder(folder)[0] == raised
    assert len(json.loads((folder / "budget" / "changes.json").read_text())) == 1


def test_another_price_alone_lets_refused_runs_ask_again(tmp_path: Path) -> None:
    config, base = load_experiment(SWEEP, [f"run_root={tmp_path}", "experiment.budget={hours: 1}"])
    first, second = (config.model_copy(update={"price": price}) for price in (4.0, 2.0))
    folder = open_experiment_folder(first, base)
    write_decisions(folder, {"A_trial_0": False})
    assert open_experiment_folder(first, base) == folder
    assert read_decisions(folder) == {"A_trial_0": False}
    assert open_experiment_folder(second, base) == folder
    assert read_decisions(folder) == {}
