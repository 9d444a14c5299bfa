"""Publication of a vote: tables on the terminal, a report in the folder, metrics in MLflow beside the proxies."""

import sys
from collections.abc import Sequence
from pathlib import Path

from srpo_ray.credentials import redact
from srpo_ray.reports.files import json_text, write_report
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Alert, Section
from srpo_ray.reports.terminal import print_report
from srpo_ray.runs.folder import RunFolder
from srpo_ray.votes.ballot import Ballot
from srpo_ray.votes.ledger import VOTES_FILE, Vote, read_votes
from srpo_ray.votes.report import headline, people_texts, votes_report, votes_sections
from srpo_ray.votes.results import VoteResults, vote_results
from srpo_ray.votes.sources import open_ballot

SPOOL = "votes_spool.jsonl"
"""File that keeps what MLflow has not received."""


def publish_votes(ballot: Ballot, votes: Sequence[Vote], metrics: Sequence[str], command: str) -> Path | None:
    """Print the results, write `votes.html` and `votes.json`, and log them to the folder's MLflow run.

    Args:
        ballot: What was voted on.
        votes: All votes of its folder.
        metrics: Metrics to compare with the votes; empty takes all.
        command: Command line of the user.

    Returns:
        Path of the page; None without votes.

    Raises:
        ValueError: If a metric is unknown, or the folder cannot be written.
    """
    results = vote_results(ballot, votes, metrics, command)
    if not results.votes:
        print(f"no votes yet in {ballot.folder}")
        return None
    report = votes_report(results)
    print_report(report)
    path = write_report(ballot.folder, report)
    print("\n".join([*people_texts(results), headline(results), f"report: {path}"]))
    texts = {report.page: page_text(report)} | {name: json_text(content) for name, content in report.files.items()}
    _log(ballot.folder, results, texts)
    return path


def _log(folder: Path, results: VoteResults, texts: dict[str, str]) -> None:
    """Log to MLflow; votes that it does not receive are in the folder all the same."""
    run = RunFolder(folder)
    if not run.tracker_record.exists():
        return
    # MLflow takes seconds to import.
    from srpo_ray.tracking.afterwards import log_afterwards

    try:
        log_afterwards(run.tracker_record, folder / SPOOL, results.metrics(), results.votes, texts)
    except ConnectionError as error:
        print(f"srpo-ray: MLflow did not receive the votes: {redact(error)}", file=sys.stderr)


def experiment_votes(folder: Path) -> tuple[list[Section], dict[str, float]]:
    """Sections on the votes for the report of an experiment, and their metrics; empty without votes.

    Votes that cannot be read do not stop the report, which says why they are missing.
    """
    if not (folder / VOTES_FILE).exists():
        return [], {}
    try:
        results = vote_results(open_ballot(folder), read_votes(folder))
    except ValueError as error:
        return [Section("Votes", [Alert(f"The votes cannot be read: {error}", warning=True)])], {}
    return votes_sections(results), results.metrics() if results.votes else {}
