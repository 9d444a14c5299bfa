"""Claims that the laboratory examines: differences of two arms, and costs to another method's score."""

from collections.abc import Iterator
from dataclasses import dataclass

from laboratory_results import cost_of, end_score
from study_results import CONTENT, HELD_OUT, MEAN

from srpo_ray.evaluation.comparison import difference
from srpo_ray.evaluation.costs import CALLS, Passage
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.results import Results

DIVERSITY = "image/diversity"
PAIRS = (
    ("AWM against Flow-GRPO", "AWM", "Flow-GRPO"),
    ("DiffusionNFT against Flow-GRPO", "DiffusionNFT", "Flow-GRPO"),
    ("AWM against DanceGRPO", "AWM", "DanceGRPO"),
    ("MixGRPO against DanceGRPO", "MixGRPO", "DanceGRPO"),
    ("MixGRPO-Flash against MixGRPO", "MixGRPO-Flash", "MixGRPO"),
    ("BranchGRPO against DanceGRPO", "BranchGRPO", "DanceGRPO"),
    ("G2RPO against DanceGRPO", "G2RPO", "DanceGRPO"),
    ("TempFlow-GRPO against Flow-GRPO", "TempFlow-GRPO", "Flow-GRPO"),
    ("Flow-GRPO-Fast against Flow-GRPO", "Flow-GRPO-Fast", "Flow-GRPO"),
    ("SPO against Flow-GRPO", "SPO", "Flow-GRPO"),
    ("HRF against DDPO", "HRF", "DDPO"),
    ("gradient (ReFL) against black box (AWM)", "ReFL", "AWM"),
    ("gradient (Direct-Align) against black box (AWM)", "Direct-Align", "AWM"),
    ("LeapAlign against ReFL", "LeapAlign", "ReFL"),
    ("DRTune against ReFL", "DRTune", "ReFL"),
    ("FlowBP against ReFL", "FlowBP", "ReFL"),
    ("estimator, loss plain: image - path", "image, plain", "path, plain"),
    ("estimator, loss ppo: image - path", "image, ppo", "Flow-GRPO"),
    ("loss, estimator path: ppo - plain", "Flow-GRPO", "path, plain"),
    ("loss, estimator image: ppo - plain", "image, ppo", "image, plain"),
    ("loss, estimator image: nft - plain", "DiffusionNFT", "image, plain"),
    ("sampler: Euler-Maruyama, constant - flow noise", "Euler-Maruyama, constant noise", "Euler-Maruyama, flow noise"),
    ("sampler, flow noise: frozen - Euler-Maruyama", "frozen, flow noise", "Euler-Maruyama, flow noise"),
    ("sampler: CPS - Euler-Maruyama, flow noise", "CPS", "Euler-Maruyama, flow noise"),
    ("sampler: CPS, unit weight - Euler-Maruyama, flow noise", "CPS, unit weight", "Euler-Maruyama, flow noise"),
)
"""Question, an arm, and the arm whose change is subtracted."""
METRICS = {HELD_OUT: "held-out", MEAN: "mean utility", CONTENT: "content"}


@dataclass(frozen=True)
class PairTest:
    """Difference of two arms at their ends."""

    question: str
    differences: dict[str, Estimate | None]
    """Metric -> difference."""


@dataclass(frozen=True)
class CostTest:
    """Cost of an arm until it has another arm's final score."""

    question: str
    target: float
    """Mean held-out score of the other arm at its end, on the validation prompts."""
    passage: Passage | None
    spent: float
    """Velocity evaluations that the other arm spent on it."""


def pair_tests(results: Results) -> Iterator[PairTest]:
    """Compare the arms of every claim whose arms have run."""
    for question, name, other in _known(results):
        ours, theirs = (results.arm(each).ended for each in (name, other))
        yield PairTest(question, {metric: difference(ours, theirs, metric) for metric in METRICS})


def cost_tests(results: Results) -> Iterator[CostTest]:
    """Count what the first arm of every claim spends until it has the final score of the second."""
    for question, name, other in _known(results):
        target = end_score(results, other)
        spent = results.arm(other).over_seeds(CALLS)
        if target is not None and spent is not None:
            yield CostTest(question, target, cost_of(results, name, target), spent.mean)


def _known(results: Results) -> Iterator[tuple[str, str, str]]:
    names = {arm.name for arm in results.arms if arm.ended}
    return (pair for pair in PAIRS if names.issuperset(pair[1:]))
