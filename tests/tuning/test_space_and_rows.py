from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import SweepConfig, load_run, load_sweep, to_yaml
from srpo_ray.config.sweep import SearchDimension
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.tuning.rows import choose_best, read_row
from srpo_ray.tuning.space import decode, param_space, search_algorithm
from srpo_ray.tuning.sweep import follow_ups
from srpo_ray.tuning.trial import _serves
from tests.conftest import ROOT, SMALL_WORLD

SPACE = {
    "a.list": SearchDimension(choice=([5, 25], [5, 35])),
    "a.name": SearchDimension(choice=("detailed", "vivid")),
    "a.share": SearchDimension(uniform=(0.7, 0.95)),
    "b.lr": SearchDimension(loguniform=(1e-6, 1e-5)),
    "b.count": SearchDimension(randint=(2, 5)),
}


def sweep(**values: Any) -> SweepConfig:
    return SweepConfig.model_validate({"base": "x.yaml", "space": {"a": {"uniform": [0, 1]}}, **values})


def row(name: str, objective: float, content: float, status: str = "finished", **params: Any) -> TrialRow:
    history = [
        {"update": 0, "evaluator/held_out": 0.1, "truth/content_accuracy": 0.95},
        {"update": 9, "evaluator/held_out": objective, "truth/content_accuracy": content},
    ]
    return TrialRow(name, "trial", name, params, history, status, 1.0, 0)


def test_drawn_values_lie_in_the_space_and_come_back_as_config_values() -> None:
    space = param_space(SPACE)
    drawn = [decode({path: domain.sample() for path, domain in space.items()}) for _ in range(200)]
    assert {str(values["a.list"]) for values in drawn} == {"[5, 25]", "[5, 35]"}
    assert {values["a.name"] for values in drawn} == {"detailed", "vivid"}
    assert all(0.7 <= values["a.share"] <= 0.95 for values in drawn)
    assert all(1e-6 <= values["b.lr"] <= 1e-5 for values in drawn)
    assert {values["b.count"] for values in drawn} == {2, 3, 4}
    below_geometric_mean = sum(values["b.lr"] < 10**-5.5 for values in drawn)
    assert 60 < below_geometric_mean < 140


@pytest.mark.parametrize(("query", "expected"), [("relative", [0.0, 4.0]), ("plain", [0.0, -2.0])])
def test_gain_is_that_of_the_reward_the_run_is_trained_on_in_baseline_deviations(
    tmp_path: Path, query: str, expected: list[float]
) -> None:
    """Own words rise by 2 where images spread by 0.5; the plain score falls by 0.2 where they spread by 0.1."""
    folder = RunFolder(tmp_path / "trial_1")
    folder.make()
    folder.config.write_text(
        to_yaml(load_run([SMALL_WORLD], [f"algorithm.query={query}", "algorithm.branches=[denoise]"]))
    )
    scores = {"reward/total": [0.9, 1.1], "reward/total/trained": [-0.5, 0.5]}
    append_row(folder.scores, {"update": 0, "num_prompts": 2, "scores": scores})
    append_row(folder.evaluations, {"update": 0, "reward/total": 1.0, "reward/total/trained": 0.0})
    append_row(folder.evaluations, {"update": 9, "reward/total": 0.8, "reward/total/trained": 2.0})
    found = read_row(folder, "trial", "a trial", {}, 0, None)
    assert [each["reward/total/gain"] for each in found.history] == pytest.approx(expected)


def test_a_run_that_broke_before_its_first_evaluation_has_no_gain(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "trial_1")
    folder.make()
    assert read_row(folder, "trial", "a trial", {}, 0, "out of memory").history == []


def test_optuna_draws_the_same_trials_from_the_same_seed() -> None:
    def first_draws(seed: int) -> list[Any]:
        space = {path: value.model_dump() for path, value in SPACE.items()}
        algorithm: Any = search_algorithm(sweep(searcher="optuna", space=space, seed=seed))
        algorithm.set_search_properties("evaluator/held_out", "max", param_space(SPACE))
        return [algorithm.suggest(str(index)) for index in range(2)]

    assert first_draws(4) == first_draws(4) != first_draws(5)


