"""MLflow's model registry: a trained model as a version of a registered model, with its card."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from srpo_ray.credentials import redact
from srpo_ray.tracking.client import connect, delivery_errors
from srpo_ray.tracking.record import read_record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)

_ARTIFACTS = "model"
_VERSION_TAG = "srpo_ray.model_version"


def register_model(record: Path, name: str, files: Path, card: str, tags: Mapping[str, str]) -> str | None:
    """Upload an exported model to its run's artifacts, and register it as a new version of a registered model.

    A run has one version: a repeated call returns it. A server that lacks a registry or refuses the model, and one that
    cannot be reached, give a warning.

    Args:
        record: File that `start_run` wrote for the run.
        name: Name of the registered model, which is created if it does not exist.
        files: Folder of the exported model.
        card: Model card in Markdown, the description of the version.
        tags: Tags of the version.

    Returns:
        Number of the version; None after a warning.
    """
    known = read_record(record)
    try:
        client = connect(known["uri"])
        run = client.get_run(known["run_id"])
        given, _, version = run.data.tags.get(_VERSION_TAG, "").rpartition("/")
        if given == name:
            return version
        commit = run.data.tags.get("git_commit", "unknown")
        return _register(client, run, name, files, card, {"git_commit": commit, **tags})
    except delivery_errors() as error:
        _log.warning("tracking.register_as: MLflow at %s did not register %s: %s", known["uri"], name, redact(error))
        return None


def _register(client: "MlflowClient", run: "Run", name: str, files: Path, card: str, tags: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    client.log_artifacts(run.info.run_id, str(files), _ARTIFACTS)
    with suppress(MlflowException):
        # It may exist. Any other problem shows in the next call.
        client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/{_ARTIFACTS}"
    made = client.create_model_version(name, source, run.info.run_id, tags=dict(tags), description=card)
    client.set_tag(run.info.run_id, _VERSION_TAG, f"{name}/{made.version}")
    return str(made.version)
