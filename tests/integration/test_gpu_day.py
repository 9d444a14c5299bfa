"""The first day on a GPU, all of it on a CPU with tiny models."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

PROGRAM = [sys.executable, "benchmarks/gpu_day.py", "--tiny", "--out"]


def run(folder: Path) -> tuple[list[dict[str, Any]], str]:
    done = subprocess.run([*PROGRAM, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "gpu_day.json").read_text()), done.stdout


def test_every_stage_runs_once_and_a_stage_without_a_gpu_states_what_it_lacks(tmp_path: Path) -> None:
    stages, _ = run(tmp_path)
    assert {each["stage"]: (each["status"], each["level"]) for each in stages} == {
        **dict.fromkeys(("env", "roll", "vae", "grad", "zero3", "hps", "train"), ("passed", "CPU, tiny models")),
        "plan": ("skipped", None),
    }
    rows = {row["name"]: row for stage in stages for row in stage["rows"]}
    assert rows["updates made"]["measured"] == 4
    assert rows["update that the resumed run starts from"]["measured"] == 3
    assert all("idle_share" not in row for row in rows.values()), "a CPU has no idle share of a GPU"
    assert all(row["measured"] > 0 for name, row in rows.items() if name.startswith(("gradient", "rollout", "decode")))
    page = (tmp_path / "gpu_day.md").read_text()
    assert "| plan | skipped: needs a CUDA GPU" in page
    assert "| updates made | at least 4 | 4 | yes |" in page

    before = (tmp_path / "roll.json").read_bytes()
    (tmp_path / "env.json").unlink()
    _, output = run(tmp_path)
    assert "roll: passed before" in output
    assert "env: passed\n" in output
    assert (tmp_path / "roll.json").read_bytes() == before
