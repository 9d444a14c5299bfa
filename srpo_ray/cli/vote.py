"""`srpo-ray vote`: blind votes of people on images of a run or an experiment, and what the votes say."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srpo_ray.votes.ballot import Ballot

HELP = "let people vote on pairs of images without names, and compare their votes with the evaluation's metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `vote`."""
    parser.add_argument(
        "folder",
        metavar="RUN|EXPERIMENT|EVALUATION",
        type=Path,
        help="folder of a run (base against tuned), of an experiment (its runs and the base model), or of `srpo-ray"
        " evaluate` (more images of a run)",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        default=(),
        metavar="NAME",
        help="runs to vote on (default: all that have finished, or those that the experiment waits for)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 8420)")
    parser.add_argument("--token", help="secret part of the page's address (default: random)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sides and of the order of pairs (default: 0)")
    parser.add_argument(
        "--repeats",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="pairs that are shown again with swapped sides, to measure how consistent each person is (default: 0.1)",
    )
    parser.add_argument("--results", action="store_true", help="write and print the results, and serve nothing")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="metric to compare with the votes (default: all)"
    )
    parser.add_argument(
        "--export", metavar="FILE", type=Path, help="write the votes as preference pairs, as JSON lines"
    )
    parser.add_argument("--ties", action="store_true", help="export votes without a preference too")


def run(parsed: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or only read the votes; then print and write the results.

    Raises:
        ValueError: If an argument, the folder or its votes cannot be used.
    """
    if not 0 <= parsed.repeats <= 1:
        raise ValueError(f"--repeats: expected a share from 0 to 1, got {parsed.repeats:g}; 0.1 repeats one in ten")
    from srpo_ray.votes.ledger import read_votes
    from srpo_ray.votes.proxies import check_metrics
    from srpo_ray.votes.publish import publish_votes
    from srpo_ray.votes.sources import open_ballot
    from srpo_ray.votes.wanted import read_wanted

    wanted = read_wanted(parsed.folder)
    ballot = open_ballot(parsed.folder, parsed.runs or (wanted.runs if wanted else ()))
    check_metrics(ballot.scores, parsed.metric)
    if parsed.export:
        from srpo_ray.votes.export import export_pairs

        count = export_pairs(parsed.export, ballot, read_votes(ballot.folder), ties=parsed.ties)
        print(f"{count} pairs in {parsed.export}")
        return 0
    if not parsed.results:
        _serve(parsed, ballot, wanted.needed if wanted else None)
    # Not the command line as it was typed, which may have the token: people pass reports on.
    command = shlex.join(["srpo-ray", "vote", str(parsed.folder), "--results"])
    publish_votes(ballot, read_votes(ballot.folder), parsed.metric, command)
    return 0


def _serve(parsed: argparse.Namespace, ballot: "Ballot", needed: int | None) -> None:
    """Serve the page until Ctrl-C."""
    from srpo_ray.votes.ledger import open_ledger, read_votes
    from srpo_ray.votes.server import open_server
    from srpo_ray.votes.session import Session

    # The port first: one that is taken leaves no file of votes.
    with open_server(parsed.host, parsed.port, parsed.token) as server, open_ledger(ballot.folder) as ledger:
        session = Session(
            ballot, ledger, read_votes(ballot.folder), seed=parsed.seed, repeats=parsed.repeats, needed=needed
        )
        for note in ballot.notes:
            print(f"srpo-ray: {note}")
        print(f"{len(ballot.pairs)} pairs of {len(ballot.systems)} systems, {len(session.votes)} votes so far")
        print(f"vote at {server.url}\nCtrl-C ends it and prints the results", flush=True)
        try:
            server.serve(session)
        except KeyboardInterrupt:
            print()
