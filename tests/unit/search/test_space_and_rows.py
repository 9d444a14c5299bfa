from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from srpo_ray.config import ExperimentConfig, load_run, to_yaml
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.results import CALLS, SECONDS, Arm, Search, TrialRow
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.search.selection import best_arm, choose_best, read_row
from srpo_ray.search.space import absolute_changes, absolute_space, decode, param_space
from tests.conftest import SMALL_WORLD

SPACE = {
    "a.list": SearchDimension(choice=([5, 25], [5, 35])),
    "a.name": SearchDimension(choice=("detailed", "vivid")),
    "a.share": SearchDimension(uniform=(0.7, 0.95)),
    "b.lr": SearchDimension(loguniform=(1e-6, 1e-5)),
    "b.count": SearchDimension(randint=(2, 5)),
}


def experiment(**values: Any) -> ExperimentConfig:
    arms = [{"name": "SRPO", "space": {"a": {"uniform": [0, 1]}}}, {"name": "ReFL"}]
    return ExperimentConfig.model_validate({"base": "x.yaml", "arms": arms, **values})


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
    scores = {"reward/total": [0.7, 0.9], "reward/total/trained": [1.75, 2.25]}
    append_row(folder.scores, {"update": 9, "num_prompts": 2, "scores": scores})
    found = read_row(folder, "trial", "a trial", {}, 0, None)
    assert found.images is not None
    assert fmean(found.images.tuned["reward/total/gain"]) == pytest.approx(expected[1])
    assert [each["reward/total/gain"] for each in found.history] == pytest.approx(expected)


def scored_run(path: Path) -> RunFolder:
    """Two prompts with two images each, evaluated after 0, 4 and 9 updates; image = sample * 2 + prompt."""
    folder = RunFolder(path)
    folder.make()
    folder.config.write_text(to_yaml(load_run([SMALL_WORLD])))
    for update, held_out in ((0, [0.1, 0.2, 0.3, 0.6]), (4, [0.5, 0.5, 0.7, 0.9]), (9, [0.2, 0.2, 0.2, 0.4])):
        scores = {"evaluator/held_out": held_out, "image/diversity": [0.1, 0.2, 0.1, 0.2]}
        append_row(folder.scores, {"update": update, "num_prompts": 2, "scores": scores})
        append_row(folder.evaluations, {"update": update, "evaluator/held_out": sum(held_out) / 4})
    return folder


def test_scores_of_a_run_are_averaged_over_the_images_of_each_prompt(tmp_path: Path) -> None:
    found = read_row(scored_run(tmp_path / "a"), "repeat", "a run", {}, 1, None).images
    assert found is not None
    assert (found.num_prompts, found.source, found.update) == (2, "validation", 9)
    assert found.baseline["evaluator/held_out"] == pytest.approx([0.2, 0.4])
    assert found.tuned["evaluator/held_out"] == pytest.approx([0.2, 0.3])
    assert found.tuned["image/diversity"] == pytest.approx([0.1, 0.2])


def test_scores_by_prompt_of_a_stopped_run_are_those_of_its_best_evaluation(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "a")
    folder.finished.write_text('{"best_update": 4}')
    found = read_row(folder, "repeat", "a run", {}, 1, None).images
    assert found is not None
    assert found.update == 4
    assert found.tuned["evaluator/held_out"] == pytest.approx([0.6, 0.7])


def test_scores_on_test_prompts_are_preferred_to_those_on_validation_prompts(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "a")
    for update, values in ((0, [0.1, 0.2, 0.3]), (4, [0.4, 0.6, 0.8])):
        row = {"update": update, "num_prompts": 3, "scores": {"evaluator/held_out": values}}
        append_row(folder.path / "test_scores.jsonl", row)
    found = read_row(folder, "repeat", "a run", {}, 1, None).images
    assert found is not None
    assert (found.num_prompts, found.source, found.update) == (3, "test", 4)
    assert found.tuned == {"evaluator/held_out": [0.4, 0.6, 0.8]}


def test_a_run_whose_best_weights_are_the_base_model_has_its_test_scores_twice(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "a")
    folder.finished.write_text('{"best_update": 0}')
    row = {"update": 0, "num_prompts": 3, "scores": {"evaluator/held_out": [0.1, 0.2, 0.3]}}
    append_row(folder.path / "test_scores.jsonl", row)
    found = read_row(folder, "repeat", "a run", {}, 1, None).images
    assert found is not None
    assert (found.source, found.update) == ("test", 0)
    assert found.tuned == found.baseline == {"evaluator/held_out": [0.1, 0.2, 0.3]}


def test_a_metric_with_a_value_that_is_not_finite_has_no_scores_by_prompt(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "a")
    scores = {"evaluator/held_out": [0.1, float("nan")], "truth/detail": [0.1, 0.2], "image/contrast": [0.1]}
    append_row(folder.path / "test_scores.jsonl", {"update": 0, "num_prompts": 2, "scores": scores})
    append_row(folder.path / "test_scores.jsonl", {"update": 9, "num_prompts": 2, "scores": scores})
    found = read_row(folder, "repeat", "a run", {}, 1, None).images
    assert found is not None
    assert set(found.tuned) == {"truth/detail"}


def test_a_run_that_was_evaluated_once_has_no_scores_by_prompt(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "a")
    folder.scores.write_text(folder.scores.read_text().splitlines()[0] + "\n")
    assert read_row(folder, "repeat", "a run", {}, 1, None).images is None


def test_a_run_that_broke_before_its_first_evaluation_has_no_gain(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "trial_1")
    folder.make()
    assert read_row(folder, "trial", "a trial", {}, 0, "out of memory").history == []


