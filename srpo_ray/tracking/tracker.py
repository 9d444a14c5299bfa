"""Asynchronous logging from a trainer worker: calls append to a file and return; one thread sends it to MLflow.

Training neither waits for the server nor fails with it. While the server is unreachable, records are buffered in the
file; records that are left when the process ends can be sent with `replay`.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from srpo_ray.credentials import expand_uri, redact
from srpo_ray.tracking.client import connect, delivery_errors
from srpo_ray.tracking.delivery import deliver
from srpo_ray.tracking.spool import Record, Spool

Status = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0


class Tracker:
    """Logger for one MLflow run.

    Args:
        uri: Tracking URI.
        run_id: Id of the run, as returned by `start_run`.
        spool: File that buffers records. If it exists, its undelivered records are sent first.
        flush_interval_s: Seconds between two deliveries.

    Raises:
        ValueError: If the URI names an environment variable that is not set in this process.
    """

    def __init__(self, uri: str, run_id: str, spool: Path, flush_interval_s: float = 5.0) -> None:
        expand_uri(uri)
        self._uri = uri
        self._run_id = run_id
        self._flush_interval_s = flush_interval_s
        self._spool = Spool(spool)
        self._last_steps = _last_steps(self._spool)
        self._closing = threading.Event()
        self._deadline = math.inf
        self._warned_of_disk = False
        self._thread = threading.Thread(target=self._deliver_until_closed, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics of one update.

        NaN and infinities are sent as NaN, a gap in MLflow's chart: MLflow would store an infinity as 1.8e308, which
        flattens the chart. A name that MLflow does not accept is changed, see `allowed_name`.

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

    def log_image(self, path: Path, artifact_path: str) -> None:
        """Attach an image file.

        Args:
            path: Image file. It is read at delivery, so it must exist until the run ends.
            artifact_path: Folder among the run's artifacts.
        """
        self._append({"kind": "image", "path": str(path.resolve()), "artifact_path": artifact_path})

    def log_text(self, text: str, artifact_file: str) -> None:
        """Attach a text, such as a report, as the artifact `artifact_file`."""
        self._append({"kind": "text", "text": text, "artifact_file": artifact_file})

    def close(self, status: Status, timeout_s: float = 30.0) -> bool:
        """Set the run's final status and deliver the remaining records.

        Args:
            status: Final status of the run.
            timeout_s: Maximum seconds to wait. After them, the spool file is kept for `replay`.

        Returns:
            True if everything was delivered; then the spool file is deleted.
        """
        if self._closing.is_set():
            return not self._spool.path.exists()
        self._append({"kind": "status", "status": status})
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._spool.close()
        delivered = not self._spool.path.exists()
        if not delivered:
            _log.warning(
                "MLflow at %s did not receive all records. The rest is kept in %s. Send it with `srpo-ray replay RUN`.",
                self._uri,
                self._spool.path,
            )
        return delivered

    def abandon(self, timeout_s: float = 5.0) -> None:
        """Stop the delivery without a final status, as the end of this process would; nothing happens after `close`.

        The spool file stays, for a restart of the run or for `end_run`.

        Args:
            timeout_s: Maximum seconds to wait for a delivery that is under way.
        """
        if not self._closing.is_set():
            self._deadline = time.monotonic()
            self._closing.set()
            self._thread.join(timeout_s)

    def _append(self, record: Record) -> None:
        try:
            self._spool.append({"run_id": self._run_id, **record})
        except OSError as error:
            if not self._warned_of_disk:
                _log.warning("Metrics are lost because %s cannot be written: %s", self._spool.path, error)
            self._warned_of_disk = True

    def _deliver_until_closed(self) -> None:
        client = None
        failures = 0
        while True:
            last_round = self._closing.is_set()
            try:
                client = client or connect(self._uri)
                deliver(client, self._spool)
            except delivery_errors() as error:
                if failures == 0:
                    _log.warning(
                        "MLflow: %s. Training continues; records are buffered in %s", redact(error), self._spool.path
                    )
                failures += 1
                delay = min(_FIRST_RETRY_S * 2 ** (failures - 1), _LAST_RETRY_S)
            else:
                if last_round:
                    return
                if failures:
                    _log.info("MLflow at %s has received all records", self._uri)
                failures = 0
                delay = self._flush_interval_s
            if not self._closing.wait(delay):
                continue
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                return
            if failures:
                time.sleep(min(delay, _FIRST_RETRY_S, remaining))


def _last_steps(spool: Spool) -> dict[str, int]:
    """Read the last step at which each metric was logged; the file also has the records of earlier processes."""
    last: dict[str, int] = {}
    for record in spool.all():
        if record.get("kind") == "metrics":
            last.update(dict.fromkeys(record["values"], record["step"]))
    return last
