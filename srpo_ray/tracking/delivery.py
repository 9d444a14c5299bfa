"""Ordered delivery of a tracker's spooled records to MLflow."""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srpo_ray.credentials import redact
from srpo_ray.tracking.client import allowed_name, connect, delivery_errors, is_refused
from srpo_ray.tracking.spool import Record, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

_METRICS_PER_CALL = 1000
_RECORDS_PER_READ = 200


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
                    spool.append(first)
                    spool.acknowledge(end)
                    raise
            spool.acknowledge(end)
            count += len(group)
    return count


def replay(spool: Path, uri: str) -> int:
    """Send the records that a tracker could not deliver; the file is deleted once it is empty.

    Replay is idempotent: MLflow does not duplicate metrics, because they have the time at which they were logged.

    Args:
        spool: File of a tracker whose process has ended.
        uri: Tracking URI of the store with the runs.

    Returns:
        Number of records sent.

    Raises:
        ValueError: If there is no such file.
        ConnectionError: If the store cannot be reached or an artifact cannot be stored; a further call continues
            from there.
    """
    if not spool.exists():
        raise ValueError(f"expected a spool file that a run left, got {spool}, which does not exist")
    queue = Spool(spool)
    try:
        return deliver(connect(uri), queue)
    except delivery_errors() as error:
        raise ConnectionError(
            f"{spool} was not completely sent to {uri}: {redact(error)}; call again to continue"
        ) from error
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
