"""Conversion of prompt files to disjoint files for training, validation and test, each with a record of its sources."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from srpo_ray.config.sources import text_key
from srpo_ray.data.prompt_formats import COLUMNS
from srpo_ray.data.prompt_sets import PromptSet
from srpo_ray.data.prompts import read_prompts
from srpo_ray.files import write_text

PARTS = ("train", "validation", "test")
"""Names of the files that a folder of prompts has."""


@dataclass
class Gathered:
    """Prompts of some sources, each once."""

    prompts: list[str] = field(default_factory=list)
    """Prompts in file order; white space inside of them is one space."""
    found: int = 0
    """Number of prompts in the sources."""
    repeated: int = 0
    """Number of prompts that repeat an earlier one, up to case, white space and closing punctuation."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Excluded file -> number of prompts that it has too."""
    further: dict[str, int] = field(default_factory=dict)
    """Further column of the sources -> number of its values, which files of one prompt per line do not keep."""


def gather(sources: Sequence[str], exclude: Sequence[str] = (), column: str | None = None) -> Gathered:
    """Read prompts, and leave out those that are repeated or in other files.

    Args:
        sources: Prompt files, see `read_prompts`.
        exclude: Prompt files whose prompts are left out.
        column: Key or column with the prompts of the sources, ignoring case. None finds it by name.

    Raises:
        ValueError: If a file cannot be used.
    """
    columns = COLUMNS if column is None else (column.strip().lower(),)
    known: dict[str, str | None] = {}
    for file in exclude:
        known |= {text_key(prompt): file for prompt in read_prompts(file, "--exclude").prompts}
    gathered = Gathered()
    for source in sources:
        file = read_prompts(source, "SOURCE", columns)
        for name, count in file.given.items():
            gathered.further[name] = gathered.further.get(name, 0) + count
        for prompt in file.prompts:
            gathered.found += 1
            key = text_key(prompt)
            if key not in known:
                known[key] = None
                gathered.prompts.append(" ".join(prompt.split()))
            elif (other := known[key]) is None:
                gathered.repeated += 1
            else:
                gathered.excluded[other] = gathered.excluded.get(other, 0) + 1
    return gathered


def split(gathered: Gathered, train: int | None, validation: int, test: int, seed: int) -> dict[str, list[str]]:
    """Split prompts into disjoint parts, each in random order.

    The order is that of a hash of seed and prompt, so it depends neither on the order of the sources nor on the
    machine, and the first n prompts of a part are a random sample of it.

    Args:
        gathered: The prompts.
        train: Number of training prompts; None takes all that are left.
        validation: Number of validation prompts.
        test: Number of test prompts.
        seed: Seed of the order.

    Returns:
        Name of each part that has prompts -> its prompts.

    Raises:
        ValueError: If there are too few prompts.
    """
    wanted = {"test": test, "validation": validation, "train": 1 if train is None else train}
    needed, left = sum(wanted.values()), len(gathered.prompts)
    if not needed:
        raise ValueError("expected --train, --validation or --test above 0, got none; nothing would be written")
    if left < needed:
        parts = " + ".join(f"{count} for {name}" for name, count in wanted.items() if count)
        raise ValueError(
            f"expected at least {needed} prompts ({parts}), got {left}: {describe(gathered)}; ask for fewer or add a"
            " source"
        )
    order = sorted(gathered.prompts, key=lambda prompt: hashlib.sha256(f"{seed}\n{text_key(prompt)}".encode()).digest())
    end = None if train is None else validation + test + train
    parts = {
        "train": order[validation + test : end],
        "validation": order[test : test + validation],
        "test": order[:test],
    }
    return {name: prompts for name, prompts in parts.items() if prompts}


def describe(gathered: Gathered) -> str:
    """Count what was found and left out, in one line."""
    excluded = [f"{count} in {file}" for file, count in gathered.excluded.items()]
    further = [f"{name} of {count} not kept" for name, count in gathered.further.items()]
    return ", ".join([f"{gathered.found} found", f"{gathered.repeated} repeated", *excluded, *further])


def write_parts(
    folder: Path, parts: Mapping[str, Sequence[str]], sources: Sequence[str], known: PromptSet | None, seed: int
) -> list[Path]:
    """Write each part to a text file with one prompt per line, and its sources to a JSON file beside it.

    Args:
        folder: Folder of the files; it is created.
        parts: Name of each part -> its prompts.
        sources: Prompt files that they come from.
        known: Public set that the sources belong to.
        seed: Seed of the order.

    Returns:
        The text files.

    Raises:
        ValueError: If a file exists with other prompts, or the folder cannot be written.
    """
    texts = {folder / f"{name}.txt": "".join(f"{prompt}\n" for prompt in prompts) for name, prompts in parts.items()}
    other = [str(path) for path, text in texts.items() if path.exists() and path.read_bytes() != text.encode()]
    if other:
        raise ValueError(
            f"--to: expected no other prompts in {', '.join(other)}, got a file with others, which earlier runs may"
            " have used; remove it or name another folder"
        )
    origin = {
        "sources": [{"file": source, "sha256": _sha256(Path(source).read_bytes())} for source in sources],
        "set": asdict(known) if known else None,
        "seed": seed,
    }
    try:
        for path, text in texts.items():
            write_text(path, text)
            record = {"prompts": text.count("\n"), "sha256": _sha256(text.encode()), **origin}
            write_text(path.with_name(f"{path.name}.json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ValueError(f"--to: expected a writable folder, got {folder} ({error}); choose another") from error
    return list(texts)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
