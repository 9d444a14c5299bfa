"""Agreement of proxies with votes: which metric of an evaluation prefers the images that people prefer."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srpo_ray.evaluation.seeds import holm
from srpo_ray.votes.intervals import Share, clustered_share
from srpo_ray.votes.ledger import Vote

Array = NDArray[np.float64]

_BINS = 6
_BIN_VOTES = 8
"""Votes that a bin should have at least."""


@dataclass(frozen=True)
class Bin:
    """Votes on pairs with a similar difference of the proxy's scores."""

    difference: float
    """Mean absolute difference of the scores."""
    share: float
    """Share of votes for the image with the higher score; a vote without a preference counts half."""
    votes: int


@dataclass(frozen=True)
class Proxy:
    """One metric, compared with the votes."""

    metric: str
    agreement: Share
    """Share of votes with a preference that went to the image with the higher score; equal scores count half."""
    auc: float
    """Probability that a won pair has a larger score difference in the winner's favour than a lost one has, in
    [0, 1]."""
    slope: float
    """Change of the log-odds of a win per unit of score difference, of a logistic fit without intercept."""
    bins: Sequence[Bin]
    """Calibration: shares by score difference, in ascending order."""
    significant: bool = False
    """True if the agreement differs from one half after Holm's correction for all metrics."""


def compare_proxies(
    votes: Sequence[Vote], scores: Mapping[str, Mapping[tuple[str, str], float]], metrics: Sequence[str] = ()
) -> list[Proxy]:
    """Compare every metric with the votes, the best agreement first.

    Args:
        votes: Votes without hidden repeats.
        scores: Metric -> (system, item) -> score of the image.
        metrics: Metrics to compare; empty takes all.

    Raises:
        ValueError: If a metric is unknown.
    """
    check_metrics(scores, metrics)
    found = [_compare(name, votes, scores[name]) for name in metrics or scores]
    known = [proxy for proxy in found if proxy is not None]
    marked = holm([proxy.agreement.p_value for proxy in known])
    proxies = [
        Proxy(each.metric, each.agreement, each.auc, each.slope, each.bins, significant)
        for each, significant in zip(known, marked, strict=True)
    ]
    return sorted(proxies, key=lambda proxy: (-proxy.agreement.rate, -proxy.auc))


def check_metrics(known: Collection[str], metrics: Sequence[str]) -> None:
    """Check that the evaluation has some metrics.

    Raises:
        ValueError: If it lacks one.
    """
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise ValueError(
            f"--metric: expected metrics of the evaluation ({', '.join(sorted(known)) or 'none'}), got"
            f" {', '.join(unknown)}; choose some of them"
        )


def _compare(metric: str, votes: Sequence[Vote], scores: Mapping[tuple[str, str], float]) -> Proxy | None:
    """One metric; None without a vote with a preference between two scored images."""
    rated = [vote for vote in votes if all(np.isfinite(_score(scores, vote, side)) for side in (vote.left, vote.right))]
    decided = [vote for vote in rated if vote.preferred is not None]
    if not decided:
        return None
    gaps = np.array([_gap(scores, vote) for vote in decided])
    values = [1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps]
    share = clustered_share(values, [vote.prompt_index for vote in decided], [vote.rater for vote in decided])
    differences = np.array([_score(scores, vote, vote.left) - _score(scores, vote, vote.right) for vote in rated])
    wins = np.array([vote.score(vote.left) for vote in rated])
    return Proxy(metric, share, auc(gaps), logistic_slope(differences, wins), _bins(differences, wins))


def _score(scores: Mapping[tuple[str, str], float], vote: Vote, system: str) -> float:
    return scores.get((system, vote.item), float("nan"))


def _gap(scores: Mapping[tuple[str, str], float], vote: Vote) -> float:
    """Score of the preferred image minus that of the other one."""
    gap = _score(scores, vote, vote.left) - _score(scores, vote, vote.right)
    return gap if vote.preferred == vote.left else -gap


def auc(gaps: Array) -> float:
    """Compute the area under the ROC curve of "the first image wins" against the score difference first minus second.

    Which image is called first means nothing, so each pair counts in both orders: the curve compares the differences
    `gaps` of won orders with the differences `-gaps` of lost ones.

    Args:
        gaps: `[N]`, score of the preferred image minus that of the other one.
    """
    from scipy import stats

    number = len(gaps)
    ranks = stats.rankdata(np.concatenate([gaps, -gaps]))[:number]
    return float((ranks.sum() - number * (number + 1) / 2) / number**2)


def logistic_slope(differences: Array, wins: Array) -> float:
    """Fit `P(win) = sigmoid(slope * difference)`.

    A weak Gaussian prior (standard deviation 10 per standard deviation of the differences) keeps the slope finite if
    the sign of the difference decides every vote.

    Args:
        differences: `[N]`, score differences.
        wins: `[N]`, 1 for a win, 0.5 without a preference, 0 for a loss.

    Returns:
        0 if all differences are 0.
    """
    scale = float(np.sqrt(np.mean(differences**2)))
    if scale == 0:
        return 0.0
    scaled, slope = differences / scale, 0.0
    for _ in range(100):
        chances = 1 / (1 + np.exp(-slope * scaled))
        gradient = float(((wins - chances) * scaled).sum()) - slope / 100
        step = gradient / (float((chances * (1 - chances) * scaled**2).sum()) + 1 / 100)
        slope += min(max(step, -1.0), 1.0)
        if abs(step) < 1e-10:
            break
    return slope / scale


def _bins(differences: Array, wins: Array) -> list[Bin]:
    """Shares of the higher score by absolute difference, in bins of equally many votes."""
    favoured = np.where(differences > 0, wins, 1 - wins)[differences != 0]
    sizes = np.abs(differences[differences != 0])
    order = np.argsort(sizes, kind="stable")
    number = max(1, min(_BINS, len(order) // _BIN_VOTES))
    return [
        Bin(float(sizes[part].mean()), float(favoured[part].mean()), len(part))
        for part in np.array_split(order, number)
        if len(part)
    ]
