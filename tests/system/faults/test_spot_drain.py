import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.conftest import ROOT
from tests.helpers.cluster.metadata_server import Answer, AwsRules, MetadataServer


def test_notice_of_the_cloud_makes_ray_drain_that_node_by_its_deadline(server: MetadataServer, tmp_path: Path) -> None:
    notice = tmp_path / "notice"
    ends = (datetime.now(UTC) + timedelta(seconds=110)).replace(microsecond=0)
    rules = AwsRules()

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        if notice.exists():
            rules.action = json.dumps({"action": "terminate", "time": ends.strftime("%Y-%m-%dT%H:%M:%SZ")})
        return rules(method, path, headers)

    server.answer = answer
    # Ray's sockets have long names, and their paths may not be.
    ray_folder = tempfile.mkdtemp(dir="/tmp")
    environment = {**os.environ, "RAY_TMPDIR": ray_folder, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "tests.helpers.cluster.drained_node", server.url, str(notice)]
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
        )
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["before"] == {}
    assert found["exit"] == 0, found["log"]
    assert list(found["after"]) == [found["watched"]]
    deadline = datetime.fromtimestamp(found["after"][found["watched"]] / 1000, UTC)
    # Ray's command takes whole seconds; the rest is how long it took to get there.
    assert ends - timedelta(seconds=30) <= deadline <= ends + timedelta(seconds=30)
    assert "aws's notice" in found["log"][0]
    assert sum("is draining" in line for line in found["log"]) == 1
