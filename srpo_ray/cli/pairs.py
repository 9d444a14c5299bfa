"""`srpo-ray pairs`: convert downloaded sets of judged images to a file for `data.pairs`."""

import argparse
from pathlib import Path

HELP = "convert downloaded sets of judged images to a file for data.pairs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `pairs`."""
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="files of a set that you have downloaded")
    parser.add_argument("--list", action="store_true", help="list the known public sets, their files and licences")
    parser.add_argument("--set", metavar="NAME", help="known set of the sources")
    parser.add_argument(
        "--to",
        metavar="DIR",
        help="folder of pairs.jsonl or labels.jsonl, and of the images inside tables and tar files",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="folder that paths of images are relative to (default: SOURCE's)"
    )
    parser.add_argument(
        "--confidence",
        action="store_true",
        help="write the weight that the set states for a row as its confidence, which algorithm.weights reads",
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="number of rows to write at most (default: all)")


def run(parsed: argparse.Namespace) -> int:
    """List the known sets, or convert files of one."""
    from srpo_ray.data.pair_sets import PAIR_SETS

    if parsed.list:
        for each in PAIR_SETS.values():
            weight = f"\n  --confidence: {each.weight.text}" if each.weight else ""
            output = f"\n  written: {each.output} for algorithm.source={each.kind}"
            print(f"{each.name}: {each.title}\n  {each.files}{output}{weight}\n  licence: {each.licence}")
        return 0
    if not parsed.sources or not parsed.to or parsed.set not in PAIR_SETS:
        raise ValueError(
            f"expected files, --set {' or '.join(PAIR_SETS)} and --to DIR, got --set {parsed.set}; `srpo-ray pairs"
            " --list` describes the sets"
        )
    from srpo_ray.data.pair_files import convert

    images = Path(parsed.images) if parsed.images else None
    sources = [*map(Path, parsed.sources)]
    print(convert(PAIR_SETS[parsed.set], sources, Path(parsed.to), images, parsed.limit, confidence=parsed.confidence))
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value
