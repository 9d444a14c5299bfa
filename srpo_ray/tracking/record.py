"""Record of a run's MLflow run, a JSON file in the folder of the run."""

import json
from pathlib import Path

from srpo_ray.files import read_json, write_text


def write_record(record: Path, run_id: str, uri: str, experiment: str, group: str | None) -> None:
    """Write the id of an MLflow run and its place, and the experiment of the project that the run is a part of."""
    known = {"run_id": run_id, "uri": uri, "experiment": experiment, **({"group": group} if group else {})}
    write_text(record, json.dumps(known, indent=2))


def read_record(record: Path) -> dict[str, str]:
    """Read the record of a run.

    Raises:
        ValueError: If the file is damaged.
    """
    known = read_json(record)
    if not isinstance(known, dict) or not all(isinstance(known.get(key), str) for key in ("uri", "run_id")):
        raise ValueError(f"expected the MLflow run and its address in {record}, got {known!r}; restore or remove it")
    return known
