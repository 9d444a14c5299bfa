"""MLflow runs, opened and ended by the driver, so that a worker needs only a URI and a run id."""

import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo_ray.config import RunConfig
from srpo_ray.config.tracking import sqlite_uri
from srpo_ray.credentials import find_credentials, redact
from srpo_ray.tracking.client import allowed_name, connect, delivery_errors, is_refused, sqlite_file
from srpo_ray.tracking.delivery import replay
from srpo_ray.tracking.record import read_record, write_record
from srpo_ray.tracking.sink import DeliveryError, Sink, deliver_once
from srpo_ray.tracking.spool import MLFLOW, Spool
from srpo_ray.tracking.tracker import Status

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

_log = logging.getLogger(__name__)

_VALUE_LENGTH = 6000
_PARAMS_PER_CALL = 100
_DATA = ("data.", "evaluation.prompts", "evaluation.test.prompts")
_DIGEST_LENGTH = 36
_NAME_LENGTH = 500
_MISSING = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED")
"""Errors of servers that lack a part of MLflow's interface."""


def default_uri(run_root: Path) -> str:
    """Return the URI of the sqlite file `mlflow.db` in `run_root`, also for `mlflow ui --backend-store-uri`.

    Several processes of one machine may write to it concurrently: MLflow waits up to 20 s for the file's lock.
    For several machines, use an MLflow server.

    Raises:
        ValueError: If the folder's path has characters with a special meaning in a URI.
    """
    return sqlite_uri(run_root.resolve() / "mlflow.db")


