"""Persistent queue in a file: records are appended as JSON lines, and each receiver acknowledges them after delivery.

Memory use does not grow while a receiver is unreachable, and undelivered records survive the process.
"""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from srpo_ray.files import write_text

Record = dict[str, Any]

MLFLOW = "mlflow"
"""Name of the receiver that every spool has."""


class Spool:
    """Queue of records in one file, for one or several receivers. Opening an existing file continues its queue.

    One process at a time may use it, with any number of threads. A second, small file of each receiver (`<name>.offset`
    for MLflow, `<name>.<receiver>.offset` for another one) stores the byte offset up to which records were delivered.
    It is written after delivery, so a crash in between delivers the last records again (at-least-once delivery):
    receivers must accept repeats.

    Args:
        path: File of the queue.
        receivers: Names of the receivers. Records are kept until all of them have acknowledged.
    """

    def __init__(self, path: Path, receivers: Sequence[str] = (MLFLOW,)) -> None:
        self.path = path
        self._offset_paths = {name: path.with_name(_offset_name(path.name, name)) for name in receivers}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._forget_offsets()
        self._delivered = {name: _delivered(path, note) for name, note in self._offset_paths.items()}
        self._lock = threading.Lock()
        self._file = path.open("ab")
        if _ends_inside_a_line(path):
            self._file.write(b"\n")
            self._file.flush()

    def append(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: If the file cannot be written.
        """
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def read(self, limit: int, receiver: str = MLFLOW, start: int | None = None) -> list[tuple[Record, int]]:
        """Read undelivered records, oldest first.

        Args:
            limit: Maximum number of records to return.
            receiver: Name of the receiver.
            start: Offset to read from; None reads from the first undelivered record.

        Returns:
            Each record with the offset to acknowledge after its delivery. A line that a crash truncated is returned as
            an empty record.
        """
        records: list[tuple[Record, int]] = []
        with self.path.open("rb") as file:
            file.seek(self._delivered[receiver] if start is None else start)
            while len(records) < limit and (line := file.readline()).endswith(b"\n"):
                records.append((_parse(line), file.tell()))
        return records

    def all(self) -> Iterator[Record]:
        """Yield every complete record, delivered or not, oldest first."""
        with self.path.open("rb") as file:
            yield from (_parse(line) for line in file if line.endswith(b"\n"))

    def acknowledge(self, offset: int, receiver: str = MLFLOW) -> None:
        """Mark everything before `offset` as delivered to a receiver, so that it does not read it again.

        Raises:
            OSError: If the offset cannot be written.
        """
        write_text(self._offset_paths[receiver], str(offset))
        self._delivered[receiver] = offset

    def is_empty(self) -> bool:
        """Test if every record was delivered to every receiver."""
        return not any(self.read(1, receiver) for receiver in self._offset_paths)

    def close(self) -> None:
        """Close the file, and delete it if every record was delivered to every receiver."""
        self._file.close()
        if self.is_empty():
            self.path.unlink()
            self._forget_offsets()

    def _forget_offsets(self) -> None:
        for note in self._offset_paths.values():
            note.unlink(missing_ok=True)


def _offset_name(spool: str, receiver: str) -> str:
    return f"{spool}.offset" if receiver == MLFLOW else f"{spool}.{receiver}.offset"


def _delivered(path: Path, note: Path) -> int:
    """Read the stored offset; 0 if it is damaged or missing, so that all records are delivered again."""
    digits = note.read_bytes() if note.exists() else b""
    offset = int(digits) if digits.isdigit() else 0
    if not offset:
        return 0
    with path.open("rb") as file:
        file.seek(offset - 1)
        # Every record ends with a line feed.
        return offset if file.read(1) == b"\n" else 0


def _ends_inside_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _parse(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
