import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.isolated_hosts import cannot_isolate
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(1800)


def test_run_over_three_hosts_has_the_weights_of_the_run_on_one(tmp_path: Path) -> None:
    reason = cannot_isolate()
    if reason:
        pytest.skip(f"no network namespaces: {reason}")
    figures = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/two_hosts.py", "--json", str(figures)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    found = json.loads(figures.read_text())
    assert max(found["differences"].values()) <= 1e-6
    assert not found["spool_left"]
    assert all(sent > 1 for sent in found["sent_mb"].values())
