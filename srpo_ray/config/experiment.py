"""An experiment file, and the checks across its parts.

Each check raises a `ValueError` that says what was expected, what came and what to do.
"""

from typing import Self

from pydantic import model_validator

from srpo_ray.config.arm import Arm
from srpo_ray.config.base import check_name, check_names
from srpo_ray.config.budget import check_prices
from srpo_ray.config.experiment_parts import TEST, ExperimentParts, of_test
from srpo_ray.config.objective import VOTES


def check_part_names(experiment: ExperimentParts) -> None:
    """Refuse names that repeat, or that name no arm."""
    check_names([part.name for part in (*experiment.arms, *experiment.ablations)])
    # The config of the best arm has this name.
    check_name(f"{experiment.name}_best")
    known: list[str] = []
    for arm in experiment.arms:
        if arm.like is not None and arm.like not in known:
            raise ValueError(
                f"expected `like` of {arm.name!r} to name an arm before it ({', '.join(known) or 'none'}),"
                f" got {arm.like!r}; move that one up or correct the name"
            )
        known.append(arm.name)
    if experiment.reference_arm is not None and experiment.reference_arm not in known:
        raise ValueError(
            f"expected reference_arm to name an arm ({', '.join(known)}), got {experiment.reference_arm!r};"
            " choose one of them"
        )


def check_objectives(experiment: ExperimentParts) -> None:
    """Refuse objectives without the one that chooses."""
    if not experiment.objectives:
        return
    if experiment.objectives.get(experiment.objective) != experiment.mode or len(experiment.objectives) < 2:
        raise ValueError(
            f"expected two or more metrics in `objectives`, {experiment.objective}: {experiment.mode} among them"
            f" because it chooses the trial, got {experiment.objectives}; add what is missing, or remove `objectives`"
        )


def check_conditions(experiment: ExperimentParts) -> None:
    """Refuse conditional values in a population."""
    conditional = sorted({path for arm in experiment.arms for path, each in arm.space.items() if each.when})
    if conditional and experiment.search.scheduler.type == "pbt":
        raise ValueError(
            f"expected no `when` in a space that scheduler.type: pbt searches, got one of {', '.join(conditional)};"
            " a perturbed choice would leave values without their condition: remove `when`, or use promotion"
        )


def check_points(experiment: ExperimentParts) -> None:
    """Refuse earlier trials where no space is searched."""
    if experiment.search.points_from and not any(arm.space for arm in experiment.arms):
        raise ValueError(
            "expected an arm with a `space` for search.points_from, got none; earlier trials guide draws from a"
            " space only: give one, or remove points_from"
        )


def check_search(experiment: ExperimentParts) -> None:
    """Refuse searched values that choose by test prompts, or that all trials share."""
    searched = {path for arm in experiment.arms for path in arm.searched}
    for_trials = {*experiment.search.set, *(path for rung in experiment.search.scheduler.rungs for path in rung.set)}
    if tested := sorted(path for path in {*searched, *for_trials} if of_test(path)):
        raise ValueError(
            f"expected no key of {TEST} in `space`, `grid` or search.set, got {', '.join(tested)}; trials are not"
            " tested, because test prompts choose nothing: give it in the base config"
        )
    twice = sorted(searched & for_trials)
    if twice:
        place = "search.set or `set` of a rung" if experiment.search.scheduler.rungs else "search.set"
        raise ValueError(
            f"expected no searched value in {place}, got {', '.join(twice)}; trials"
            " would all have the same: remove it there or from the arms"
        )


def check_votes(experiment: ExperimentParts) -> None:
    """Refuse searches that cannot wait for votes."""
    if experiment.objective != VOTES:
        return
    drawn = any(arm.space for arm in experiment.arms)
    if drawn and experiment.search.scheduler.type == "asha":
        raise ValueError(
            "expected search.scheduler.type none, promotion or pbt with objective votes, got 'asha', which compares"
            " trials while they train, when nobody can vote on them; choose one of the others"
        )
    if drawn and experiment.search.searcher != "random":
        raise ValueError(
            f"expected search.searcher random with objective votes, got {experiment.search.searcher!r}, which learns"
            " from each trial as soon as it ends, before people have voted; set it to random"
        )
    widened = [arm.name for arm in experiment.arms if arm.widen]
    if widened:
        raise ValueError(
            f"expected no `widen` with objective votes, got it in arm {widened[0]!r}; people vote once all trials"
            " have ended, so no value can be added before: remove `widen`"
        )
    if experiment.mode != "max":
        raise ValueError("expected mode max with objective votes, got min; more votes are better: remove mode")


def check_budget(experiment: ExperimentParts) -> None:
    """Refuse a budget of money without a price."""
    check_prices(experiment.gpus, experiment.price)
    if experiment.budget is not None and experiment.budget.money is not None and experiment.price is None:
        raise ValueError(
            f"expected `price` with budget.money={experiment.budget.money:g}, got none; give the price of a GPU-hour,"
            " for example `price: 2.5` or `price: {H100: 2.5}`"
        )


def check_seeds(experiment: ExperimentParts) -> None:
    """Refuse seeds that repeat, or an arm that nothing trains."""
    for part in (*experiment.arms, *experiment.ablations):
        seeds = experiment.seeds_of(part)
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"expected seeds that differ for {part.name!r}, got {list(seeds)}; give each once")
        if not seeds and not (isinstance(part, Arm) and experiment.origin(part).searched):
            raise ValueError(
                f"expected at least one seed for {part.name!r}, which no search trains, got none; give `seeds`"
            )


CHECKS = (
    check_part_names,
    check_objectives,
    check_conditions,
    check_points,
    check_search,
    check_votes,
    check_budget,
    check_seeds,
)
"""Checks across the parts, in their order: the first that fails is reported."""


class ExperimentConfig(ExperimentParts):
    """An experiment file: a base config, arms that change it, and ablations of one arm.

    A hyper-parameter sweep is one arm with a `space`. A comparison of methods has several arms.
    """

    @model_validator(mode="after")
    def _check(self) -> Self:
        for check in CHECKS:
            check(self)
        return self
