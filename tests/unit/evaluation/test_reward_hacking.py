"""The sign on histories whose truth is known."""

import math
import random
from collections.abc import Mapping

import numpy as np
import pytest

from srpo_ray.config.evaluation import HackingConfig
from srpo_ray.evaluation import reward_hacking as sign
from srpo_ray.evaluation.reward_hacking import (
    HackingSign,
    Scored,
    best_evaluation,
    fall_threshold,
    find_signs,
    sign_texts,
)

HELD_OUT, REWARD = "evaluator/evaluator", "reward/total"
PROMPTS, SAMPLES = 40, 2


def evaluation(step: int, rises: Mapping[str, float], jitter: float = 0.02, seed: int = 0) -> Scored:
    """Prompts differ by about 0.1; each metric rises by its mean plus noise of its own for each prompt."""
    content, noise = random.Random(7), random.Random(1000 * seed + step)
    levels = {HELD_OUT: 0.7, REWARD: 0.6, "image/saturation": 0.3, "image/diversity": 0.2}
    scores: dict[str, list[float]] = {}
    for metric, level in levels.items():
        baseline = [content.gauss(level, 0.1) for _ in range(PROMPTS * SAMPLES)]
        change = [rises.get(metric, 0.0) + noise.gauss(0, jitter * (step > 0)) for _ in range(PROMPTS)]
        scores[metric] = [value + change[index % PROMPTS] for index, value in enumerate(baseline)]
    return Scored(step, PROMPTS, scores)


def history(*rises: Mapping[str, float], jitter: float = 0.02, seed: int = 0) -> list[Scored]:
    return [evaluation(10 * index, rise, jitter, seed) for index, rise in enumerate(({}, *rises))]


def signs(runs: list[Scored], **thresholds: float) -> list[tuple[int, str, str]]:
    found = find_signs(runs, [HELD_OUT], REWARD, HackingConfig.model_validate(thresholds), looks=5)
    return [(each.update, each.kind, each.metric) for each in found]


def test_sign_when_the_reward_rises_and_the_held_out_score_falls() -> None:
    runs = history({REWARD: 0.05, HELD_OUT: 0.02}, {REWARD: 0.1, HELD_OUT: -0.05})
    (found,) = find_signs(runs, [HELD_OUT], REWARD, HackingConfig(), looks=5)
    assert (found.update, found.kind, found.metric) == (20, "hacking", HELD_OUT)
    assert "of the base model" in found.message
    assert REWARD in found.message


def test_no_sign_in_runs_without_hacking() -> None:
    for seed in range(100):
        runs = history(*({REWARD: 0.03 * n, HELD_OUT: 0.01 * n} for n in range(1, 6)), seed=seed)
        assert not any(signs(runs[: count + 1]) for count in range(6))


def wavering_run(source: np.random.Generator, looks: int, evaluators: int) -> list[Scored]:
    """A run whose reward rises while every held-out score only wavers, with noise of its own at each evaluation."""
    shape = (looks + 1, PROMPTS)
    content = source.normal(0.7, 0.1, PROMPTS)
    waver = {f"evaluator/{index}": content + source.normal(0, 0.02, shape) for index in range(evaluators)}
    waver["image/diversity"] = 0.2 + source.normal(0, 0.02, shape)
    rise = content + 0.01 * np.arange(looks + 1)[:, None] + source.normal(0, 0.001, shape)
    columns = {**waver, REWARD: rise}
    return [Scored(step, PROMPTS, {name: rows[step] for name, rows in columns.items()}) for step in range(looks + 1)]


def share_of_runs_with_signs_of_hacking(
    runs: int, looks: int, evaluators: int, *, counted: int, **thresholds: float
) -> float:
    config = HackingConfig.model_validate(thresholds)
    names = [f"evaluator/{index}" for index in range(evaluators)]
    rang = 0
    for seed in range(runs):
        history = wavering_run(np.random.default_rng(seed), looks, evaluators)
        rang += any(
            find_signs(history[: count + 1], names, REWARD, config, counted) for count in range(1, len(history))
        )
    return rang / runs


@pytest.mark.parametrize(("looks", "evaluators"), [(5, 1), (50, 1), (50, 5)])
def test_fewer_than_one_run_in_twenty_has_a_sign_by_chance(looks: int, evaluators: int) -> None:
    """Without margin, so that the threshold in standard errors alone keeps the rate."""
    assert share_of_runs_with_signs_of_hacking(80, looks, evaluators, counted=looks, margin=0, diversity_fall=0) <= 0.05


def test_the_correction_prevents_false_signs_in_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign, "fall_threshold", lambda *_: 3.0)
    assert share_of_runs_with_signs_of_hacking(50, 50, 5, counted=50, margin=0, diversity_fall=0) > 0.2


