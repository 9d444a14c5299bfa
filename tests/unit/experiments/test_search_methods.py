"""The comparison of searchers: its arms, and the arithmetic of its table."""

import json
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import load_experiment

HELD_OUT, DIVERSITY, DRIFT = "evaluator/held_out", "image/diversity", "image/drift"


def test_arms_differ_in_the_search_alone_and_make_as_many_updates(script) -> None:
    methods = script("search_methods")
    arms = {name: load_experiment(arm.config, arm.overrides) for name, arm in methods.ARMS.items()}
    first, base = arms["random"]
    assert all(config.max_fall == first.max_fall and run == base for config, run in arms.values())
    (space,), (conditional,) = (arms[name][0].arms for name in ("random", "random, conditions"))
    assert {name for name, (config, _) in arms.items() if list(config.arms) == [conditional]} == {
        "random, conditions",
        "TPE, conditions",
    }
    assert all(list(config.arms) in ([space], [conditional]) for config, _ in arms.values())
    assert {path: each.when for path, each in conditional.space.items() if each.when} == {
        "algorithm.control_words": {"algorithm.query": "relative"},
        "algorithm.branches": {"algorithm.query": "plain"},
    }
    assert not any(each.when for each in space.space.values())
    assert {name: (config.search.searcher, config.search.constrained) for name, (config, _) in arms.items()} == {
        "random": ("random", True),
        "TPE": ("optuna", False),
        "TPE, limits known": ("optuna", True),
        "TPE, three objectives": ("optuna", True),
        "promotion": ("random", True),
        "population": ("random", True),
        "TPE, warm start": ("optuna", True),
        "random, 24 trials": ("random", True),
        "random, conditions": ("random", True),
        "TPE, conditions": ("optuna", True),
    }
    trials = {name: config.search.num_samples for name, (config, _) in arms.items()}
    assert {name for name, number in trials.items() if number == 24} == {"promotion", "random, 24 trials"}
    assert {number for name, number in trials.items() if number != 24} == {first.search.num_samples}
    rungs = arms["promotion"][0].search.scheduler.rungs
    assert [rung.updates for rung in rungs] == [4, 8, base.training.num_updates]
    # 24 trials of 4 updates, 12 of 4 more and 6 of 8 more.
    assert first.search.num_samples * base.training.num_updates == 24 * 4 + 12 * 4 + 6 * 8
    assert len(arms["TPE, three objectives"][0].objectives) == 3


def test_warm_start_reads_the_search_of_the_same_seed(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = script("search_methods")
    started: list[tuple[str, list[str]]] = []

    def sweep(arguments: list[str]) -> int:
        (name,) = (each.partition("=")[2] for each in arguments if each.startswith("experiment.name="))
        started.append((name, [each for each in arguments if "points_from" in each]))
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text("{}")
        return 0

    monkeypatch.setattr(methods, "srpo_ray", sweep)
    methods.search(tmp_path, "TPE, warm start", 2)
    (first, none), (second, earlier) = started
    assert first == methods.folder_of(tmp_path, "random", 2).name
    assert none == []
    assert second == methods.folder_of(tmp_path, "TPE, warm start", 2).name
    assert earlier == [f"experiment.search.points_from=[{tmp_path / first}]"]
    methods.search(tmp_path, "TPE, warm start", 2)
    assert len(started) == 2


def trial(name: str, held_out: float, diversity: float, drift: float, status: str = "finished") -> dict[str, Any]:
    start = {HELD_OUT: 0.5, DIVERSITY: 0.1, DRIFT: 0.0}
    return {
        "name": name,
        "status": status,
        "history": [start, {HELD_OUT: held_out, DIVERSITY: diversity, DRIFT: drift}],
    }


def test_hypervolume_is_that_of_the_boxes_of_the_trials(script) -> None:
    """Two boxes of 0.2 x 0.1 x 0.2 and 0.1 x 0.2 x 0.2 overlap in 0.1 x 0.1 x 0.2; the third trial lost the score."""
    rows = [trial("a", 0.7, 0.1, 0.1), trial("b", 0.6, 0.2, 0.1), trial("c", 0.4, 0.3, 0.0)]
    assert script("search_methods").volume(rows) == pytest.approx(0.004 + 0.004 - 0.002)


def test_updates_that_a_part_of_a_trial_took_over_count_once(script, tmp_path: Path) -> None:
    methods = script("search_methods")
    assert methods.updates_made(tmp_path, {"rungs": [{"made": 96}, {"made": 48}], "rounds": []}) == 144
    rounds = [{"updates": 4, "members": [1, 2, 3]}, {"updates": 6, "members": [1, 2, 3]}]
    assert methods.updates_made(tmp_path, {"rungs": [], "rounds": rounds}) == 3 * 4 + 3 * 2


def test_table_has_means_and_spreads_of_the_finished_searches(script, tmp_path: Path) -> None:
    methods = script("search_methods")
    for seed, gain in ((0, 0.01), (1, 0.03)):
        folder = methods.folder_of(tmp_path, "random", seed)
        for name in ("a", "b"):
            (folder / "trials" / name).mkdir(parents=True)
            (folder / "trials" / name / "updates.jsonl").write_text('{"update": 1}\n' * 16)
        rows = [trial("a", 0.7, 0.1, 0.1), trial("b", 0.9, 0.1, 0.2)]
        search = {"chosen": "a", "breaking": ["b"], "rows": rows}
        (folder / "results.json").write_text(json.dumps({"searches": [search]}))
        (folder / "tested.json").write_text(json.dumps([gain, 10 * gain]))
    found = [methods.read_search(tmp_path, "random", seed) for seed in (0, 1)]
    line = methods.table({"random": found, "TPE": []}).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["random", "2", "32", "+0.0200 ± 0.0141", "+0.2000 ± 0.1414", "1.0 of 2", "+4.0000 ± 0.0000"]
    assert methods.read_search(tmp_path, "random", 2) is None
