"""Bradley-Terry strengths of systems from votes (Bradley and Terry, Biometrika 39, 1952), with intervals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srpo_ray.votes.intervals import student_quantile
from srpo_ray.votes.ledger import Vote

Array = NDArray[np.float64]

PRIOR_SD = 3.0
"""Standard deviation of the Gaussian prior of a strength, in log-odds. It keeps the strength of a system that wins or
loses all votes finite, and matters little otherwise."""
_DRAWS = 400
_ITERATIONS = 50
_LONGEST_STEP = 2.0


@dataclass(frozen=True)
class Strength:
    """Strength of one system."""

    system: str
    value: float
    """Log-odds of a win against the reference, which has 0."""
    low: float
    high: float
    """Ends of the 95% interval; both are `value` for the reference itself."""
    votes: int
    """Votes on pairs with this system."""

    @property
    def win_chance(self) -> float:
        """Estimated probability of a win against the reference."""
        return float(1 / (1 + np.exp(-self.value)))


def fit(wins: Array, prior_sd: float = PRIOR_SD) -> Array:
    """Compute the most probable strengths for a table of wins, or for many tables at once.

    Newton's method on the log-likelihood `sum wins[i, j] log sigmoid(s_i - s_j)` with a Gaussian prior.

    Args:
        wins: `[..., K, K]`, votes that the row's system won against the column's; a tie counts half for each.
        prior_sd: Standard deviation of the prior in log-odds.

    Returns:
        Strengths `[..., K]` with mean 0.
    """
    played = wins + np.swapaxes(wins, -1, -2)
    strengths = np.zeros(wins.shape[:-1])
    for _ in range(_ITERATIONS):
        chances, hessian = _curvature(strengths, played, prior_sd)
        gradient = (wins - played * chances).sum(-1) - strengths / prior_sd**2
        step = np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -_LONGEST_STEP, _LONGEST_STEP)
        strengths = strengths + step
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return strengths - strengths.mean(-1, keepdims=True)


def _curvature(strengths: Array, played: Array, prior_sd: float) -> tuple[Array, Array]:
    """Win chances `[..., K, K]` and the negative Hessian of the log-posterior."""
    chances = 1 / (1 + np.exp(strengths[..., None, :] - strengths[..., :, None]))
    information = played * chances * (1 - chances)
    diagonal = np.eye(strengths.shape[-1]) * (information.sum(-1) + 1 / prior_sd**2)[..., None]
    return chances, diagonal - information


def wins_table(votes: Sequence[Vote], systems: Sequence[str]) -> Array:
    """Votes that each system won against each other `[K, K]`; a vote without a preference counts half for both."""
    place = {system: index for index, system in enumerate(systems)}
    wins = np.zeros((len(systems), len(systems)))
    for vote in votes:
        left, right = place[vote.left], place[vote.right]
        wins[left, right] += vote.score(vote.left)
        wins[right, left] += vote.score(vote.right)
    return wins


def strengths(votes: Sequence[Vote], systems: Sequence[str], seed: int = 0) -> list[Strength]:
    """Estimate the strength of each system relative to the first, with 95% intervals.

    The standard error is that of a bootstrap over prompts, because votes on one prompt are correlated, but at least
    that of the curvature of the log-posterior: a bootstrap of a system that wins every vote has no spread.

    Args:
        votes: Votes without hidden repeats.
        systems: Names; the first is the reference.
        seed: Seed of the bootstrap.

    Returns:
        One strength per system, the strongest first.
    """
    prompts = sorted({vote.prompt_index for vote in votes})
    by_prompt = np.stack([wins_table([v for v in votes if v.prompt_index == prompt], systems) for prompt in prompts])
    wins = by_prompt.sum(0)
    best = fit(wins)
    error = np.maximum(_bootstrap_errors(by_prompt, seed), _curvature_errors(best, wins))
    reach = student_quantile(len(prompts) - 1) * error
    counted = Counter(name for vote in votes for name in vote.systems)
    relative = best - best[0]
    found = [
        Strength(name, float(value), float(value - half), float(value + half), counted[name])
        for name, value, half in zip(systems, relative, np.where(np.arange(len(systems)) == 0, 0.0, reach), strict=True)
    ]
    return sorted(found, key=lambda strength: -strength.value)


def _bootstrap_errors(by_prompt: Array, seed: int) -> Array:
    """Standard errors `[K]` of the strengths relative to the first, over bootstrap samples of prompts."""
    number = len(by_prompt)
    if number == 1:
        return np.zeros(by_prompt.shape[-1])
    weights = np.random.default_rng(seed).multinomial(number, [1 / number] * number, size=_DRAWS)
    drawn = fit(np.tensordot(weights.astype(float), by_prompt, axes=1))
    # A bootstrap of G prompts understates the variance by (G - 1) / G.
    return (drawn - drawn[:, :1]).std(0) * np.sqrt(number / (number - 1))


def _curvature_errors(best: Array, wins: Array) -> Array:
    """Standard errors `[K]` of the strengths relative to the first, from the log-posterior's curvature."""
    covariance = np.linalg.inv(_curvature(best, wins + wins.T, PRIOR_SD)[1])
    variance = np.diag(covariance) + covariance[0, 0] - 2 * covariance[0]
    return np.sqrt(np.maximum(variance, 0.0))