@pytest.mark.parametrize(("degrees", "one_in", "expected"), [(30, 1000, 3.385), (30, 100, 2.457), (9, 200, 3.250)])
def test_threshold_is_students_at_the_level_shared_by_all_comparisons(
    degrees: int, one_in: int, expected: float
) -> None:
    """Against the one-sided quantiles of published t tables; 1.2816 standard errors are one chance in ten."""
    assert fall_threshold(1.2815516, one_in // 10, degrees + 1) == pytest.approx(expected, abs=1e-3)


def test_threshold_grows_with_comparisons_and_is_infinite_for_one_prompt() -> None:
    assert fall_threshold(2, 850, 32) > fall_threshold(2, 10, 32) > fall_threshold(2, 1, 32) > 2
    assert fall_threshold(2, 1, 1) == math.inf
    assert fall_threshold(0, 850, 32) == 0


def test_a_diversity_fall_as_in_a_long_dance_grpo_run_is_a_collapse() -> None:
    """0.083 to 0.063, at four evaluations; prompts differ by 0.057 and each change by a third of the fall."""
    source = random.Random(0)
    before = [source.gauss(0.083, 0.057) for _ in range(32)]
    after = [value - 0.020 + source.gauss(0, 0.02) for value in before]
    calm = {HELD_OUT: [0.5] * 64, REWARD: [0.1] * 64}
    runs = [Scored(step, 32, {**calm, "image/diversity": values * 2}) for step, values in ((0, before), (88, after))]
    assert signs(runs) == [(88, "collapse", "image/diversity")]
    assert signs(runs, diversity_fall=0.5) == []


def test_a_fall_of_content_is_a_collapse_where_it_exceeds_its_share_and_the_noise() -> None:
    """Of 32 prompts x 2 images, some more show one of three properties wrong; 11 wrong ones are 97.9% to 94.3%."""

    def content(wrong: int) -> list[float]:
        return [1 - (index % 6 == 0 and index < 6 * wrong) / 3 for index in range(64)]

    def run(wrong: int) -> list[Scored]:
        calm = {HELD_OUT: [1.0] * 64, REWARD: [1.0] * 64}
        scores = [(0, [1.0] * 64), (10, content(wrong))]
        return [Scored(step, 32, {**calm, "truth/content_accuracy": values}) for step, values in scores]

    assert signs(run(wrong=7)) == [], "3.6 points are 2.6 standard errors of so few prompts"
    assert signs(run(wrong=7), noise=0) == [(10, "collapse", "truth/content_accuracy")]
    assert signs(run(wrong=7), noise=0, content_fall=0.05) == []


def test_a_run_whose_reward_falls_too_is_not_hacked() -> None:
    assert signs(history({REWARD: -0.05, HELD_OUT: -0.05})) == []


def test_a_fall_from_the_best_evaluation_is_a_sign_above_the_base_model() -> None:
    runs = history({REWARD: 0.05, HELD_OUT: 0.1}, {REWARD: 0.1, HELD_OUT: 0.04})
    assert signs(runs[:2]) == []
    (found,) = find_signs(runs, [HELD_OUT], REWARD, HackingConfig(), looks=5)
    assert "the best evaluation so far, at update 10" in found.message


def test_a_sure_but_tiny_fall_does_not_ring() -> None:
    runs = history({REWARD: 0.1, HELD_OUT: -0.005}, jitter=1e-4)
    assert signs(runs) == []
    assert signs(runs, margin=0.01) == [(10, "hacking", HELD_OUT)]


def test_images_of_one_prompt_are_one_observation() -> None:
    # Mean 0.06, standard error over 40 prompts 0.0156, so 3.84 of them; over 2000 images it would be 27. Fifteen pairs
    # of six evaluations are compared, and 3.84 is t at 39 degrees of freedom for one chance in 15 x 300.
    falls, count = [0.2, 0.1, -0.02, -0.04], 40 * 50
    before = Scored(0, 40, {HELD_OUT: [0.5, 0.6] * (count // 2), REWARD: [0.1] * count})
    fallen = [value - falls[index % 4] for index, value in enumerate(before.scores[HELD_OUT])]
    runs = [before, Scored(5, 40, {HELD_OUT: fallen, REWARD: [0.2] * count})]
    assert signs(runs, noise=2.8) == []
    assert signs(runs, noise=2.6) == [(5, "hacking", HELD_OUT)]


@pytest.mark.parametrize(("metric", "moved"), [("image/saturation", 0.12), ("image/diversity", 0.12)])
def test_a_statistic_outside_the_baseline_band_is_a_sign_whatever_the_scores(metric: str, moved: float) -> None:
    runs = history({metric: moved, HELD_OUT: 0.1})
    assert signs(runs) == [(10, "style", metric)]
    assert signs(runs, band=2) == []
    assert signs(history({metric: moved / 2})) == []


def test_no_sign_without_the_baseline() -> None:
    runs = history({REWARD: 0.1}, {REWARD: 0.2, HELD_OUT: -0.1})
    assert signs(runs[:1]) == signs(runs[1:]) == []


def test_best_counts_each_model_on_its_own_scale() -> None:
    def both(step: int, small: float, large: float) -> Scored:
        return Scored(step, 2, {"evaluator/a": [small, small + 0.1], "evaluator/b": [large, large + 100]})

    runs = [both(0, 0.5, 20), both(5, 0.7, 20), both(10, 0.5, 50), both(15, 0.7, 20)]
    assert best_evaluation(runs, ["evaluator/a", "evaluator/b"]).update == 5
    assert best_evaluation(runs[:1], ["evaluator/a"]).update == 0


def test_people_read_each_hacking_sign_once() -> None:
    rang = [HackingSign(step, "style", "image/contrast", f"moved at {step}") for step in (10, 20, 30)]
    texts = sign_texts([*rang, HackingSign(20, "hacking", HELD_OUT, "fell")])
    assert texts == ["update 10, again at 20, 30: moved at 10", "update 20: fell"]
