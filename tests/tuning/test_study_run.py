"""A study of methods: what it plans, what it keeps, and a whole small one."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.config import StudyConfig, load_run
from srpo_ray.evaluation.comparison import CALLS, SECONDS
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.tuning import study as study_module
from srpo_ray.tuning.runs import PlannedRun
from srpo_ray.tuning.study import compute_notes, train_arms, tune_methods, with_costs
from srpo_ray.tuning.trial import Study
from tests.conftest import SMALL_WORLD
from tests.tuning.test_sweep_run import TINY

LR, HELD_OUT = "training.optimizer.lr", "evaluator/held_out"
CONFIG = StudyConfig.model_validate(
    {
        "base": "base.yaml",
        "ablated": "SRPO",
        "seeds": [1, 2],
        "methods": [
            {"name": "ReFL", "set": {"algorithm": {"type": "refl"}}, "tune": {LR: [1e-6, 2e-6]}},
            {"name": "SRPO", "tune": {LR: [1e-6, 2e-6, 3e-6]}},
            {"name": "ReFL, longer", "like": "ReFL", "set": {"training.num_updates": 80}, "seeds": [1]},
        ],
        "ablations": [{"name": "no inversion", "set": {"algorithm.branches": ["denoise"]}}],
    }
)


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, list[PlannedRun]]:
    """A study whose runs are only noted; the held-out score is highest for a learning rate of 2e-6."""
    made: list[PlannedRun] = []

    def run(study: Study, phase: str, title: str, runs: Sequence[PlannedRun], *_: object) -> list[TrialRow]:
        made.extend(runs)
        return [
            TrialRow(
                run.name,
                run.kind,
                run.label,
                run.changes,
                [{"update": 0, HELD_OUT: 0.5}, {"update": 4, HELD_OUT: 0.6 - abs(run.changes[LR] - 2e-6) * 1e4}],
                "finished",
                1.0,
                run.changes["seed"],
            )
            for run in runs
        ]

    monkeypatch.setattr(study_module, "run_planned", run)
    for name in ("tune_ReFL_0", "tune_ReFL_1", *(f"tune_SRPO_{index}" for index in range(3))):
        write_steps(tmp_path / "trials" / name)
    for name in ("ReFL", "SRPO", "ReFL_longer", "no_inversion"):
        for seed in (1, 2):
            write_steps(tmp_path / "trials" / f"{name}_seed_{seed}")
    return Study(load_run([SMALL_WORLD]), str(tmp_path), None, "", "", None), made


def write_steps(folder: Path) -> None:
    folder.mkdir(parents=True)
    for step in range(1, 5):
        row = {"update": step, "cost/forward": 10.0, "cost/forward_backward": 2.0, "time/update": 0.5}
        append_row(folder / "updates.jsonl", row)


def test_arms_are_trained_with_the_values_that_were_best_on_the_tuning_seed(
    planned: tuple[Study, list[PlannedRun]],
) -> None:
    study, made = planned
    tuned, notes = tune_methods(study, CONFIG)
    assert [(item.method, item.chosen) for item in tuned] == [("ReFL", "tune_ReFL_1"), ("SRPO", "tune_SRPO_1")]
    assert {run.changes["seed"] for run in made} == {0}
    # Evaluated once, at the end, and on other noise than what is reported.
    own = study.base.evaluation.seed
    assert {(run.changes["evaluation.interval"], run.changes["evaluation.seed"]) for run in made} == {(40, own + 1)}
    (note,) = notes
    assert note.endswith("a better one may lie beyond: ReFL, training.optimizer.lr 2e-6.")

    made.clear()
    arms = train_arms(study, CONFIG, tuned)
    assert {run.changes[LR] for run in made} == {2e-6}
    assert [run.name for run in made] == [
        "ReFL_seed_1",
        "SRPO_seed_1",
        "ReFL_longer_seed_1",
        "no_inversion_seed_1",
        "ReFL_seed_2",
        "SRPO_seed_2",
        "no_inversion_seed_2",
    ]
    by_name = {run.name: run.changes for run in made}
    assert by_name["ReFL_longer_seed_1"] == {
        "algorithm": {"type": "refl"},
        LR: 2e-6,
        "training.num_updates": 80,
        "seed": 1,
    }
    assert by_name["no_inversion_seed_2"] == {LR: 2e-6, "algorithm.branches": ["denoise"], "seed": 2}
    assert [(arm.name, arm.kind, len(arm.rows)) for arm in arms] == [
        ("ReFL", "method", 2),
        ("SRPO", "method", 2),
        ("ReFL, longer", "method", 1),
        ("no inversion", "ablation", 2),
    ]


def test_costs_are_those_of_the_updates_before_each_evaluation(tmp_path: Path) -> None:
    write_steps(tmp_path / "run")
    history = [{"update": 0, HELD_OUT: 0.5}, {"update": 3, HELD_OUT: 0.6}]
    row = with_costs(TrialRow("run", "repeat", "run", {}, history, "finished", 1.0, 0), RunFolder(tmp_path / "run"))
    # 10 + 3 x 2 an update
    assert [(e[CALLS], e[SECONDS]) for e in row.history] == [(0.0, 0.0), (48.0, 1.5)]


def test_unequal_compute_is_said(planned: tuple[Study, list[PlannedRun]]) -> None:
    study, _ = planned
    tuned, _ = tune_methods(study, CONFIG)
    arms = train_arms(study, CONFIG, tuned)
    assert compute_notes(arms, "SRPO") == []
    folder = Path(study.folder) / "trials" / "ReFL_seed_1"
    append_row(
        folder / "updates.jsonl", {"update": 5, "cost/forward": 64.0, "cost/forward_backward": 0.0, "time/update": 1}
    )
    longer = with_costs(
        TrialRow("ReFL_seed_1", "repeat", "", {}, [{"update": 5, HELD_OUT: 0.6}], "finished", 1.0, 1), RunFolder(folder)
    )
    arms[0].rows[:] = [longer]  # pyright: ignore[reportIndexIssue]
    assert compute_notes(arms, "SRPO") == ["ReFL was trained with 2.00 times the velocity evaluations of SRPO."]


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_study_tunes_trains_and_reports_and_repeats_nothing_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(
        json.dumps(
            {
                "name": "methods",
                "base": str(SMALL_WORLD),
                "ablated": "SRPO",
                "seeds": [1, 2],
                "methods": [{"name": "SRPO", "tune": {LR: [2.0e-6, 1.0e-5]}}],
                "ablations": [{"name": "plain", "set": {"algorithm": {"type": "direct_align", "hinge": 2.0}}}],
            }
        )
    )
    tiny = [argument for argument in TINY if not argument.startswith("sweep.")]
    assert main(["study", "study.yaml", *tiny]) == 0
    folder = Path("runs") / "methods"
    printed = capsys.readouterr().out
    assert "ablations of SRPO" in printed
    assert str(folder / "report.html") in printed
    with (folder / "table.csv").open() as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["baseline", "SRPO", "plain"]
    # 4 updates of 2 prompts: 2 rollout steps and 2 branches, or one
    assert float(rows["SRPO"]["cost/calls mean"]) == 4 * 2 * (2 + 2 * 3)
    assert float(rows["plain"]["cost/calls mean"]) == 4 * 2 * (2 + 3)
    assert (folder / "images" / "methods.png").exists()

    trained = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/updates.jsonl")}
    assert len(trained) == 6
    table = (folder / "table.csv").read_text()
    assert main(["study", "--resume", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/updates.jsonl")} == trained
    assert (folder / "table.csv").read_text() == table
