"""What the process of a sweep does before Ray starts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from srpo_ray.config import RunConfig, load_experiment, to_yaml
from srpo_ray.launch import preflight
from srpo_ray.search import experiment
from tests.conftest import ROOT
from tests.helpers.training.contrasted_runs import LORA, finished_run, run_with

SWEEP = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"


def test_checks_before_ray_starts_import_no_model_stack() -> None:
    code = (
        "import sys\n"
        "from srpo_ray.config import load_experiment\n"
        "import srpo_ray.search.experiment\n"
        "from srpo_ray.launch.preflight import check_inputs\n"
        f"_, base = load_experiment({str(SWEEP)!r})\n"
        "check_inputs(base)\n"
        "print(sorted({'diffusers', 'transformers', 'deepspeed', 'mlflow', 'scipy.optimize'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_notes_on_texts_and_model_are_reported_when_ray_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []

    @contextmanager
    def session(*_: str | None) -> Iterator[None]:
        reported.append("Ray has started")
        yield

    def stop(_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(experiment, "ray_session", session)
    monkeypatch.setattr(experiment, "check_cluster", stop)
    (tmp_path / "train.txt").write_text("a red circle\na red circle\n")
    changes = [f"run_root={tmp_path}", "rollout.shift=1.0", f"data.prompts={tmp_path / 'train.txt'}"]
    config, base = load_experiment(SWEEP, changes)
    with pytest.raises(InterruptedError):
        experiment.run_experiment(config, base, None, "a test", "a test", note=reported.append)
    first, texts, model = reported
    assert first == "Ray has started"
    assert "repeated" in texts
    # The small world's scheduler has shift 3.
    assert model.startswith("rollout.shift: 1.0 gives sigmas that differ")


@pytest.mark.parametrize("values", ["a rank of a list", "a bound of a range", "a run"])
def test_searched_value_that_does_not_fit_the_contrast_is_refused_before_ray_starts(
    values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "ray_session", lambda *_: pytest.fail("Ray was started"))
    other = finished_run(tmp_path / "other", LORA)
    unlike = finished_run(tmp_path / "unlike", LORA, "model.max_sequence_length=8")
    arm, message = {
        "a rank of a list": ({"space": {"model.lora.rank": {"choice": [2, 4]}}}, r"at most model\.lora\.rank=2"),
        "a bound of a range": ({"space": {"model.lora.rank": {"randint": [2, 8]}}}, r"at most model\.lora\.rank=2"),
        "a run": (
            {"grid": {"evaluation.contrast_with": [str(other), str(unlike)]}},
            r"expected a run of the same model, got \S*unlike with model\.max_sequence_length 8",
        ),
    }[values]
    (tmp_path / "base.yaml").write_text(to_yaml(run_with(other)))
    arms = [{"name": "all", **arm}]
    (tmp_path / "search.yaml").write_text(json.dumps({"base": str(tmp_path / "base.yaml"), "arms": arms}))
    config, base = load_experiment(tmp_path / "search.yaml")
    with pytest.raises(ValueError, match=rf"^evaluation\.contrast_with: .*{message}"):
        experiment.run_experiment(config, base, None, "a test", "a test")
    assert not (tmp_path / "search").exists()


def test_other_model_of_the_contrast_is_read_once_for_runs_of_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[tuple[str | None, int]] = []

    def note(run: RunConfig) -> None:
        assert run.model.lora
        checked.append((run.evaluation.contrast_with, run.model.lora.rank))

    def stop(_: str) -> None:
        raise InterruptedError

    monkeypatch.setattr(experiment, "check_contrast_with", note)
    monkeypatch.setattr(preflight, "check_contrast_with", note)
    monkeypatch.setattr(experiment, "require_server", stop)
    (tmp_path / "base.yaml").write_text(to_yaml(run_with(tmp_path / "other")))
    arms = [
        {"name": "searched", "space": {"training.optimizer.lr": {"choice": [1e-5, 2e-5]}}},
        {"name": "same model"},
        {"name": "higher rank", "set": {"model.lora.rank": 5}},
        {"name": "another run", "set": {"evaluation.contrast_with": "runs/another"}},
    ]
    (tmp_path / "search.yaml").write_text(json.dumps({"base": str(tmp_path / "base.yaml"), "arms": arms}))
    config, base = load_experiment(tmp_path / "search.yaml")
    with pytest.raises(InterruptedError):
        experiment.run_experiment(config, base, None, "a test", "a test")
    other = str(tmp_path / "other")
    assert sorted(checked, key=str) == sorted([(other, 4), (other, 5), ("runs/another", 4)], key=str)
