"""Agreement between people, and of each person with themselves."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from srpo_ray.votes.intervals import Share, clustered_share
from srpo_ray.votes.ledger import Vote, distinct


@dataclass(frozen=True)
class Rater:
    """One person's part in a vote."""

    name: str
    votes: int
    """Votes without hidden repeats."""
    no_preference: int
    """Votes `tie` or `both_bad` among them."""
    repeats: int
    """Hidden repeats answered."""
    consistent: int
    """Hidden repeats answered as the first time."""
    seconds: float | None
    """Median duration of a vote in seconds."""


@dataclass(frozen=True)
class Agreement:
    """Agreement between people on pairs that several of them judged."""

    pairs: int
    """Pairs with votes by two persons or more."""
    percent: float
    """Share of equal answers among all couples of votes on one pair, in [0, 1]."""
    alpha: float | None
    """Krippendorff's alpha: 1 is perfect agreement, 0 that of guessing; None if every answer is the same."""


def raters(votes: Sequence[Vote]) -> list[Rater]:
    """Each person's part, the person with most votes first."""
    by_id = {vote.id: vote for vote in votes}
    found = []
    for name in dict.fromkeys(vote.rater for vote in votes):
        own = [vote for vote in votes if vote.rater == name]
        first = distinct(own)
        checks = [(vote, by_id[vote.repeat_of]) for vote in own if vote.repeat_of in by_id]
        times = [vote.seconds for vote in own if vote.seconds is not None]
        found.append(
            Rater(
                name,
                len(first),
                sum(vote.preferred is None for vote in first),
                len(checks),
                sum(again.preferred == before.preferred for again, before in checks),
                median(times) if times else None,
            )
        )
    return sorted(found, key=lambda rater: -rater.votes)


def consistency(votes: Sequence[Vote]) -> Share | None:
    """Share of hidden repeats that were answered as the first time; None without repeats."""
    by_id = {vote.id: vote for vote in votes}
    checks = [(vote, by_id[vote.repeat_of]) for vote in votes if vote.repeat_of in by_id]
    if not checks:
        return None
    same = [float(again.preferred == before.preferred) for again, before in checks]
    return clustered_share(same, [again.prompt_index for again, _ in checks], [again.rater for again, _ in checks])


def left_share(votes: Sequence[Vote]) -> Share | None:
    """Share of the left image among votes with a preference: one half without a bias to a side; None without votes."""
    decided = [vote for vote in votes if vote.preferred is not None]
    if not decided:
        return None
    values = [float(vote.choice == "left") for vote in decided]
    return clustered_share(values, [vote.prompt_index for vote in decided], [vote.rater for vote in decided])


def agreement(votes: Sequence[Vote]) -> Agreement | None:
    """Agreement of people on the pairs that two or more of them judged; None if there is no such pair.

    Answers are the preferred system, or no preference. Names and order of two systems mean nothing, so alpha counts
    each pair in both orders: guessing then prefers either system with equal probability.

    Args:
        votes: Votes without hidden repeats.
    """
    answers: dict[tuple[str, tuple[str, str]], dict[str, str | None]] = defaultdict(dict)
    for vote in votes:
        answers[vote.item, vote.systems][vote.rater] = vote.preferred
    units = {key: list(given.values()) for key, given in answers.items() if len(given) > 1}
    if not units:
        return None
    equal = [one == other for given in units.values() for one, other in combinations(given, 2)]
    return Agreement(len(units), sum(equal) / len(equal), krippendorff_alpha(_both_orders(units)))


def _both_orders(units: Mapping[tuple[str, tuple[str, str]], Sequence[str | None]]) -> list[list[int]]:
    """The answers to each pair as 1, 0 or -1, for one order of its systems and for the other."""
    found = []
    for (_, (first, _)), given in units.items():
        signs = [0 if answer is None else 1 if answer == first else -1 for answer in given]
        found += [signs, [-sign for sign in signs]]
    return found


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Compute Krippendorff's alpha for nominal values (Content Analysis, 2004, chapter 11).

    Args:
        units: Values that different persons gave to each unit; units with a single value do not count.

    Returns:
        1 minus observed over expected disagreement; None if all values are equal, so that none is expected.
    """
    paired = [unit for unit in units if len(unit) > 1]
    totals = Counter(value for unit in paired for value in unit)
    number = sum(totals.values())
    observed = 0.0
    for unit in paired:
        counts = Counter(unit)
        observed += sum(count * (len(unit) - count) for count in counts.values()) / (len(unit) - 1)
    expected = sum(count * (number - count) for count in totals.values()) / (number - 1) if number > 1 else 0.0
    return 1 - observed / expected if expected else None