def tracking_uri(config: RunConfig) -> str:
    """Return the MLflow URI of the config, of the environment (a cluster's head sets it), or of a file in the run root.

    Raises:
        ValueError: If the URI of the environment contains credentials, which would be stored with the run, or the path
            of the run root cannot be part of a URI.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not config.tracking.uri and list(find_credentials({"uri": given})):
        raise ValueError(
            "MLFLOW_TRACKING_URI: expected an address without credentials, because it is stored with each run, got one"
            " with credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return config.tracking.uri or given or default_uri(Path(config.run_root))


def start_run(
    uri: str,
    experiment: str,
    name: str,
    *,
    parent_run_id: str | None = None,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    record: Path,
    group: str | None = None,
) -> str:
    """Open a new MLflow run, or reopen the one that `record` names.

    Args:
        uri: Tracking URI. With a sqlite file, artifacts are stored in `artifacts/` beside it; a server chooses its own
            location.
        experiment: Name of the experiment, which is created if it does not exist.
        name: Display name of the run.
        parent_run_id: Id of the parent run, under which this one is shown.
        tags: Text tags, truncated to 6000 characters.
        params: Result of `flatten`. Values are truncated to 6000 characters, MLflow's limit; log the whole
            config as YAML.
        record: JSON file with the run's id. If it exists, that run continues, and its tags and params are not
            changed.
        group: Name of the experiment of this project that the run is a part of, for other trackers.

    Returns:
        The run's id.

    Raises:
        ValueError: If `record` was written for another URI, an environment variable that the URI names is not set, or
            the store refuses the experiment, the run or one of its params.
        ConnectionError: If the server or database cannot be reached.
    """
    try:
        client = connect(uri)
        run_id = _continued_run(client, uri, record)
        if run_id is None:
            all_tags = {**tags, **({"mlflow.parentRunId": parent_run_id} if parent_run_id else {})}
            run_id = _new_run(client, _experiment_id(client, uri, experiment), name, all_tags, params)
            write_record(record, run_id, uri, experiment, group)
    except delivery_errors() as error:
        if is_refused(error):
            raise ValueError(
                f"expected names and values that MLflow accepts, got a refusal from {uri}: {redact(error)}; change the"
                " config where the refusal points"
            ) from error
        raise ConnectionError(
            f"expected an MLflow server or database at {uri}, got: {redact(error)}; start it, or set tracking.uri to"
            " another one, or unset it for a sqlite file in the run root"
        ) from error
    return run_id


def log_inputs(uri: str, run_id: str, inputs: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """Attach the prompts and images of a run to it, as MLflow's dataset inputs. A repeated call adds nothing.

    A server that has no inputs, or refuses them, gives a warning.

    Args:
        uri: Tracking URI.
        run_id: Id of the run.
        inputs: Config key -> source -> part -> hash, from `runs.inputs`. Other keys than those of data are skipped.

    Raises:
        ConnectionError: If the server or database cannot be reached.
    """
    data = {key: sources for key, sources in inputs.items() if key.startswith(_DATA)}
    entries = [(key, source, parts) for key, sources in data.items() for source, parts in sources.items() if parts]
    try:
        client = connect(uri)
        if entries:
            client.log_inputs(run_id, datasets=[_dataset_input(*entry) for entry in entries])
    except delivery_errors() as error:
        if not is_refused(error) and getattr(error, "error_code", None) not in _MISSING:
            raise ConnectionError(f"expected an MLflow server or database at {uri}, got: {redact(error)}") from error
        _log.warning("MLflow at %s did not take the hashes of the inputs: %s", uri, redact(error))


def _dataset_input(key: str, source: str, parts: Mapping[str, str]) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]
    place, hashes = json.dumps({"path": source}), json.dumps({"hashes": parts}, ensure_ascii=False)
    dataset = Dataset(source[:_NAME_LENGTH], digest, "srpo_ray", place, profile=hashes)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", key)])


def end_run(record: Path, spool: Path, status: Status, sinks: Sequence[Sink] = ()) -> None:
    """Send the records that a dead process left in its spool, and set its run's final status.

    Args:
        record: File that `start_run` wrote; without it there is no run to end.
        spool: File of the run's tracker.
        status: Final status of the run.
        sinks: Receivers beside MLflow. If one fails, a warning says so, and its records stay in the spool.

    Raises:
        ConnectionError: If MLflow's store cannot be reached.
    """
    if not record.exists():
        return
    known = read_record(record)
    if sinks:
        _end_sinks(sinks, spool, known["run_id"], status)
    if spool.exists():
        replay(spool, known["uri"], keep_for=[sink.name for sink in sinks])
    try:
        connect(known["uri"]).set_terminated(known["run_id"], status)
    except delivery_errors() as error:
        raise ConnectionError(
            f"could not set the status of the run in {record} to {status}: {redact(error)}"
        ) from error


def _end_sinks(sinks: Sequence[Sink], spool: Path, run_id: str, status: Status) -> None:
    queue = Spool(spool, [MLFLOW, *(sink.name for sink in sinks)])
    try:
        queue.append({"run_id": run_id, "kind": "status", "status": status})
        deliver_once(sinks, queue)
    except DeliveryError as error:
        _log.warning("%s. The records are kept in %s. Send them with `srpo-ray replay RUN`.", error, spool)
    finally:
        queue.close()


def replay_run(record: Path, spool: Path, uri: str | None = None, sinks: Sequence[Sink] = ()) -> int:
    """Send the records that the tracker of a run could not deliver before its process ended.

    Args:
        record: File that `start_run` wrote.
        spool: File of the run's tracker.
        uri: New URI of the store, if it has moved; None takes the recorded one.
        sinks: Receivers beside MLflow.

    Returns:
        Number of records sent, over all receivers; 0 if none are left.

    Raises:
        ValueError: If there is no such run.
        ConnectionError: If a receiver cannot be reached; a further call continues from there.
    """
    if not record.exists():
        raise ValueError(
            f"expected the folder of a tracked run, with {record.name}, got {record.parent}; `srpo-ray train` prints"
            " the folder when it ends"
        )
    return replay(spool, uri or read_record(record)["uri"], sinks) if spool.exists() else 0


def _continued_run(client: "MlflowClient", uri: str, record: Path) -> str | None:
    if not record.exists():
        return None
    from mlflow.exceptions import MlflowException

    known = read_record(record)
    if known["uri"] != uri:
        raise ValueError(
            f"expected the tracking URI {known['uri']} that this run was started with, got {uri}; set"
            f" tracking.uri back, or delete {record} to start a new MLflow run"
        )
    try:
        client.update_run(known["run_id"], status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        _log.warning("MLflow run %s of %s no longer exists at %s; starting a new one", known["run_id"], record, uri)
        return None
    return known["run_id"]


def _experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is not None:
        return known.experiment_id
    database = sqlite_file(uri)
    artifacts = None if database is None else (database.parent / "artifacts").as_uri()
    try:
        return client.create_experiment(name, artifact_location=artifacts)
    except MlflowException as error:
        known = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or known is None:
            raise
        return known.experiment_id


def _new_run(
    client: "MlflowClient", experiment_id: str, name: str, tags: Mapping[str, str], params: Mapping[str, str]
) -> str:
    from mlflow.entities import Param

    cut_tags = {key: value[:_VALUE_LENGTH] for key, value in tags.items()}
    run_id = client.create_run(experiment_id, run_name=name, tags=cut_tags).info.run_id
    entries = [Param(allowed_name(key), value[:_VALUE_LENGTH]) for key, value in params.items()]
    try:
        for start in range(0, len(entries), _PARAMS_PER_CALL):
            client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_CALL])
    except delivery_errors():
        # No other process will end this run. The store may be unreachable too; then the first error is raised.
        with suppress(*delivery_errors()):
            client.set_terminated(run_id, "FAILED")
        raise
    return run_id


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a nested config to dotted keys, the paths of `a.b=value` overrides.

    Texts are not changed; every other value, lists included, becomes JSON:
    `{"a": {"b": [1, 2]}}` -> `{"a.b": "[1, 2]"}`.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update({f"{key}.{inner}": text for inner, text in flatten(value).items()})
        else:
            flat[str(key)] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def git_commit(path: Path) -> str | None:
    """Return the commit checked out at `path`, with `-dirty` if tracked files differ; None outside a repository."""
    try:
        commit = _git(path, "rev-parse", "HEAD")
        changes = _git(path, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("-dirty" if changes else "")


def _git(path: Path, *arguments: str) -> str:
    command = ["git", "-C", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
