"""Proposals of TPE on closed-form surfaces, against random draws over many seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

import numpy as np
import pytest

from srpo_ray.config.conditions import searched_values_of
from srpo_ray.config.search import SearchDimension
from srpo_ray.evaluation.pareto import hypervolume
from srpo_ray.search.proposals import Observation, in_space, propose

SPACE = {
    "lr": SearchDimension(loguniform=(1e-6, 1e-3)),
    "share": SearchDimension(uniform=(0, 1)),
    "words": SearchDimension(choice=("detailed", "vivid", "muted")),
}
CONDITIONAL = {
    "query": SearchDimension(choice=("relative", "plain")),
    "hinge": SearchDimension(uniform=(0, 2), when={"query": "relative"}),
    "window": SearchDimension(choice=([5, 25], [5, 35]), when={"query": ["relative", "plain"]}),
    "deep": SearchDimension(randint=(1, 9), when={"hinge_kind": "soft"}),
    "hinge_kind": SearchDimension(choice=("soft", "hard"), when={"query": "relative"}),
}
NEVER = 10**6
"""Startup trials with which all draws are random."""


def surface(values: Mapping[str, Any]) -> float:
    """A smooth peak of 0 at lr = 1e-5, share = 0.7, words = vivid."""
    lr = (math.log10(values["lr"]) + 5) / 3
    return -(lr**2) - (values["share"] - 0.7) ** 2 - 0.2 * (values["words"] != "vivid")


Objectives = Callable[[Mapping[str, Any]], Sequence[float]]
Excess = Callable[[Mapping[str, Any]], Mapping[str, float]]


def search(
    objectives: Objectives,
    modes: Sequence[Literal["max", "min"]] = ("max",),
    *,
    trials: int = 24,
    startup: int = 8,
    seed: int = 0,
    excess: Excess = lambda _: {},
    space: Mapping[str, SearchDimension] = SPACE,
) -> list[Observation]:
    """Trials of one search, one after the other."""
    found: list[Observation] = []
    for number in range(1, trials + 1):
        values = propose(space, found, modes, startup_trials=startup, seed=seed, number=number)
        found.append(Observation(values, "finished", objectives(values), excess(values)))
    return found


def test_tpe_finds_better_values_than_random_draws_with_as_many_trials() -> None:
    def best(startup: int) -> list[float]:
        runs = [search(lambda values: [surface(values)], startup=startup, seed=seed) for seed in range(20)]
        return [max(trial.objectives[0] for trial in run) for run in runs]

    tpe, random = best(8), best(NEVER)
    assert fmean(tpe) > 0.6 * fmean(random)
    assert sum(one > other for one, other in zip(tpe, random, strict=True)) >= 14


def test_search_that_knows_the_limit_proposes_fewer_trials_that_break_it() -> None:
    """The score rises with the share, but above 0.5 a limit is broken."""

    def broken(known: bool) -> float:
        runs = [
            search(
                lambda values: [values["share"] - 0.1 * (math.log10(values["lr"]) + 5) ** 2],
                excess=lambda values: {"content": values["share"] - 0.5} if known else {},
                seed=seed,
            )
            for seed in range(12)
        ]
        return fmean(trial.values["share"] > 0.5 for run in runs for trial in run[8:])

    assert broken(known=True) < 0.5 * broken(known=False)


def test_search_with_two_objectives_dominates_more_than_random_draws() -> None:
    """The front is share in [0, 1] at lr = 1e-5 with the words vivid: one score against another."""

    def objectives(values: Mapping[str, Any]) -> list[float]:
        loss = ((math.log10(values["lr"]) + 5) / 3) ** 2 + 0.2 * (values["words"] != "vivid")
        return [values["share"] - loss, values["share"] ** 2 + loss]

    def dominated(startup: int) -> float:
        runs = [search(objectives, ("max", "min"), trials=30, startup=startup, seed=seed) for seed in range(12)]
        points = [[(trial.objectives[0], -trial.objectives[1]) for trial in run] for run in runs]
        return fmean(hypervolume(each, (0.0, -1.0)) for each in points)

    assert dominated(8) > 1.1 * dominated(NEVER)


def test_running_trials_keep_a_concurrent_one_from_the_same_values() -> None:
    """Two good trials draw the next ones near; running trials at that place count as bad ones."""
    finished = [Observation({"a": a / 10}, "finished", [-abs(a / 10 - 0.5)]) for a in range(11)]
    running = [Observation({"a": 0.5 + step / 1000}, "running") for step in range(-20, 20)]

    def distance(known: list[Observation]) -> float:
        space = {"a": SearchDimension(uniform=(0, 1))}
        draws = [propose(space, known, ["max"], startup_trials=1, seed=seed, number=1)["a"] for seed in range(20)]
        return fmean(abs(draw - 0.5) for draw in draws)

    assert distance(finished + running) > 2 * distance(finished)


def test_trials_stopped_early_count_below_all_that_finished() -> None:
    """A stopped trial has the highest score; it is still no good place."""
    known = [Observation({"a": a / 20}, "finished", [-abs(a / 20 - 0.3)]) for a in range(21)]
    known += [Observation({"a": 0.9 + a / 100}, "stopped", [9.0], update=5) for a in range(8)]
    space = {"a": SearchDimension(uniform=(0, 1))}
    draws = [propose(space, known, ["max"], startup_trials=1, seed=seed, number=1)["a"] for seed in range(20)]
    assert all(abs(draw - 0.3) < 0.25 for draw in draws)


@pytest.mark.parametrize("startup", [3, NEVER])
def test_dimension_is_drawn_if_and_only_if_its_condition_holds(startup: int) -> None:
    trials = search(lambda values: [values.get("hinge", 1.0)], startup=startup, space=CONDITIONAL, trials=40)
    seen = set()
    for trial in trials:
        values = dict(trial.values)
        relative = values["query"] == "relative"
        assert ("hinge" in values) == ("hinge_kind" in values) == relative
        assert ("deep" in values) == (values.get("hinge_kind") == "soft")
        assert values["window"] in ([5, 25], [5, 35])
        assert all(in_space(CONDITIONAL[path], value) for path, value in values.items())
        seen.add((values["query"], values.get("hinge_kind")))
    assert seen == {("relative", "soft"), ("relative", "hard"), ("plain", None)}


def test_values_whose_condition_does_not_hold_are_dropped_from_independent_draws() -> None:
    drawn = {"query": "plain", "hinge": 1.0, "window": [5, 25], "deep": 3, "hinge_kind": "soft"}
    assert searched_values_of(CONDITIONAL, drawn) == {"query": "plain", "window": [5, 25]}
    assert searched_values_of(CONDITIONAL, {**drawn, "query": "relative"}) == {**drawn, "query": "relative"}
    assert "deep" not in searched_values_of(CONDITIONAL, {**drawn, "query": "relative", "hinge_kind": "hard"})


def test_random_draws_have_the_distribution_of_the_space() -> None:
    draws = [propose(SPACE, [], ["max"], startup_trials=1, seed=7, number=number) for number in range(300)]
    logs = np.log10([draw["lr"] for draw in draws])
    assert abs(logs.mean() + 4.5) < 0.15
    assert abs(np.mean([draw["share"] for draw in draws]) - 0.5) < 0.06
    assert all(70 < sum(draw["words"] == word for draw in draws) < 130 for word in ("detailed", "vivid", "muted"))
