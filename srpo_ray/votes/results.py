"""Results of a vote as plain values: win rates, strengths, agreement of people and of proxies."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from srpo_ray.votes.agreement import Agreement, Rater, agreement, consistency, left_share, raters
from srpo_ray.votes.ballot import Ballot
from srpo_ray.votes.intervals import Share, clustered_share
from srpo_ray.votes.ledger import Vote, distinct
from srpo_ray.votes.proxies import Proxy, compare_proxies
from srpo_ray.votes.strengths import Strength, strengths


@dataclass(frozen=True)
class Duel:
    """Two systems, compared by the votes on their common pairs."""

    system: str
    other: str
    wins: int
    no_preference: int
    losses: int
    rate: Share
    """Share of the votes for `system`; a vote without a preference counts half."""


@dataclass(frozen=True)
class VoteResults:
    """Results of the votes in a folder."""

    title: str
    created: str
    command: str
    reference: str
    """System with strength 0: the base model, or the first system."""
    systems: Sequence[str]
    votes: int
    """Votes that count, without hidden repeats."""
    both_bad: int
    """Votes `both_bad` among them."""
    repeats: int
    stale: int
    """Votes on images that were replaced, or on systems that are left out; they do not count."""
    prompts: int
    """Prompts with a vote."""
    raters: Sequence[Rater]
    strengths: Sequence[Strength]
    """The strongest first; those of systems with votes."""
    duels: Sequence[Duel]
    """Each two systems with common votes."""
    agreement: Agreement | None
    consistency: Share | None
    left: Share | None
    proxies: Sequence[Proxy]
    """The metric that agrees best first."""
    notes: Sequence[str] = ()

    @property
    def best(self) -> Strength | None:
        """The strongest system; None without votes."""
        return next(iter(self.strengths), None)

    def metrics(self) -> dict[str, float]:
        """Metrics for the tracker."""
        found = {"votes/count": float(self.votes), "votes/raters": float(len(self.raters))}
        if len(self.duels) == 1:
            rate = self.duels[0].rate
            found |= {"votes/win_rate": rate.rate, "votes/win_rate_low": rate.low, "votes/win_rate_high": rate.high}
        found |= {f"votes/strength/{each.system}": each.value for each in self.strengths if len(self.strengths) > 2}
        found |= {f"votes/agreement/{proxy.metric}": proxy.agreement.rate for proxy in self.proxies}
        found |= {f"votes/auc/{proxy.metric}": proxy.auc for proxy in self.proxies}
        if self.agreement is not None:
            found["votes/raters_agree"] = self.agreement.percent
        if self.agreement is not None and self.agreement.alpha is not None:
            found["votes/krippendorff_alpha"] = self.agreement.alpha
        if self.consistency is not None:
            found["votes/self_consistency"] = self.consistency.rate
        return found


def vote_results(ballot: Ballot, votes: Sequence[Vote], metrics: Sequence[str] = (), command: str = "") -> VoteResults:
    """Evaluate the votes on a ballot.

    Args:
        ballot: What was voted on.
        votes: All votes of its folder.
        metrics: Metrics to compare with the votes; empty takes all.
        command: Command line of the user, for the report.

    Raises:
        ValueError: If a metric is unknown.
    """
    current = ballot.current(votes)
    counted = distinct(current)
    voted = {system for vote in counted for system in vote.systems}
    systems = [system for system in ballot.systems if system in voted]
    return VoteResults(
        title=ballot.title,
        created=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        command=command,
        reference=systems[0] if systems else ballot.systems[0],
        systems=systems,
        votes=len(counted),
        both_bad=sum(vote.choice == "both_bad" for vote in counted),
        repeats=len(current) - len(counted),
        stale=len(votes) - len(current),
        prompts=len({vote.prompt_index for vote in counted}),
        raters=raters(current),
        strengths=strengths(counted, systems) if counted else [],
        duels=duels(counted, systems),
        agreement=agreement(counted),
        consistency=consistency(current),
        left=left_share(counted),
        proxies=compare_proxies(counted, ballot.scores, metrics),
        notes=ballot.notes,
    )


def duels(votes: Sequence[Vote], systems: Sequence[str]) -> list[Duel]:
    """Win rates of each two systems with common votes; the later system against the earlier one, often the base."""
    found = []
    for other, system in combinations(systems, 2):
        common = [vote for vote in votes if {vote.left, vote.right} == {system, other}]
        if not common:
            continue
        values = [vote.score(system) for vote in common]
        rate = clustered_share(values, [vote.prompt_index for vote in common], [vote.rater for vote in common])
        wins, losses = values.count(1.0), values.count(0.0)
        found.append(Duel(system, other, wins, len(values) - wins - losses, losses, rate))
    return found
