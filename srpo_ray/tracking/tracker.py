"""Asynchronous logging from a trainer worker: calls append to a file and return; threads send it to the receivers.

Training neither waits for a receiver nor fails with it. While one is unreachable, its records are buffered in the file
and the other receivers get theirs; records that are left when the process ends can be sent with `replay`.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from srpo_ray.credentials import expand_uri
from srpo_ray.tracking.delivery import MlflowSink
from srpo_ray.tracking.sink import DeliveryThread, Sink
from srpo_ray.tracking.spool import Record, Spool
from srpo_ray.tracking.system_metrics import PREFIX, SystemSampler

Status = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)


class Tracker:
    """Logger for one run: to MLflow, and to other receivers.

    Args:
        uri: MLflow's tracking URI.
        run_id: Id of the run, as returned by `start_run`.
        spool: File that buffers records. If it exists, its undelivered records are sent first.
        flush_interval_s: Seconds between two deliveries.
        sinks: Receivers beside MLflow. Each has a thread of its own, so that none waits for another.
        system_interval_s: Seconds between two samples of this machine's system metrics; None takes none.

    Raises:
        ValueError: If the URI names an environment variable that is not set in this process.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        spool: Path,
        flush_interval_s: float = 5.0,
        *,
        sinks: Sequence[Sink] = (),
        system_interval_s: float | None = None,
    ) -> None:
        expand_uri(uri)
        receivers: list[Sink] = [MlflowSink(uri), *sinks]
        self._run_id = run_id
        self._spool = Spool(spool, [sink.name for sink in receivers])
        self._last_steps = _last_steps(self._spool)
        self._closed = False
        self._warned_of_disk = False
        self._threads = {sink.title: DeliveryThread(sink, self._spool, flush_interval_s) for sink in receivers}
        self._sampler = SystemSampler(self._log_system, system_interval_s) if system_interval_s else None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of one update.

        NaN and infinities are sent to MLflow as NaN, a gap in its chart: MLflow would store an infinity as 1.8e308,
        which flattens the chart. A name that MLflow does not accept is changed, see `allowed_name`.

        A metric that was already logged at this update or a later one is skipped: a run that resumes from a checkpoint
        repeats some updates, with the same values.

        Args:
            metrics: Name -> value of a type that `float()` accepts.
            step: Index of the update, MLflow's step.
        """
        step = int(step)
        values = {name: float(value) for name, value in metrics.items() if self._last_steps.get(name, -1) < step}
        if not values:
            return
        self._last_steps.update(dict.fromkeys(values, step))
        now_ms = int(time.time() * 1000)
        self._append({"kind": "metrics", "values": values, "step": step, "time_ms": now_ms})

    def log_image(self, path: Path, artifact_path: str, step: int = 0) -> None:
        """Attach an image file.

        Args:
            path: Image file. It is read at delivery, so it must exist until the run ends.
            artifact_path: Folder among the run's artifacts.
            step: Index of the update. MLflow keeps the latest image of a name only.
        """
        now_ms = int(time.time() * 1000)
        place = {"path": str(path.resolve()), "artifact_path": artifact_path}
        self._append({"kind": "image", **place, "step": step, "time_ms": now_ms})

    def log_text(self, text: str, artifact_file: str, step: int = 0) -> None:
        """Attach a text, such as a report, as the artifact `artifact_file`, with the index of the update as `step`."""
        self._append({"kind": "text", "text": text, "artifact_file": artifact_file, "step": step})

    def close(self, status: Status, timeout_s: float = 30.0) -> bool:
        """Set the run's final status and deliver the remaining records.

        Args:
            status: Final status of the run.
            timeout_s: Maximum seconds to wait. After them, the spool file is kept for `replay`.

        Returns:
            True if every receiver has everything; then the spool file is deleted.
        """
        if self._closed:
            return not self._spool.path.exists()
        self._stop_sampling()
        self._append({"kind": "status", "status": status})
        late = self._stop(timeout_s)
        if not late:
            self._spool.close()
        delivered = not self._spool.path.exists()
        if not delivered:
            receivers = late or list(self._threads)
            _log.warning(
                "%s did not receive all records. The rest is kept in %s. Send it with `srpo-ray replay RUN`.",
                " and ".join(receivers),
                self._spool.path,
            )
        return delivered

    def abandon(self, timeout_s: float = 5.0) -> None:
        """Stop the delivery without a final status, as the end of this process would; nothing happens after `close`.

        The spool file stays, for a restart of the run or for `end_run`.

        Args:
            timeout_s: Maximum seconds to wait for a delivery that is under way.
        """
        if not self._closed:
            self._stop_sampling()
            self._stop(0.0, timeout_s)

    def _stop(self, timeout_s: float, wait_s: float | None = None) -> list[str]:
        """Stop all deliveries, and return the titles of the receivers whose thread has not ended in time."""
        self._closed = True
        deadline = time.monotonic() + (timeout_s if wait_s is None else wait_s)
        for thread in self._threads.values():
            thread.stop(timeout_s)
        return [title for title, thread in self._threads.items() if not thread.join(deadline - time.monotonic())]

    def _stop_sampling(self) -> None:
        if self._sampler:
            self._sampler.stop()

    def _log_system(self, values: Mapping[str, float]) -> None:
        """Log a sample of the machine. Its step is the number of the sample, as in MLflow."""
        steps = [step for name, step in self._last_steps.copy().items() if name.startswith(PREFIX)]
        self.log_metrics(values, max(steps, default=-1) + 1)

    def _append(self, record: Record) -> None:
        try:
            self._spool.append({"run_id": self._run_id, **record})
        except OSError as error:
            if not self._warned_of_disk:
                _log.warning("Metrics are lost because %s cannot be written: %s", self._spool.path, error)
            self._warned_of_disk = True


def _last_steps(spool: Spool) -> dict[str, int]:
    """Read the last step at which each metric was logged; the file also has the records of earlier processes."""
    last: dict[str, int] = {}
    for record in spool.all():
        if record.get("kind") == "metrics":
            last.update(dict.fromkeys(record["values"], record["step"]))
    return last
