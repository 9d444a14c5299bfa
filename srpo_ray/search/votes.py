"""Choice by people: wait until they have voted on the images of runs, then rank the runs by their strengths."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from srpo_ray.config import ExperimentConfig
from srpo_ray.config.objective import VOTES
from srpo_ray.errors import CommandInterruptedError
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.search.trial import Experiment
from srpo_ray.votes.ballot import Ballot
from srpo_ray.votes.decided import Decided, read_decided, write_decided
from srpo_ray.votes.ledger import Vote, distinct, read_votes
from srpo_ray.votes.sources import open_ballot
from srpo_ray.votes.strengths import Strength, strengths
from srpo_ray.votes.wanted import Wanted, remove_wanted, write_wanted

POLL_S = 2.0
"""Seconds between two looks at the file of votes."""


def with_votes(experiment: Experiment, config: ExperimentConfig, rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Wait for the votes on runs, and add the metric `votes` to their evaluations.

    Votes that were given before, also those of an interrupted wait, count. When the wait ends, the strengths are
    written to the experiment's folder. A resumed experiment reads them there: later runs depend on this decision.

    Args:
        experiment: Facts that all runs share.
        config: The experiment, for the number of votes.
        rows: Runs; those that did not end get no votes.

    Returns:
        The rows; `votes` is 0 for the base model, at update 0, and a run's strength at the evaluation that its images
        are of.

    Raises:
        CommandInterruptedError: If Ctrl-C ends the wait.
        ValueError: If there are no images to compare, or the file of votes is damaged.
    """
    ended = [row.name for row in rows if row.ended]
    if not ended:
        return list(rows)
    decided = _decide(Path(experiment.folder), ended, config.votes_needed, experiment.resume)
    return [_with_strength(row, decided.strengths.get(row.name)) for row in rows]


def _decide(folder: Path, names: Sequence[str], needed: int, resume: str) -> Decided:
    """Read what was decided on runs, or wait for their votes and write it."""
    decided = read_decided(folder, names)
    if decided is None:
        wait_for_votes(folder, names, needed, resume)
        ballot = open_ballot(folder, names)
        votes = counted_votes(ballot)
        ranking = {each.system: each.value for each in rank_by_votes(ballot, votes, names)}
        decided = Decided(names, [vote.id for vote in votes], ranking)
        write_decided(folder, decided)
    return decided


def _with_strength(row: TrialRow, value: float | None) -> TrialRow:
    if value is None or not row.history:
        return row
    first, *later = row.history
    start = {**first, VOTES: 0.0}
    return replace(
        row, history=[start, *later[:-1], {**later[-1], VOTES: value}] if later else [{**first, VOTES: value}]
    )


def rank_by_votes(ballot: Ballot, votes: Sequence[Vote], names: Sequence[str]) -> list[Strength]:
    """Rank runs of an experiment by votes.

    Args:
        ballot: Images of the experiment.
        votes: Votes that count.
        names: Names of runs with images; they need not have finished.

    Returns:
        The strongest first, with log-odds of a win against the base model; runs without a vote are left out.
    """
    ranking = strengths(votes, ballot.systems) if votes else []
    return [strength for strength in ranking if strength.votes and strength.system in names]


def wait_for_votes(folder: Path, names: Sequence[str], needed: int, resume: str, poll_s: float = POLL_S) -> None:
    """Wait until people have given enough votes on runs of an experiment.

    Args:
        folder: Folder of the experiment.
        names: Names of the runs.
        needed: Votes on them, without hidden repeats.
        resume: Command that continues the wait.
        poll_s: Seconds between two looks at the votes.

    Raises:
        CommandInterruptedError: If Ctrl-C ends the wait.
        ValueError: If there are no images to compare, or the file of votes is damaged.
    """
    ballot = open_ballot(folder, names)
    given = len(counted_votes(ballot))
    if given >= needed:
        return
    write_wanted(folder, Wanted(names, needed))
    print(
        f"{folder.name}: waiting for {needed} votes on {len(names)} runs and the base model; one person can give up to"
        f" {len(ballot.pairs)}, and {given} are there\nvote with: srpo-ray vote {shlex.quote(str(folder))}",
        flush=True,
    )
    try:
        while given < needed:
            time.sleep(poll_s)
            before, given = given, len(counted_votes(ballot))
            if given != before:
                print(f"{folder.name}: {given} of {needed} votes", flush=True)
    except KeyboardInterrupt as error:
        raise CommandInterruptedError(
            f"stopped while {given} of {needed} votes were given, which are kept; resume with: {resume}"
        ) from error
    finally:
        remove_wanted(folder)


def counted_votes(ballot: Ballot) -> list[Vote]:
    """Read the votes that count: on images that are still there, one of each person for a pair."""
    return distinct(ballot.current(read_votes(ballot.folder)))
