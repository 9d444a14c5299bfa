"""Tests of the paper's claims on the runs of the study: differences between arms, and the sign of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from study_results import (
    BRIGHTNESS,
    COLUMNS,
    DETAIL,
    EQUAL_GAINS,
    HELD_OUT,
    MEAN,
    PEOPLE,
    SATURATION,
    VIGNETTE,
    at_equal_gain,
)

from srpo_ray.evaluation.comparison import difference
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.results import Results

PLAIN_METHODS = ("ReFL", "DRaFT-LV", "DanceGRPO", "Direct-Align")
"""Methods with an arm on the plain reward. SRPO on the plain reward is Direct-Align."""
WORDS_FOR = {"bright": "light", "muted": "natural", "vivid": "vivid", "detailed": "detail"}
"""Control words -> the kind of person who likes what they name."""
CHANGES = ("no inversion", "no discount", "no hinge", "early window", "late window", "shared noise")


@dataclass(frozen=True)
class Test:
    """A difference between two arms."""

    __test__ = False  # pytest collects classes of this name otherwise

    study: str
    question: str
    estimate: Estimate | None
    """None if an arm has no run, or never reaches the gain at which it would be compared."""

    @property
    def sign(self) -> str:
        """`+` or `-` if the 95% interval excludes zero, else `0`; empty without an interval."""
        if self.estimate is None or self.estimate.half_width is None:
            return ""
        if abs(self.estimate.mean) <= self.estimate.half_width:
            return "0"
        return "+" if self.estimate.mean > 0 else "-"


def claim_tests(studies: Mapping[str, Results]) -> Iterator[Test]:
    """Test the claims on the studies and arms that exist.

    Args:
        studies: Name of each study -> its results.
    """
    makers = {"paper_table": _of_methods, "bias": _of_bias, "past_the_turn": _past_the_turn}
    for study, results in studies.items():
        for question, estimate in makers[study](results):
            yield Test(study, question, estimate)


Found = Iterator[tuple[str, Estimate | None]]


def _of_methods(results: Results) -> Found:
    for method in PLAIN_METHODS:
        for metric in (HELD_OUT, MEAN):
            arms = (f"{method}, detailed", f"{method}, plain")
            yield f"{method}: *detailed* - plain, {COLUMNS[metric]}", _minus(results, *arms, metric)
    for words, kind in WORDS_FOR.items():
        for method in PLAIN_METHODS:
            arms, metric = (f"{method}, {words}", f"{method}, plain"), f"{PEOPLE}{kind}"
            yield f"{method}: *{words}* - plain, {COLUMNS[metric]}", _minus(results, *arms, metric)
    for other in PLAIN_METHODS:
        for metric in (HELD_OUT, MEAN):
            arms = ("SRPO, detailed", f"{other}, detailed")
            yield f"SRPO - {other}, both *detailed*, {COLUMNS[metric]}", _minus(results, *arms, metric)
    for method in ("ReFL", "DRaFT-LV", "Direct-Align"):
        for metric in (HELD_OUT, MEAN):
            arms = (f"{method}, plain", "DanceGRPO, plain")
            yield f"{method} - DanceGRPO, both plain, {COLUMNS[metric]}", _minus(results, *arms, metric)


def _of_bias(results: Results) -> Found:
    for query in ("plain", "positive word", "relative", "relative and inversion"):
        for effect in (SATURATION, VIGNETTE):
            arms = (f"{query}, bias 2", f"{query}, bias 0")
            yield f"{query}: bias 2 - bias 0, {COLUMNS[effect]}", _minus(results, *arms, effect)
    metric, amount = EQUAL_GAINS["bias"]
    for query in ("positive word", "relative", "relative and inversion"):
        for effect in (SATURATION, VIGNETTE):
            found = _minus_at_gain(results, f"{query}, bias 2", f"{query}, bias 0", metric, amount, effect)
            yield f"{query}: bias 2 - bias 0, {COLUMNS[effect]} at {COLUMNS[BRIGHTNESS]} +{amount}", found


def _past_the_turn(results: Results) -> Found:
    for change in CHANGES:
        for metric in (HELD_OUT, MEAN):
            yield f"SRPO, {change} - SRPO, best update, {COLUMNS[metric]}", _minus(results, change, "SRPO", metric)
    metric, amount = EQUAL_GAINS["past_the_turn"]
    for change in CHANGES:
        found = _minus_at_gain(results, change, "SRPO", metric, amount, SATURATION)
        yield f"SRPO, {change} - SRPO, {COLUMNS[SATURATION]} at {COLUMNS[DETAIL]} +{amount}", found
    arms = ("plain reward, late window", "plain reward, early window")
    for metric in (HELD_OUT, MEAN, SATURATION):
        yield f"plain reward: late - early window, best update, {COLUMNS[metric]}", _minus(results, *arms, metric)
    found = _minus_at_gain(results, *arms, DETAIL, amount, SATURATION)
    yield f"plain reward: late - early window, {COLUMNS[SATURATION]} at {COLUMNS[DETAIL]} +{amount}", found


def _known(results: Results, *names: str) -> bool:
    return {arm.name for arm in results.arms}.issuperset(names)


def _minus(results: Results, name: str, other: str, metric: str) -> Estimate | None:
    known = _known(results, name, other)
    return difference(results.arm(name).ended, results.arm(other).ended, metric) if known else None


def _minus_at_gain(results: Results, name: str, other: str, metric: str, amount: float, effect: str) -> Estimate | None:
    return at_equal_gain(results, name, other, metric, amount, effect) if _known(results, name, other) else None
