"""TensorBoard as a receiver: records become event files in the run's folder."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from srpo_ray.imports import by_one_thread
from srpo_ray.tracking.sink import DeliveryError
from srpo_ray.tracking.spool import Record, Spool

_RECORDS_PER_READ = 200
_HEADER = struct.Struct("<QI")
_CHECKSUM_BYTES = 4


class TensorBoardSink:
    """Writes scalars, images and texts to event files, one file for each process of the run.

    The files of earlier processes tell which steps they have. A tag takes no step twice, so a repeated delivery leaves
    no second point.

    Args:
        folder: Folder of the event files, for `tensorboard --logdir`.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self.title = f"TensorBoard in {folder}"
        self._folder = folder
        self._writer: Any = None
        self._last_steps: dict[str, int] = {}

    def deliver(self, spool: Spool) -> int:
        """See `Sink.deliver`. Records are acknowledged once they are on the disk."""
        count = 0
        try:
            while entries := spool.read(_RECORDS_PER_READ, self.name):
                for record, _ in entries:
                    if record.get("to", self.name) == self.name:
                        self._write(record)
                if self._writer:
                    self._writer.flush()
                spool.acknowledge(entries[-1][1], self.name)
                count += len(entries)
        except OSError as error:
            raise DeliveryError(str(error)) from error
        return count

    def release(self, spool: Spool) -> None:
        """See `Sink.release`. Only the file is left to close."""
        if self._writer:
            self._writer.close()
            self._writer = None

    def _write(self, record: Record) -> None:
        step, seconds = record.get("step", 0), record.get("time_ms", 0) / 1000 or time.time()
        values = _values(record)
        if not values:
            return
        self._open()
        new = [value for value in values if self._last_steps.get(value.tag, -1) < step]
        if new:
            event, summary = _messages()
            self._writer.write_event(event(step=step, wall_time=seconds, summary=summary(value=new)))
            self._last_steps.update(dict.fromkeys((value.tag for value in new), step))

    def _open(self) -> None:
        if self._writer:
            return
        with by_one_thread():
            from tensorboardX.event_file_writer import EventsWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        files = sorted(self._folder.glob("*.tfevents.*"))
        self._last_steps = {tag: step for file in files for tag, step in _steps(file)}
        # Two processes of a run may start in the same second, and the writer's name has no more than that.
        self._writer = EventsWriter(str(self._folder / "events"), f".{len(files)}")


def _values(record: Record) -> list[Any]:
    """Convert a record to values of TensorBoard's summary; empty for a record that it does not show."""
    from tensorboardX.summary import text

    value = _messages()[1].Value
    match record:
        case {"kind": "metrics", "values": metrics}:
            return [value(tag=name, simple_value=number) for name, number in metrics.items()]
        case {"kind": "image", "path": path, "artifact_path": folder} if Path(path).exists():
            return [value(tag=f"{folder}/{Path(path).stem}", image=_image(Path(path)))]
        case {"kind": "text", "text": content, "artifact_file": name}:
            # TensorBoard shows Markdown; four more spaces keep the lines of a config as they are.
            quoted = "".join(f"    {line}" for line in content.splitlines(keepends=True))
            return list(text(PurePosixPath(name).name, quoted).value)
        case _:
            return []


def _image(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
    # 3 is RGB; the viewer decodes the file itself.
    content = path.read_bytes()
    return _messages()[1].Image(width=width, height=height, colorspace=3, encoded_image_string=content)


def _messages() -> tuple[Any, Any]:
    """Classes of TensorBoard's events and summaries, which protobuf makes at import."""
    from tensorboardX.proto import event_pb2, summary_pb2

    events, summaries = vars(event_pb2), vars(summary_pb2)
    return events["Event"], summaries["Summary"]


def _steps(file: Path) -> Iterator[tuple[str, int]]:
    """Yield each tag of an event file with its step, in order, up to a record that a crash has truncated."""
    content = file.read_bytes()
    start = 0
    while start + _HEADER.size <= len(content):
        length, _ = _HEADER.unpack_from(content, start)
        end = start + _HEADER.size + length
        if end + _CHECKSUM_BYTES > len(content):
            return
        event = _messages()[0].FromString(content[start + _HEADER.size : end])
        yield from ((value.tag, event.step) for value in event.summary.value)
        start = end + _CHECKSUM_BYTES
