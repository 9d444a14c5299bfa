"""What the process of a sweep does before Ray starts."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from srpo_ray.config import load_experiment
from srpo_ray.search import experiment
from tests.conftest import ROOT

SWEEP = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"


def test_checks_and_notes_on_texts_import_no_model_stack() -> None:
    code = (
        "import sys\n"
        "from srpo_ray.config import load_experiment\n"
        "import srpo_ray.search.experiment\n"
        "from srpo_ray.launch.preflight import check_inputs, text_notes\n"
        f"_, base = load_experiment({str(SWEEP)!r})\n"
        "check_inputs(base)\n"
        "text_notes(base)\n"
        "print(sorted({'diffusers', 'deepspeed', 'mlflow', 'scipy.optimize'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_notes_on_the_model_are_reported_when_ray_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []

    @contextmanager
    def session(_: str | None) -> Iterator[None]:
        reported.append("Ray has started")
        yield

    def stop(_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(experiment, "ray_session", session)
    monkeypatch.setattr(experiment, "check_cluster", stop)
    config, base = load_experiment(SWEEP, [f"run_root={tmp_path}", "rollout.shift=1.0"])
    with pytest.raises(InterruptedError):
        experiment.run_experiment(config, base, None, "a test", "a test", note=reported.append)
    first, note = reported
    assert first == "Ray has started"
    # The small world's scheduler has shift 3.
    assert note.startswith("rollout.shift: 1.0 gives sigmas that differ")
