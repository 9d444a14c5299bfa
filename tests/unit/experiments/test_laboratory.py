"""Experiment files of the laboratory and the arithmetic of its tables."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from srpo_ray.algorithms.preference_points import grid_of_points
from srpo_ray.algorithms.preference_sigmas import grid_sigmas
from srpo_ray.config import apply, load_experiment, load_run
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.config.yaml_text import dump
from srpo_ray.evaluation.results import Results
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.planning.experiment_groups import run_calls
from srpo_ray.runs.folder import RunFolder
from tests.conftest import ROOT, SMALL_WORLD
from tests.unit.evaluation.test_comparison import report as report

FILES = sorted((ROOT / "configs" / "experiments" / "laboratory").glob("*.yaml"))
load = cache(load_experiment)
EQUAL = (
    "methods",
    "reward_gradients",
    "other_losses",
    "policy_gradients",
    "samplers",
    "estimators",
    "pairs",
    "online_pairs",
    "caption_pairs",
    "caption_shapes",
    "pair_noise",
    "pair_points",
    "step_pairs",
    "contrast_pairs",
    "biased_pairs",
    "few_steps",
)
"""Experiments whose arms are compared at equal compute."""
WITHOUT_SEARCH = ("contrast_pairs",)
"""Experiments whose arms have one learning rate."""


def test_every_experiment_of_the_laboratory_has_a_file(script) -> None:
    assert {file.stem for file in FILES} == set(script("laboratory_results").EXPERIMENTS)


def test_unknown_experiment_is_refused_before_any_is_run(script, capsys: pytest.CaptureFixture[str]) -> None:
    script("laboratory_results")
    with pytest.raises(SystemExit, match="2"):
        script("laboratory").main(["methods", "bogus"])
    assert "expected names among methods, " in capsys.readouterr().err


@pytest.mark.parametrize("name", EQUAL)
def test_arms_that_are_compared_spend_as_many_evaluations_and_have_as_many_trials(name: str) -> None:
    experiment, base = load(next(file for file in FILES if file.stem == name))
    for arm in experiment.arms:
        run = apply(base, experiment.changes(arm))
        assert run.training.num_updates * run_calls(run) == pytest.approx(17280, rel=0.05), arm.name
    trials = () if name in WITHOUT_SEARCH else (3,)
    searched = [experiment.origin(arm).grid for arm in experiment.arms]
    assert {tuple(map(len, grid.values())) for grid in searched} == {trials}
    assert experiment.seeds == (1, 2, 3)


def test_arms_with_a_biased_scorer_train_at_the_rate_of_the_arm_without_it() -> None:
    experiment, base = load(next(file for file in FILES if file.stem == "biased_pairs"))
    assert {experiment.origin(arm).name for arm in experiment.arms} == {experiment.arms[0].name}
    runs = [apply(base, experiment.changes(arm)) for arm in experiment.arms]
    scorers = [{getattr(model, "path", None) for model in run.rewards.models} for run in runs]
    assert ["small_world:preference" in paths for paths in scorers] == [False] + 7 * [True]
    held_out = {getattr(model, "path", None) for model in base.evaluation.held_out}
    assert held_out.isdisjoint(set().union(*scorers))
    # With the same scores, the arms differ in the choice of pairs and in the reference alone.
    changed = {path for arm in experiment.arms[1:] for path in arm.set}
    assert changed == {"rewards.models", "algorithm.select", "algorithm.reference"}


def test_points_of_pso_are_the_sigmas_of_the_four_steps_that_evaluate_it() -> None:
    experiment, base = load(next(file for file in FILES if file.stem == "few_steps"))
    runs = [apply(base, experiment.changes(arm)) for arm in experiment.arms]
    assert {(run.rollout.num_steps, run.evaluation.num_steps) for run in runs} == {(4, 4)}
    # An even grid of 4 steps, moved towards noise by the shift of 3: 3 s / (1 + 2 s).
    steps = torch.tensor([1, 0.9, 0.75, 0.5], dtype=torch.float64)
    algorithm, grid = runs[0].algorithm, sigma_grid(runs[0].model)
    assert isinstance(algorithm, PreferenceConfig)
    points = grid_of_points(algorithm, grid, runs[0].rollout)
    torch.testing.assert_close(points[:-1], steps)
    share = torch.arange(4, dtype=torch.float64) / 4
    torch.testing.assert_close(grid_sigmas(algorithm.sigma, share, points), steps.flip(0))


def test_experiments_that_are_compared_share_base_config_evaluation_and_rule_of_choice(script) -> None:
    together = script("laboratory_results").SMALL_WORLD
    loaded = [load(file) for file in FILES if file.stem in together]
    assert len({(config.objective, str(config.max_fall), str(config.search)) for config, _ in loaded}) == 1
    assert all(base == loaded[0][1] for _, base in loaded)


def test_every_method_with_a_preset_is_an_arm_of_the_laboratory() -> None:
    presets = {file.stem for file in (ROOT / "configs" / "algorithms").glob("*.yaml")}
    texts = "".join(file.read_text() for file in FILES)
    assert {preset for preset in presets if f"algorithms/{preset}.yaml" not in texts} == set()


def test_claims_name_arms_of_the_experiments_that_share_an_evaluation(script) -> None:
    names = {arm.name for file in FILES if file.stem in EQUAL for arm in load(file)[0].arms}
    assert {name for _, *pair in script("laboratory_claims").PAIRS for name in pair} - names == set()


def test_share_of_bright_images_is_counted_by_prompt_before_and_after_training(script, tmp_path: Path) -> None:
    rows = [[0.4, 0.6, 0.7, 0.2], [0.1, 0.1, 0.1, 0.1], [0.9, 0.6, 0.7, 0.5]]
    trial = tmp_path / "trials" / "arm_seed_1"
    trial.mkdir(parents=True)
    lines = [json.dumps({"num_prompts": 2, "scores": {"truth/brightness": row}}) for row in rows]
    (trial / "scores.jsonl").write_text("\n".join(lines) + "\n")
    before, after = script("laboratory_results").bright_share(tmp_path, "arm", [1])
    assert (before.mean, after.mean) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("preset", "needs"),
    [
        ("refl", "gradient"),
        ("awm", "score, groups of 12, old weights"),
        ("spo", "score, groups of 4, reference weights"),
        ("image_refl", "gradient, real images"),
        ("diffusion_dpo", "pairs, reference weights"),
        ("mapo", "pairs"),
        ("balanced_dpo", "score, groups of 4, old weights"),
        ("spin", "old weights, real images"),
        ("tpo", "captions, reference weights"),
    ],
)
def test_needs_of_a_method_are_those_of_its_config(script, preset: str, needs: str) -> None:
    config = load_run([SMALL_WORLD, ROOT / "configs" / "algorithms" / f"{preset}.yaml"])
    assert script("laboratory_cells").needs(config) == needs


def test_displacement_is_the_mean_over_the_last_quarter_of_the_updates_by_rate(script, tmp_path: Path) -> None:
    both = ("gain/preferred", "preference/accuracy")

    def write(index: int, lr: float, gains: list[float], finished: bool = True, names: tuple[str, ...] = both) -> None:
        trial = RunFolder(tmp_path / "trials" / f"arm_trial_{index}")
        trial.make()
        config = load_run([SMALL_WORLD], [f"training.optimizer.lr={lr}"])
        trial.config.write_text(dump(config.model_dump(mode="json")))
        rows = [{name: gain + both.index(name) for name in names} for gain in gains]
        # An update without a pair.
        rows.insert(-1, {})
        trial.updates.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if finished:
            trial.finished.write_text("{}")

    write(0, 1e-5, [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, -0.5, -0.25])
    write(1, 1e-6, [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.5])
    write(2, 1e-7, [9.0, 9.0, 9.0, 0.5], finished=False)
    write(3, 1e-4, [9.0, 9.0, 9.0, 0.5], names=("gain/preferred",))
    found = list(script("laboratory_results").displacement(tmp_path, "arm"))
    assert found == [(1e-6, 0.5, 1.5), (1e-5, -0.375, 0.625)]


def test_differences_are_from_the_reference_arm_and_need_one_of_its_runs(script, report: Results) -> None:
    preferences = script("laboratory_preferences")
    head, line, *rows = preferences.differences_table(report)
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == ["ReFL", "harm", "noise"]
    # ReFL ends at 0.6 with every seed, SRPO at 0.70, 0.72 and 0.68.
    assert rows[0].split(" | ")[1].strip("*").startswith("-0.100 ±")
    without = replace(report, arms=[arm for arm in report.arms if arm.name != "SRPO"])
    assert list(preferences.differences_table(without)) == [head, line]


def test_accuracy_of_shapes_is_the_first_column_where_it_chooses_the_rates(script, report: Results) -> None:
    preferences, shapes = script("laboratory_preferences"), script("laboratory_cells").SHAPES
    titles = [next(preferences.differences_table(replace(report, objective=each))) for each in (shapes, "other")]
    assert titles[0] == titles[1].replace("|  | held-out", "|  | shapes | held-out")
    assert "shapes" not in titles[1]


def test_objective_of_every_experiment_has_a_title(script) -> None:
    script("laboratory_results")
    objectives = {load(file)[0].objective for file in FILES if any(arm.grid for arm in load(file)[0].arms)}
    assert objectives <= set(script("laboratory_cells").OBJECTIVES)


def test_planned_memory_of_an_arm_that_is_like_another_is_that_of_its_method(script) -> None:
    peak = script("laboratory_memory").planned_peak
    parent = peak("biased_pairs", "unbiased scorers, sum")
    assert peak("biased_pairs", "three scorers, sum") == parent
    # Without a reference model, a pair has no call without gradient and no copy of weights.
    assert peak("pair_points", "no reference") <= peak("pair_points", "one noise")
    assert parent != peak("methods", "SRPO, detailed")
