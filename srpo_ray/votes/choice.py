"""Choice of the next pair for a person: a balanced round over systems and prompts, then the most uncertain pairs.

1. Every third pair of a person is one that others have judged already, as long as there are any: agreement between
   people needs pairs that several of them have judged.
2. Otherwise the two systems with the fewest common votes come first, until each two have `ROUND` votes, or as many as
   they have prompts.
3. Then the two systems whose comparison can still tell most come first: `p (1 - p) / (votes + 1)`, with the win chance
   `p` of the Bradley-Terry strengths so far.
4. Of two systems, the prompt with the fewest votes comes first. Remaining ties are broken at random, by seed and
   person.

Hidden repeats: after every `1 / repeats` pairs, a pair that the person has judged comes again with its sides swapped.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import cosh

from srpo_ray.votes.ballot import Ballot, Pair
from srpo_ray.votes.ledger import Vote, distinct
from srpo_ray.votes.strengths import fit, wins_table

ROUND = 4
_SHARED_EVERY = 3
_LAG = 5
"""Votes between a pair and its repeat, if there are pairs left to put between them."""


@dataclass(frozen=True)
class Offer:
    """One pair as it is shown to a person."""

    item: str
    left: str
    right: str
    repeat_of: str | None = None
    """Id of the vote that a hidden repeat checks."""


def next_offer(ballot: Ballot, votes: Sequence[Vote], rater: str, *, seed: int, repeats: float) -> Offer | None:
    """Choose the next pair of a person.

    Args:
        ballot: What is voted on.
        votes: Votes of all persons on the ballot's images.
        rater: Name of the person.
        seed: Seed of the sides and of random choices.
        repeats: Hidden repeats as a share of a person's pairs, in [0, 1].

    Returns:
        None if the person has judged all pairs and their repeats.
    """
    own = [vote for vote in votes if vote.rater == rater]
    judged = {_pair_of(vote) for vote in own}
    left = [pair for pair in ballot.pairs if pair not in judged]
    repeat = _repeat(own, seed, repeats, exhausted=not left)
    if repeat is not None:
        return Offer(repeat.item, repeat.right, repeat.left, repeat.id)
    if not left:
        return None
    pair = _most_useful(left, ballot, distinct(votes), len(judged), f"{seed} {rater}")
    swapped = _chance(f"side {seed} {rater} {pair}") < 0.5
    first, second = reversed(pair.systems) if swapped else pair.systems
    return Offer(pair.item, first, second)


def total_offers(ballot: Ballot, repeats: float) -> int:
    """Number of pairs that one person can be shown, hidden repeats included."""
    return len(ballot.pairs) + int(repeats * len(ballot.pairs))


def _pair_of(vote: Vote) -> Pair:
    return Pair(vote.item, *vote.systems)


def _chance(text: str) -> float:
    """Number in [0, 1) that a text determines."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def _repeat(own: Sequence[Vote], seed: int, repeats: float, *, exhausted: bool) -> Vote | None:
    """Vote to check by a hidden repeat now; None if none is due."""
    first = distinct(own)
    checked = {vote.repeat_of for vote in own}
    if len(own) - len(first) >= int(repeats * len(first)):
        return None
    lag = min(1, len(own) - 1) if exhausted else _LAG
    recent = {_pair_of(vote) for vote in own[len(own) - lag :]}
    old = [vote for vote in first if vote.id not in checked and _pair_of(vote) not in recent]
    return min(old, key=lambda vote: _chance(f"repeat {seed} {vote.id}"), default=None)


def _most_useful(left: Sequence[Pair], ballot: Ballot, votes: Sequence[Vote], done: int, chance: str) -> Pair:
    by_pair = Counter(_pair_of(vote) for vote in votes)
    shared = [pair for pair in left if by_pair[pair]]
    if shared and done % _SHARED_EVERY == _SHARED_EVERY - 1:
        return min(shared, key=lambda pair: (by_pair[pair], _chance(f"{chance} {pair}")))
    by_systems = Counter(vote.systems for vote in votes)
    by_prompt = Counter(vote.item for vote in votes)
    urgency = _urgency(left, ballot, votes, by_systems)

    def order(pair: Pair) -> tuple[float, int, int, float]:
        return (urgency[pair.systems], by_pair[pair], by_prompt[pair.item], _chance(f"{chance} {pair}"))

    return min(left, key=order)


def _urgency(
    left: Sequence[Pair], ballot: Ballot, votes: Sequence[Vote], counted: Counter[tuple[str, str]]
) -> dict[tuple[str, str], float]:
    """Both systems of a pair -> order in which they are compared, the lowest first."""
    available = Counter(pair.systems for pair in ballot.pairs)
    candidates = {pair.systems for pair in left}
    first_round = {two for two in candidates if counted[two] < min(ROUND, available[two])}
    if first_round:
        return {two: float(counted[two]) if two in first_round else float("inf") for two in candidates}
    strengths = dict(zip(ballot.systems, fit(wins_table(votes, ballot.systems)), strict=True))
    return {two: -_information(strengths[two[0]] - strengths[two[1]], counted[two]) for two in candidates}


def _information(difference: float, votes: int) -> float:
    # p (1 - p) of the logistic function.
    return 0.25 / cosh(difference / 2) ** 2 / (votes + 1)