def test_best_trial_is_the_best_finished_one_that_keeps_its_content() -> None:
    rows = [
        row("broken", 0.9, 0.60),
        row("stopped", 0.8, 0.95, status="stopped early"),
        row("good", 0.5, 0.94),
        row("weak", 0.2, 0.95),
    ]
    best, note = choose_best(rows, sweep(max_fall={"truth/content_accuracy": 0.02}))
    assert (best.name, note) == ("good", None)
    best, note = choose_best(rows[:1], sweep(max_fall={"truth/content_accuracy": 0.02}))
    assert best.name == "broken"
    assert note is not None
    assert "without that limit" in note
    assert choose_best(rows, sweep(mode="min"))[0].name == "weak"


def test_no_finished_trial_is_an_error_that_says_why() -> None:
    with pytest.raises(ValueError, match=r"got none \(failed: out of memory\)"):
        choose_best([row("a", 0.1, 0.9, status="failed: out of memory")], sweep())


def test_follow_ups_are_the_seeds_and_the_comparisons_of_the_best() -> None:
    config = sweep(repeat_seeds=[1], comparisons=[{"name": "plain, no words", "set": {"b.lr": 2}}])
    runs = {run.name: run for run in follow_ups(config, row("best", 0.5, 0.9, **{"b.lr": 1, "a": "x"}))}
    assert list(runs) == ["seed_1", "plain_no_words"]
    assert runs["seed_1"].changes == {"b.lr": 1, "a": "x", "seed": 1}
    assert runs["plain_no_words"].changes == {"b.lr": 2, "a": "x"}


def test_a_run_that_the_hacking_sign_stopped_can_be_the_best() -> None:
    rows = [row("stopped", 0.5, 0.95, status="stopped: reward hacking"), row("weak", 0.2, 0.95)]
    assert choose_best(rows, sweep())[0].name == "stopped"


def test_a_run_that_the_hacking_sign_stopped_is_evaluated_by_the_checkpoint_that_it_keeps() -> None:
    history = [{"update": step, "evaluator/held_out": value} for step, value in ((0, 0.3), (10, 0.6), (20, 0.1))]
    kept = replace(row("kept", 0.1, 0.9, status="stopped: reward hacking"), history=history, best_update=10)
    assert kept.value("evaluator/held_out") == 0.6
    assert choose_best([kept, row("steady", 0.5, 0.9)], sweep())[0].name == "kept"
    assert replace(kept, best_update=0).value("evaluator/held_out") == 0.3


def test_an_baseline_evaluation_serves_runs_of_the_same_words_and_plain_ones() -> None:
    vivid, same = (load_run([SMALL_WORLD], ["algorithm.control_words=vivid", f"seed={seed}"]) for seed in (0, 1))
    bright = load_run([SMALL_WORLD], ["algorithm.control_words=bright"])
    plain = load_run([SMALL_WORLD], ["algorithm.query=plain", "algorithm.branches=[denoise]"])
    other_evaluator = load_run([SMALL_WORLD], ["algorithm.control_words=vivid", "evaluation.num_prompts=3"])
    assert _serves(vivid, same)
    assert _serves(vivid, plain)
    rarely = load_run([SMALL_WORLD], ["algorithm.control_words=vivid", "evaluation.interval=40"])
    assert _serves(vivid, rarely)
    assert not _serves(vivid, bright)
    assert not _serves(plain, vivid)
    assert not _serves(other_evaluator, vivid)


def test_shipped_sweep_file_is_usable() -> None:
    for path in sorted(Path(ROOT / "configs" / "sweep").glob("*.yaml")):
        config, base = load_sweep(path)
        assert config.objective.removeprefix("evaluator/") in {model.name for model in base.evaluation.held_out}
        assert config.num_samples >= 8
