import json
import os
import subprocess
import sys
import tempfile

from tests.conftest import ROOT


def test_replica_moves_off_a_drained_node_to_one_with_the_right_label_and_loses_no_call() -> None:
    # A folder of its own, where its address is written to: other sessions on the machine would join the cluster.
    # Not below pytest's, as the names of Ray's sockets may not be long.
    with tempfile.TemporaryDirectory(prefix="ray_") as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder}
        run = subprocess.run(
            [sys.executable, "-m", "tests.helpers.rewards.drained_pool"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    assert run.returncode == 0, run.stderr[-4000:]
    told = json.loads(run.stdout.splitlines()[-1])
    assert sorted(told["nodes"]) == [0, 1]
    assert told["values"] == [1.0, 1.0]
    assert told["replays"] == 0
    assert told["replicas_left"] == [1, 1]
