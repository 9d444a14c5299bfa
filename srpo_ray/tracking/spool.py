"""Persistent queue in a file: records are appended as JSON lines and acknowledged after delivery.

Memory use does not grow while the receiver is unreachable, and undelivered records survive the process.
"""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srpo_ray.files import write_text

Record = dict[str, Any]


class Spool:
    """Queue of records in one file. Opening an existing file continues its queue.

    One process at a time may use it, with any number of threads. A second, small file (`<name>.offset`) stores the byte
    offset up to which records were delivered. It is written after delivery, so a crash in between delivers the last
    records again (at-least-once delivery): receivers must accept repeats.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset_path = path.with_name(path.name + ".offset")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._offset_path.unlink(missing_ok=True)
        self._delivered = _delivered(path, self._offset_path)
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

    def read(self, limit: int) -> list[tuple[Record, int]]:
        """Read undelivered records, oldest first.

        Args:
            limit: Maximum number of records to return.

        Returns:
            Each record with the offset to acknowledge after its delivery. A line that a crash truncated is returned as
            an empty record.
        """
        records: list[tuple[Record, int]] = []
        with self.path.open("rb") as file:
            file.seek(self._delivered)
            while len(records) < limit and (line := file.readline()).endswith(b"\n"):
                records.append((_parse(line), file.tell()))
        return records

    def all(self) -> Iterator[Record]:
        """Yield every complete record, delivered or not, oldest first."""
        with self.path.open("rb") as file:
            yield from (_parse(line) for line in file if line.endswith(b"\n"))

    def acknowledge(self, offset: int) -> None:
        """Mark everything before `offset` as delivered, so that it is not read again.

        Raises:
            OSError: If the offset cannot be written.
        """
        write_text(self._offset_path, str(offset))
        self._delivered = offset

    def is_empty(self) -> bool:
        """Test if every record was delivered."""
        return not self.read(limit=1)

    def close(self) -> None:
        """Close the file, and delete it if every record was delivered."""
        self._file.close()
        if self.is_empty():
            self.path.unlink()
            self._offset_path.unlink(missing_ok=True)


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
