"""A complete run with secrets planted in its environment: none of its outputs contains one."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.client import connect
from tests.conftest import ROOT, SMALL_WORLD, TINY
from tests.helpers.tracking.stored_files import tensorboard_scalars, wandb_rows

if TYPE_CHECKING:
    from tests.helpers.tracking.mlflow_server import Server


SECRETS = {
    "HF_TOKEN": "hf_plantedHuggingFace",
    "PLANTED_PASSWORD": "plantedPassw0rd",
    "PLANTED_KEY": "plantedApiKey",
    "AWS_SECRET_ACCESS_KEY": "plantedAws",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}
REWARD = (
    "{type: python, name: keyed, target: 'tests.helpers.tracking.keyed_reward:KeyedReward',"
    " arguments: {api_key: '${PLANTED_KEY}'}}"
)


@pytest.mark.long
@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
def test_secrets_are_in_no_file_no_store_and_no_output_of_a_run(server: "Server", tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("../../../escaped\n/tmp/escaped\na red circle; rm -rf ~\n..\\..\\escaped\n")
    evaluated = tmp_path / "evaluated.txt"
    evaluated.write_text("../../../escaped again\n/tmp/escaped again\n")
    uri = server.uri.replace("://", "://me:${PLANTED_PASSWORD}@")
    # Ray's sockets have long names, and their paths may not be.
    ray_folder = Path(tempfile.mkdtemp(dir="/tmp"))
    overrides = [*TINY, "training.num_updates=1", "evaluation.num_prompts=2", "name=planted"]
    overrides += [f"run_root={tmp_path / 'runs'}", f"tracking.uri={uri}"]
    overrides += ["tracking.wandb={}", "tracking.tensorboard=true"]
    overrides += [f"rewards.models=[{REWARD}]", f"data.prompts={prompts}", f"evaluation.prompts={evaluated}"]
    command = [sys.executable, "-m", "srpo_ray.cli", "train", str(SMALL_WORLD), *overrides]
    environment = {**os.environ, **SECRETS, "RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "disabled"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "HOME": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    try:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        folder = RunFolder(tmp_path / "runs" / "planted")
        files = [path for root in (tmp_path, ray_folder) for path in root.rglob("*") if path.is_file()]
        assert {folder.config, folder.finished, tmp_path / "mlflow.db"} <= set(files)
        assert any("worker" in path.name for path in files if path.is_relative_to(ray_folder))
        # What an Authorization header holds, and the encoded form that a URI has.
        header = base64.b64encode(f"me:{SECRETS['PLANTED_PASSWORD']}".encode()).decode().rstrip("=")
        output = (done.stdout + done.stderr).encode()
        for secret in (*SECRETS.values(), header):
            assert secret.encode() not in output
            assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    # The run did use them: MLflow has its metrics, and the config still says where the secrets come from.
    record = json.loads(folder.tracker_record.read_text())
    assert record["uri"] == uri
    assert connect(server.uri).get_run(record["run_id"]).data.metrics["update/lr"] > 0
    assert [row["update"] for row in wandb_rows(folder.path / "wandb") if "update/lr" in row] == [1]
    assert [step for step, _ in tensorboard_scalars(folder.path / "tensorboard")["update/lr"]] == [1]
    assert not folder.tracker_spool.exists()
    assert not list(tmp_path.parent.rglob("*escaped*"))
    assert not Path("/tmp/escaped").exists()