def test_best_trial_is_the_best_finished_one_that_keeps_its_content() -> None:
    rows = [
        row("broken", 0.9, 0.60),
        row("stopped", 0.8, 0.95, status="stopped early"),
        row("good", 0.5, 0.94),
        row("weak", 0.2, 0.95),
    ]
    limited = experiment(max_fall={"truth/content_accuracy": 0.02})
    best, note = choose_best(rows, limited, "SRPO")
    assert (best.name, note) == ("good", None)
    best, note = choose_best(rows[:1], limited, "SRPO")
    assert best.name == "broken"
    assert note is not None
    assert note.startswith("SRPO: every trial let truth/content_accuracy fall by more than 0.02")
    assert choose_best(rows, experiment(mode="min"), "SRPO")[0].name == "weak"


def test_no_finished_trial_is_an_error_that_says_why() -> None:
    with pytest.raises(ValueError, match=r"trial of SRPO .* got none \(failed: out of memory\)"):
        choose_best([row("a", 0.1, 0.9, status="failed: out of memory")], experiment(), "SRPO")


@pytest.mark.parametrize(("mode", "best"), [("max", "ReFL"), ("min", "SRPO")])
def test_best_arm_is_the_one_with_the_best_mean_over_seeds_that_keeps_its_content(mode: str, best: str) -> None:
    arms = [
        Arm("SRPO", "method", {}, [row("a", 0.1, 0.95), row("b", 0.6, 0.95), row("c", 9.0, 0.95, "failed: oom")]),
        Arm("ReFL", "method", {}, [row("d", 0.4, 0.94), row("e", 0.4, 0.92)]),
        Arm("broken", "method", {}, [row("f", 0.9 if mode == "max" else 0.0, 0.6)]),
        Arm("ablation", "ablation", {}, [row("g", 0.9 if mode == "max" else 0.0, 0.95)]),
    ]
    config = experiment(mode=mode, max_fall={"truth/content_accuracy": 0.02 + 1e-9})
    assert best_arm(config, arms, []) == best


def test_best_arm_that_was_only_searched_counts_with_its_chosen_trial() -> None:
    searches = [Search("ReFL", [row("lucky", 0.9, 0.9, "stopped early"), row("chosen", 0.5, 0.9)], "chosen")]
    arms = [Arm("SRPO", "method", {}, [row("a", 0.6, 0.9)]), Arm("ReFL", "method", {}, [])]
    assert best_arm(experiment(), arms, searches) == "SRPO"
    assert best_arm(experiment(), [Arm("SRPO", "method", {}, [row("a", 0.4, 0.9)]), arms[1]], searches) == "ReFL"


def test_reference_arm_is_the_best_if_no_arm_keeps_the_limits() -> None:
    arms = [Arm("ReFL", "method", {}, [row("a", 0.6, 0.5)])]
    assert best_arm(experiment(max_fall={"truth/content_accuracy": 0.02}), arms, []) == "SRPO"
    assert best_arm(experiment(max_fall={"no such metric": 0.02}), arms, []) == "SRPO"


def test_costs_are_those_of_the_updates_before_each_evaluation(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "trial_1")
    folder.make()
    folder.config.write_text(to_yaml(load_run([SMALL_WORLD])))
    for step in range(1, 5):
        update = {"update": step, "cost/forward": 10.0, "cost/forward_backward": 2.0, "time/update": 0.5}
        append_row(folder.updates, update)
    for step in (0, 3):
        append_row(folder.evaluations, {"update": step, "evaluator/held_out": 0.5})
    found = read_row(folder, "trial", "a trial", {}, 0, None)
    # 10 + 3 x 2 an update
    assert [(each[CALLS], each[SECONDS]) for each in found.history] == [(0.0, 0.0), (48.0, 1.5)]
    assert found.seconds == 2.0


def test_local_paths_among_the_choices_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").touch()
    space = {
        "data.prompts": SearchDimension(choice=("mine.txt", "small_world:train")),
        "algorithm.timestep_window": SearchDimension(choice=([5, 25], [5, 35])),
        "training.optimizer.lr": SearchDimension(loguniform=(1e-6, 1e-5)),
    }
    found = absolute_space(space, load_run([SMALL_WORLD]), {"algorithm.type": "direct_align"})
    assert found["data.prompts"].choice == (str(tmp_path / "mine.txt"), "small_world:train")
    assert found["algorithm.timestep_window"] == space["algorithm.timestep_window"]
    assert found["training.optimizer.lr"] == space["training.optimizer.lr"]


def test_local_paths_among_the_changes_of_an_arm_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").touch()
    changes = {"algorithm": {"type": "refl"}, "evaluation.prompts": "mine.txt", "training.optimizer.lr": 3e-6}
    found = absolute_changes(load_run([SMALL_WORLD]), changes)
    assert found == {**changes, "evaluation.prompts": str(tmp_path / "mine.txt")}


def test_a_run_that_the_hacking_sign_stopped_can_be_the_best() -> None:
    rows = [row("stopped", 0.5, 0.95, status="stopped: reward hacking"), row("weak", 0.2, 0.95)]
    assert choose_best(rows, experiment(), "SRPO")[0].name == "stopped"


def test_a_run_that_the_hacking_sign_stopped_is_evaluated_by_the_checkpoint_that_it_keeps() -> None:
    history = [{"update": step, "evaluator/held_out": value} for step, value in ((0, 0.3), (10, 0.6), (20, 0.1))]
    kept = replace(row("kept", 0.1, 0.9, status="stopped: reward hacking"), history=history, best_update=10)
    assert kept.value("evaluator/held_out") == 0.6
    assert choose_best([kept, row("steady", 0.5, 0.9)], experiment(), "SRPO")[0].name == "kept"
    assert replace(kept, best_update=0).value("evaluator/held_out") == 0.3
