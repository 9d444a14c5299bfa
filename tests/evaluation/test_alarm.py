"""The alarm on histories whose truth is known."""

import random
from collections.abc import Mapping

import pytest

from srpo_ray.config.evaluation import AlarmConfig
from srpo_ray.evaluation.alarm import Alarm, Scored, alarm_texts, best_evaluation, find_alarms

HELD_OUT, REWARD = "panel/judge", "reward/total"
PROMPTS, SAMPLES = 40, 2


def evaluation(step: int, rises: Mapping[str, float], jitter: float = 0.02, seed: int = 0) -> Scored:
    """Prompts differ by about 0.1; each metric rises by its mean plus noise of its own for each prompt."""
    content, noise = random.Random(7), random.Random(1000 * seed + step)
    levels = {HELD_OUT: 0.7, REWARD: 0.6, "image/saturation": 0.3, "image/diversity": 0.2}
    scores: dict[str, list[float]] = {}
    for metric, level in levels.items():
        untrained = [content.gauss(level, 0.1) for _ in range(PROMPTS * SAMPLES)]
        change = [rises.get(metric, 0.0) + noise.gauss(0, jitter * (step > 0)) for _ in range(PROMPTS)]
        scores[metric] = [value + change[index % PROMPTS] for index, value in enumerate(untrained)]
    return Scored(step, PROMPTS, scores)


def history(*rises: Mapping[str, float], jitter: float = 0.02, seed: int = 0) -> list[Scored]:
    return [evaluation(10 * index, rise, jitter, seed) for index, rise in enumerate(({}, *rises))]


def alarms(runs: list[Scored], **thresholds: float) -> list[tuple[int, str, str]]:
    found = find_alarms(runs, [HELD_OUT], REWARD, AlarmConfig.model_validate(thresholds))
    return [(alarm.step, alarm.kind, alarm.metric) for alarm in found]


def test_rings_when_the_reward_rises_and_the_held_out_score_falls() -> None:
    runs = history({REWARD: 0.05, HELD_OUT: 0.02}, {REWARD: 0.1, HELD_OUT: -0.05})
    (alarm,) = find_alarms(runs, [HELD_OUT], REWARD, AlarmConfig())
    assert (alarm.step, alarm.kind, alarm.metric) == (20, "hacking", HELD_OUT)
    assert "of the untrained model" in alarm.message
    assert REWARD in alarm.message


def test_stays_silent_in_healthy_runs() -> None:
    for seed in range(100):
        runs = history(*({REWARD: 0.03 * n, HELD_OUT: 0.01 * n} for n in range(1, 6)), seed=seed)
        assert not any(alarms(runs[: count + 1]) for count in range(6))


def test_noise_alone_rings_in_few_runs() -> None:
    """The reward rises and the held-out score only wavers, in five evaluations with noise of their own."""

    def share_that_rings(**thresholds: float) -> float:
        rang = 0
        for seed in range(100):
            runs = history(*({REWARD: 0.1} for _ in range(5)), seed=seed)
            rang += any(alarms(runs[: count + 1], **thresholds) for count in range(6))
        return rang / 100

    assert share_that_rings() <= 0.05
    assert share_that_rings(noise=1, margin=0) > 0.5, "it is the thresholds that keep silence"


def test_a_run_whose_reward_falls_too_is_not_hacked() -> None:
    assert alarms(history({REWARD: -0.05, HELD_OUT: -0.05})) == []


def test_a_fall_from_the_best_evaluation_rings_above_the_untrained_model() -> None:
    runs = history({REWARD: 0.05, HELD_OUT: 0.1}, {REWARD: 0.1, HELD_OUT: 0.04})
    assert alarms(runs[:2]) == []
    (alarm,) = find_alarms(runs, [HELD_OUT], REWARD, AlarmConfig())
    assert "the best evaluation so far, at update 10" in alarm.message


def test_a_sure_but_tiny_fall_does_not_ring() -> None:
    runs = history({REWARD: 0.1, HELD_OUT: -0.005}, jitter=1e-4)
    assert alarms(runs) == []
    assert alarms(runs, margin=0.01) == [(10, "hacking", HELD_OUT)]


def test_pictures_of_one_prompt_are_one_observation() -> None:
    falls, samples = [0.2, 0.1, -0.02, -0.04], 50
    # Mean 0.06, standard error over four prompts 0.056; over 200 pictures it would be 0.007.
    before = Scored(0, 4, {HELD_OUT: [0.5, 0.6] * 2 * samples, REWARD: [0.1] * 4 * samples})
    after = Scored(5, 4, {HELD_OUT: [0.5, 0.6] * 2 * samples, REWARD: [0.2] * 4 * samples})
    fallen = [value - falls[index % 4] for index, value in enumerate(after.scores[HELD_OUT])]
    runs = [before, Scored(5, 4, {**after.scores, HELD_OUT: fallen})]
    assert alarms(runs, noise=1.1) == []
    assert alarms(runs, noise=1.0) == [(5, "hacking", HELD_OUT)]


@pytest.mark.parametrize(("metric", "moved"), [("image/saturation", 0.12), ("image/diversity", -0.12)])
def test_a_statistic_outside_the_untrained_band_rings_whatever_the_scores(metric: str, moved: float) -> None:
    runs = history({metric: moved, HELD_OUT: 0.1})
    assert alarms(runs) == [(10, "style", metric)]
    assert alarms(runs, band=2) == []
    assert alarms(history({metric: moved / 2})) == []


def test_nothing_is_said_without_the_untrained_model() -> None:
    runs = history({REWARD: 0.1}, {REWARD: 0.2, HELD_OUT: -0.1})
    assert alarms(runs[:1]) == alarms(runs[1:]) == []


def test_best_counts_each_model_on_its_own_scale() -> None:
    def both(step: int, small: float, large: float) -> Scored:
        return Scored(step, 2, {"panel/a": [small, small + 0.1], "panel/b": [large, large + 100]})

    runs = [both(0, 0.5, 20), both(5, 0.7, 20), both(10, 0.5, 50), both(15, 0.7, 20)]
    assert best_evaluation(runs, ["panel/a", "panel/b"]).step == 5
    assert best_evaluation(runs[:1], ["panel/a"]).step == 0


def test_people_read_each_alarm_once() -> None:
    rang = [Alarm(step, "style", "image/contrast", f"moved at {step}") for step in (10, 20, 30)]
    texts = alarm_texts([*rang, Alarm(20, "hacking", HELD_OUT, "fell")])
    assert texts == ["update 10, again at 20, 30: moved at 10", "update 20: fell"]
