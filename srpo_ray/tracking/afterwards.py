"""Metrics and files that are added to an MLflow run after it has ended; its status stays as it is."""

import time
from collections.abc import Mapping
from pathlib import Path

from srpo_ray.files import read_json
from srpo_ray.tracking.delivery import replay
from srpo_ray.tracking.spool import Spool


def log_afterwards(record: Path, spool: Path, metrics: Mapping[str, float], step: int, texts: Mapping[str, str]) -> int:
    """Send metrics and text files to the run that `start_run` recorded.

    Args:
        record: File that `start_run` wrote.
        spool: File that keeps what could not be sent; a further call sends it first.
        metrics: Name -> value.
        step: MLflow's step of the metrics.
        texts: Name of an artifact -> its text.

    Returns:
        Number of records sent; 0 if the folder has no tracked run.

    Raises:
        ConnectionError: If the store cannot be reached.
        ValueError: If the record is damaged.
    """
    if not record.exists():
        return 0
    known = read_json(record)
    if not isinstance(known, dict) or not all(isinstance(known.get(key), str) for key in ("uri", "run_id")):
        raise ValueError(f"expected the MLflow run and its address in {record}, got {known!r}; restore or remove it")
    queue, run_id = Spool(spool), known["run_id"]
    try:
        now_ms = int(time.time() * 1000)
        values = {name: float(value) for name, value in metrics.items()}
        queue.append({"run_id": run_id, "kind": "metrics", "values": values, "step": step, "time_ms": now_ms})
        for name, text in texts.items():
            queue.append({"run_id": run_id, "kind": "text", "text": text, "artifact_file": name})
    finally:
        queue.close()
    return replay(spool, known["uri"])
