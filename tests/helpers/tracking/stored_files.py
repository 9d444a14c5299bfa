"""Readers of the files that trackers write, from the published formats of those files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768
_WANDB_HEADER = 7


def tensorboard_events(folder: Path) -> list[Any]:
    """All events of a folder: TFRecord frames (length, checksum, content, checksum) of `Event` messages.

    A frame that is cut short at the end of a file is skipped, as TensorBoard does.
    """
    from tensorboardX.proto import event_pb2

    found = []
    for file in sorted(folder.glob("*.tfevents.*")):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack_from("<Q", content)
            if 12 + length + 4 <= len(content):
                found.append(vars(event_pb2)["Event"].FromString(content[12 : 12 + length]))
            content = content[12 + length + 4 :]
    return found


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Points of each scalar of a folder, in the order of the files."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in tensorboard_events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def wandb_records(folder: Path) -> list[Any]:
    """All records in the folders of offline runs below `folder`, oldest folder first."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    files = sorted(folder.glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    record = vars(wandb_internal_pb2)["Record"]
    return [record.FromString(content) for file in files for content in _log_records(file.read_bytes())]


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the history of offline runs, by W&B's names."""
    rows = []
    for record in wandb_records(folder):
        if record.HasField("history"):
            items = record.history.item
            rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
    return rows


def _log_records(content: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format: blocks with fragments of checksum, length, kind and content."""
    parts = b""
    position = _WANDB_HEADER
    while position + 7 <= len(content):
        if _BLOCK - position % _BLOCK < 7:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        # 1 is a whole record, 4 the last fragment of one.
        if kind in (1, 4):
            yield parts
            parts = b""
