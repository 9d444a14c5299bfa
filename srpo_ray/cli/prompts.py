"""`srpo-ray prompts`: convert downloaded prompt sets to disjoint files for training, validation and test."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srpo_ray.data.geneval import Asked

HELP = "convert downloaded prompt sets to disjoint prompt files for training, validation and test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `prompts`."""
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="prompt files that you have downloaded")
    parser.add_argument("--list", action="store_true", help="list the known public sets, their pages and licences")
    parser.add_argument("--set", metavar="NAME", help="known set of the sources: its column, and its licence to record")
    parser.add_argument("--column", metavar="NAME", help="key or column with the prompts (default: that of the set)")
    parser.add_argument("--to", metavar="DIR", help="folder of train.txt, validation.txt and test.txt")
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="file to write with the questions of a `type: questions` reward; SOURCE is metadata of GenEval",
    )
    parser.add_argument("--train", type=_count, metavar="N", help="training prompts (default: all others; 0: none)")
    parser.add_argument("--validation", type=_count, default=0, metavar="N", help="validation prompts (default 0)")
    parser.add_argument("--test", type=_count, default=0, metavar="N", help="test prompts (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order (default 0)")
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="FILE", help="prompt files whose prompts are left out"
    )


def run(parsed: argparse.Namespace) -> int:
    """List the known sets, or convert files of one."""
    from srpo_ray.data.prompt_sets import PROMPT_SETS, find_set

    if parsed.list:
        for each in PROMPT_SETS.values():
            column = f"; column {each.column}" if each.column else ""
            print(f"{each.name}: {each.title}\n  {each.page}\n  {each.files}{column}\n  licence: {each.licence}")
        return 0
    if not parsed.sources or not parsed.to:
        raise ValueError(
            "expected prompt files and --to DIR, such as `srpo-ray prompts prompts.json --to prompts --test 200`;"
            " `srpo-ray prompts --list` names public sets"
        )
    from srpo_ray.data.prompt_split import PARTS, describe, gather, split, write_parts

    known = find_set(parsed.set) if parsed.set else None
    asked = _questions(parsed)
    counts = {"train": parsed.train, "validation": parsed.validation, "test": parsed.test}
    folder = Path(parsed.to)
    # The files of the folder are one split, also if several commands write them.
    beside = [folder / f"{part}.txt" for part in PARTS if counts[part] == 0]
    exclude = [*parsed.exclude, *(str(path) for path in beside if path.exists())]
    gathered = gather(parsed.sources, exclude, parsed.column or (known.column if known else None))
    parts = split(gathered, parsed.train, parsed.validation, parsed.test, parsed.seed)
    print(f"{describe(gathered)}: {len(gathered.prompts)} prompts")
    if parsed.questions:
        from srpo_ray.data.geneval import write_questions

        write_questions(Path(parsed.questions), asked)
        print(f"{parsed.questions}: questions about {len(asked)} prompts")
    for path in write_parts(folder, parts, parsed.sources, known, parsed.seed):
        print(f"{path}: {len(parts[path.stem])} prompts; sources in {path.name}.json")
    return 0


def _questions(parsed: argparse.Namespace) -> "dict[str, Asked]":
    """Questions about the prompts of the sources, before anything is written; empty without `--questions`."""
    if not parsed.questions:
        return {}
    from srpo_ray.data.geneval import read_questions_about

    return read_questions_about(parsed.sources)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}; give the number of prompts")
    return int(text)
