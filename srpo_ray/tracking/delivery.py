"""MLflow as a receiver: ordered delivery of a tracker's spooled records, and replay of what a process has left."""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srpo_ray.credentials import redact
from srpo_ray.tracking.client import allowed_name, connect, delivery_errors, is_refused
from srpo_ray.tracking.sink import DeliveryError, Sink, deliver_once
from srpo_ray.tracking.spool import MLFLOW, Record, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

_METRICS_PER_CALL = 1000
_RECORDS_PER_READ = 200


class MlflowSink:
    """Sends records to an MLflow store. The first delivery imports mlflow, which takes seconds.

    Args:
        uri: Tracking URI.
    """

    name = MLFLOW

    def __init__(self, uri: str) -> None:
        self.title = f"MLflow at {uri}"
        self._uri = uri
        self._client: MlflowClient | None = None

    def deliver(self, spool: Spool) -> int:
        """See `Sink.deliver`. MLflow stores each call, so all that is sent is acknowledged."""
        try:
            self._client = self._client or connect(self._uri)
            return deliver(self._client, spool)
        except delivery_errors() as error:
            raise DeliveryError(redact(error)) from error

    def release(self, spool: Spool) -> None:
        """See `Sink.release`. Nothing is left to do."""


def deliver(client: "MlflowClient", spool: Spool) -> int:
    """Send all records in order and acknowledge them.

    Args:
        client: Client of the store with the runs.
        spool: Queue of the records.

    Returns:
        Number of records sent.

    Raises:
        Exception: One of `delivery_errors()`, at the first record that cannot be sent.
    """
    count = 0
    while records := spool.read(_RECORDS_PER_READ):
        for group in _groups(records):
            first, end = group[0][0], group[-1][1]
            if first.get("kind") == "metrics":
                _send_metrics(client, [record for record, _ in group])
            else:
                try:
                    _send_other(client, first)
                except delivery_errors():
                    # Requeued at the end, so that an unreachable artifact store does not block the metrics. `get_run`
                    # raises if the whole server is unreachable: then the order is kept.
                    client.get_run(first["run_id"])
                    spool.append({**first, "to": MLFLOW})
                    spool.acknowledge(end)
                    raise
            spool.acknowledge(end)
            count += len(group)
    return count


def replay(spool: Path, uri: str, sinks: Sequence[Sink] = (), *, keep_for: Sequence[str] = ()) -> int:
    """Send the records that a tracker could not deliver; the file is deleted once every receiver has all of them.

    Replay is idempotent: MLflow does not duplicate metrics, because they have the time at which they were logged.

    Args:
        spool: File of a tracker whose process has ended.
        uri: Tracking URI of the store with the runs.
        sinks: Receivers beside MLflow.
        keep_for: Names of receivers that are not tried, but whose records are kept.

    Returns:
        Number of records sent, over all receivers.

    Raises:
        ValueError: If there is no such file.
        ConnectionError: If a receiver cannot be reached or an artifact cannot be stored, after the others have
            received their records; a further call continues from there.
    """
    if not spool.exists():
        raise ValueError(f"expected a spool file that a run left, got {spool}, which does not exist")
    receivers: list[Sink] = [MlflowSink(uri), *sinks]
    queue = Spool(spool, [*(sink.name for sink in receivers), *keep_for])
    try:
        return deliver_once(receivers, queue)
    except DeliveryError as error:
        raise ConnectionError(f"{spool} was not completely sent: {error}; call again to continue") from error
    finally:
        queue.close()


def _groups(records: list[tuple[Record, int]]) -> Iterator[list[tuple[Record, int]]]:
    """Group adjacent metrics records of one run; every other record is a separate group."""

    def together(entry: tuple[Record, int]) -> object:
        record, end = entry
        return record["run_id"] if record.get("kind") == "metrics" else end

    for _, group in itertools.groupby(records, key=together):
        yield list(group)


def _send_metrics(client: "MlflowClient", records: Sequence[Record]) -> None:
    from mlflow.entities import Metric

    metrics = []
    for record in records:
        for name, value in record["values"].items():
            finite = value if math.isfinite(value) else math.nan
            metrics.append(Metric(allowed_name(name), finite, record["time_ms"], record["step"]))
    try:
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            client.log_batch(records[0]["run_id"], metrics=metrics[start : start + _METRICS_PER_CALL])
    except delivery_errors() as error:
        if not is_refused(error):
            raise
        if len(records) == 1:
            _log.warning("MLflow refused the metrics of step %d: %s", records[0]["step"], redact(error))
        else:
            for record in records:
                _send_metrics(client, [record])


def _send_other(client: "MlflowClient", record: Record) -> None:
    try:
        match record:
            case {"kind": "image", "path": path} if not Path(path).exists():
                _log.warning("%s was not sent to MLflow: the file no longer exists", path)
            case {"kind": "image", "run_id": run_id, "path": path, "artifact_path": artifact_path}:
                client.log_artifact(run_id, path, artifact_path)
            case {"kind": "text", "run_id": run_id, "text": text, "artifact_file": artifact_file}:
                client.log_text(run_id, text, artifact_file)
            case {"kind": "status", "run_id": run_id, "status": status}:
                client.set_terminated(run_id, status)
            case _:
                _log.warning("A damaged record was skipped: %s", record)
    except delivery_errors() as error:
        if not is_refused(error):
            raise
        _log.warning("MLflow refused a %s: %s", record["kind"], redact(error))
