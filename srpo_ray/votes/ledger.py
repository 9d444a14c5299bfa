"""Votes on disk: each vote and each undo is a line of `votes.jsonl`, on stable storage before it is acknowledged."""

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from srpo_ray.files import split_lines

VOTES_FILE = "votes.jsonl"
"""Name of the file of votes in the folder of a run, an experiment or an evaluation."""

Choice = Literal["left", "right", "tie", "both_bad"]


class _Record(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Vote(_Record):
    """One judgement of one person on two images of the same prompt and noise."""

    id: str
    """Unique id."""
    time: str
    """Time of the vote, ISO 8601 in UTC."""
    rater: str
    """Name that the person gave."""
    item: str
    """Key of prompt and noise, which both images share."""
    prompt_index: int
    """Index of the prompt among those of the evaluation, from 0."""
    prompt: str
    left: str
    """System whose image was on the left."""
    right: str
    """System whose image was on the right."""
    left_image: str
    """Digest of the left image's pixels: votes on images that a later evaluation has replaced do not count."""
    right_image: str
    """Digest of the right image's pixels."""
    choice: Choice
    """`tie`: no preference; `both_bad`: no preference, because neither image is acceptable."""
    repeat_of: str | None = None
    """Id of the vote that this hidden repeat checks; None for a pair that is new to the person."""
    seconds: float | None = Field(default=None, ge=0)
    """Seconds between the images' appearance and the vote."""

    @property
    def systems(self) -> tuple[str, str]:
        """Both systems in alphabetical order."""
        first, second = sorted((self.left, self.right))
        return first, second

    @property
    def preferred(self) -> str | None:
        """System whose image was preferred; None without a preference."""
        return {"left": self.left, "right": self.right}.get(self.choice)

    def score(self, system: str) -> float:
        """Score of a system of the pair: 1 for a win, 0.5 without a preference, 0 for a loss."""
        return 0.5 if self.preferred is None else float(self.preferred == system)


class Undo(_Record):
    """Withdrawal of an earlier vote of the same person."""

    time: str
    rater: str
    undo: str
    """Id of the withdrawn vote."""


_LINE: TypeAdapter[Vote | Undo] = TypeAdapter(Vote | Undo)


def read_votes(folder: Path) -> list[Vote]:
    """Read the votes of a folder that were not withdrawn, in the order in which they were given.

    A last line without a line end is a vote that a crash interrupted before it was acknowledged; it is skipped if it is
    incomplete.

    Raises:
        ValueError: If the file cannot be read, or another line is damaged; the message has its number.
    """
    path = folder / VOTES_FILE
    if not path.exists():
        return []
    lines, last = split_lines(_content(path))
    records = [_parsed(path, number, line) for number, line in lines if line.strip()]
    records += _complete(last)
    return _without_undone(records)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"expected a readable file of votes, got {path} ({error.strerror}); free it") from error


def _parsed(path: Path, number: int, line: bytes) -> Vote | Undo:
    try:
        return _LINE.validate_json(line)
    except ValidationError as error:
        raise ValueError(
            f"expected a vote or an undo in {path}, got a damaged line {number}; restore the file, or remove that line"
        ) from error


def _complete(last: bytes) -> list[Vote | Undo]:
    try:
        return [_LINE.validate_json(last)] if last.strip() else []
    except ValidationError:
        return []


def _without_undone(records: Iterable[Vote | Undo]) -> list[Vote]:
    votes: dict[str, Vote] = {}
    for record in records:
        if isinstance(record, Vote):
            votes[record.id] = record
        else:
            votes.pop(record.undo, None)
    return list(votes.values())


class Ledger:
    """Writer of a folder's votes; one process at a time may hold it, see `open_ledger`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._closed = False
        self._lock = threading.Lock()

    def append(self, record: Vote | Undo) -> None:
        """Append one line in a single write, and wait until it is on stable storage.

        Raises:
            OSError: If it cannot be written, for example because the disk is full; no part of it is kept then.
        """
        line = record.model_dump_json().encode() + b"\n"
        with self._lock:
            if self._closed:
                raise OSError("the server was stopped")
            self._write(line)

    def close(self) -> None:
        """Close the file. A request that is still being served cannot write to it, nor to one that is opened next."""
        with self._lock:
            self._closed = True
            os.close(self._descriptor)

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(f"the disk took {written} of {len(line)} bytes")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """Open the votes of a folder for appending, and hold them until the `with` block ends.

    A line that a crash has cut off is removed, so that later lines stay valid.

    Raises:
        ValueError: If the file cannot be written, or another process holds it.
    """
    path = folder / VOTES_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise ValueError(
            f"expected a folder where votes can be stored, got {folder} ({error.strerror}); fix its permissions"
        ) from error
    ledger = Ledger(descriptor)
    try:
        _lock(descriptor, folder)
        _repair(path, descriptor)
        yield ledger
    finally:
        ledger.close()


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(
            f"expected that no other process collects votes in {folder}, got one; use the page that it serves, or stop"
            " it first"
        ) from error


def _repair(path: Path, descriptor: int) -> None:
    content = _content(path)
    _, last = split_lines(content)
    if _complete(last):
        os.write(descriptor, b"\n")
    elif last:
        os.ftruncate(descriptor, len(content) - len(last))


def distinct(votes: Sequence[Vote]) -> list[Vote]:
    """The votes without hidden repeats, which measure consistency only."""
    return [vote for vote in votes if vote.repeat_of is None]
