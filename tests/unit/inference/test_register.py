"""Registration of trained runs in MLflow's registry, on a sqlite file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from srpo_ray.config import apply
from srpo_ray.inference.export import COMFYUI_LORA
from srpo_ray.inference.register import register_best, register_run
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.runs import start_run
from tests.helpers.tracking.fixtures import client as client
from tests.helpers.tracking.fixtures import uri as uri
from tests.helpers.training.trained_run import trained_run

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture
def experiment(uri: str, tmp_path: Path) -> Path:
    """Folder of an experiment whose best run is the trained `seed_1`."""
    folder = tmp_path / "study"
    run = folder / "trials" / "seed_1"
    trained_run(run, "model.lora={rank: 2}")
    tags = {"git_commit": "abc123"}
    start_run(uri, "small", "seed_1", tags=tags, params={}, record=RunFolder(run).tracker_record)
    best = {"run": "seed_1", "arm": "SRPO", "objective": "evaluator/held_out", "value": 0.75}
    (folder / "best_run.json").write_text(json.dumps(best))
    return folder


def test_best_run_becomes_a_version_with_its_card_and_its_weights(
    experiment: Path, client: "MlflowClient", tmp_path: Path
) -> None:
    config, _ = trained_run(tmp_path / "other", "tracking.register_as=flux-vivid")
    assert register_best(config, experiment) == "registered: flux-vivid, version 1"
    # A command that is repeated after its end adds no version.
    assert register_best(config, experiment) == "registered: flux-vivid, version 1"
    (version,) = client.search_model_versions("name = 'flux-vivid'")
    run = experiment / "trials" / "seed_1"
    assert version.description == (run / "export" / "README.md").read_text()
    assert "| evaluator/held_out | 0.5" in (version.description or "")
    assert version.run_id == json.loads(RunFolder(run).tracker_record.read_text())["run_id"]
    assert version.tags == {
        "experiment": "study",
        "arm": "SRPO",
        "objective": "evaluator/held_out",
        "value": "0.75",
        "git_commit": "abc123",
        "run": "seed_1",
        "run_dir": str(run),
    }
    assert version.run_id
    stored = Path(client.download_artifacts(version.run_id, "model", str(tmp_path)))
    assert version.source == f"{client.get_run(version.run_id).info.artifact_uri}/model"
    assert load_file(stored / COMFYUI_LORA).keys() == load_file(run / "export" / COMFYUI_LORA).keys()


def test_server_without_a_registry_gives_a_warning(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def absent(*_: object, **__: object) -> None:
        raise MlflowException("no registry here", error_code=ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(MlflowClient, "create_registered_model", absent)
    monkeypatch.setattr(MlflowClient, "create_model_version", absent)
    config, _ = trained_run(tmp_path / "other", "tracking.register_as=flux-vivid")
    assert register_best(config, experiment) is None
    assert "no registry here" in caplog.text


def test_run_without_weights_of_its_own_is_not_registered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, client: "MlflowClient"
) -> None:
    config, _ = trained_run(tmp_path / "run")
    RunFolder(tmp_path / "run").finished.write_text('{"best_update": 0}')
    assert register_run(config, tmp_path / "run", {}) is None
    assert caplog.text == ""
    assert register_run(apply(config, {"tracking.register_as": "flux"}), tmp_path / "run", {}) is None
    assert "was not registered" in caplog.text
    assert list(client.search_registered_models()) == []
