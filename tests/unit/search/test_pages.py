"""Pages of an experiment and of a run in progress, from the files of their runs."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from srpo_ray.config import ExperimentConfig, load_run, to_yaml
from srpo_ray.live.state import Progress, RunState
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.search.experiment_page import ExperimentPage
from srpo_ray.search.run_page import write_run_page
from tests.conftest import ROOT, SMALL_WORLD

LR, OBJECTIVE = "training.optimizer.lr", "evaluator/held_out"
CONFIG = ExperimentConfig.model_validate(
    {
        "name": "study",
        "base": "base.yaml",
        "arms": [{"name": "SRPO", "space": {LR: {"loguniform": [1e-6, 1e-5]}}}],
        "ablations": [{"name": "short", "set": {"training.num_updates": 4}}],
        "seeds": [1, 2],
        "search": {"num_samples": 3},
    }
)


def train(folder: RunFolder, *values: float) -> None:
    """Write the files of a run that was evaluated every four updates."""
    folder.make()
    folder.config.write_text(to_yaml(load_run([SMALL_WORLD])))
    for index, value in enumerate(values):
        scores = {OBJECTIVE: [value, value + 0.01], "reward/total": [0.1 * index, 0.2 + 0.1 * index]}
        means = {name: sum(each) / 2 for name, each in scores.items()}
        append_row(folder.evaluations, {"update": 4 * index, **means})
        append_row(folder.scores, {"update": 4 * index, "num_prompts": 2, "scores": scores})
    for update in range(1, 4 * len(values) - 3):
        speed = {"time/update": 2.0, "cost/forward": 4.0, "speed/images_per_second": 1 / update}
        append_row(folder.updates, {"update": update, "update/gradient_norm": 1.0, **speed})


def trial(index: int, status: str, error: str = "") -> RunState:
    changes = {LR: (index + 1) * 1e-6}
    return RunState(f"trial_{index}", 8, status, "trial", "SRPO", f"lr {index}", {}, changes, 0, error)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def page(tmp_path: Path) -> ExperimentPage:
    train(RunFolder(tmp_path / "trials" / "trial_0"), 0.5, 0.55, 0.6)
    (tmp_path / "trials" / "trial_0" / "finished.json").write_text("{}")
    train(RunFolder(tmp_path / "trials" / "trial_1"), 0.5, 0.9)
    train(RunFolder(tmp_path / "trials" / "trial_2"), 0.5)
    return ExperimentPage(tmp_path, CONFIG, "srpo-ray sweep study.yaml", None)


START = Progress.start("study", "experiment", CONFIG.num_runs, [OBJECTIVE])


def text_of(path: Path) -> str:
    """The words of a page, without its script and styles."""
    body = re.sub(r"<(script|style|svg).*?</\1>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_experiment_has_all_its_runs_counted() -> None:
    assert CONFIG.num_runs == 3 + 2 + 2
    grid = {"name": "a", "grid": {LR: [1e-6, 2e-6], "training.batch_size": [1, 2, 3]}}
    assert ExperimentConfig.model_validate({"base": "b", "arms": [grid], "seeds": [9]}).num_runs == 6 + 1


@pytest.mark.parametrize("runs", [[], [trial(0, "waiting")], [replace(trial(2, "running"), name="trial_9")]])
def test_page_before_any_evaluation_shows_the_progress_alone(page: ExperimentPage, runs: list[RunState]) -> None:
    text = text_of(page(replace(START, runs=runs)))
    assert "In progress: 0 of 7 runs done" in text
    assert "Best so far" not in text


def test_run_in_progress_is_shown_and_is_never_the_best(page: ExperimentPage) -> None:
    runs = [trial(0, "done"), trial(1, "running"), trial(2, "failed", "out of memory")]
    text = text_of(page(replace(START, runs=runs, phase="search for SRPO")))
    assert "In progress: 2 of 7 runs done" in text
    assert f"Best so far: trial_0, {OBJECTIVE} 0.6050 (+0.1000 since the base model)" in text
    assert "trial_1 lr 1 4/8" in text
    assert "trial_2 failed: out of memory" in text
    html = page(replace(START, runs=runs)).read_text()
    table = re.findall(r"<tr class=.(trial.*?).>.*?<b>(trial_\d)</b>", html, re.DOTALL)
    states = re.findall(r"<b>trial_\d</b>.*?(\w+)</td>\s*</tr>", html, re.DOTALL)
    assert states == ["done", "running", "failed"]
    styles = [(name, "winner" in style) for style, name in table]
    assert styles == [("trial_0", True), ("trial_1", False), ("trial_2", False)]


def test_run_that_breaks_a_limit_is_not_the_best_so_far(page: ExperimentPage, tmp_path: Path) -> None:
    train(RunFolder(tmp_path / "trials" / "trial_3"), 0.5, 0.55, 0.8)
    (tmp_path / "trials" / "trial_3" / "finished.json").write_text("{}")
    limited = "image/diversity"
    for name, end in (("trial_0", 0.6), ("trial_3", 0.4)):
        file = tmp_path / "trials" / name / "evaluations.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        values = [0.6, 0.6, end]
        file.write_text("".join(json.dumps({**row, limited: v}) + "\n" for row, v in zip(rows, values, strict=True)))
    runs = [trial(0, "done"), trial(3, "done")]
    assert "Best so far: trial_3" in text_of(page(replace(START, runs=runs)))
    config = CONFIG.model_copy(update={"max_fall": {limited: 0.1}})
    path = ExperimentPage(tmp_path, config, "srpo-ray sweep study.yaml", None)(replace(START, runs=runs))
    assert "Best so far: trial_0" in text_of(path)
    winners = re.findall(r"<tr class=.trial[^>]*winner.*?<b>(trial_\d)</b>", path.read_text(), re.DOTALL)
    assert winners == ["trial_0"]


def test_page_of_an_interrupted_experiment_says_how_to_go_on_and_does_not_load_again(page: ExperimentPage) -> None:
    runs = [trial(0, "done"), trial(1, "interrupted")]
    path = page(replace(START, runs=runs, state="interrupted", message="resume with: srpo-ray sweep --resume x"))
    text = text_of(path)
    assert "Interrupted: 1 of 7 runs done" in text
    assert "resume with: srpo-ray sweep --resume x" in text
    assert "location.reload" not in path.read_text()


def test_half_written_rows_of_a_run_do_not_break_the_page(page: ExperimentPage, tmp_path: Path) -> None:
    for name in ("updates", "evaluations", "scores"):
        with (tmp_path / "trials" / "trial_1" / f"{name}.jsonl").open("a") as file:
            file.write('{"update": 8, "evalu')
    assert "trial_1" in text_of(page(replace(START, runs=[trial(1, "running")])))


def run_progress(**changes: object) -> Progress:
    run = RunState("one", 8, "running")
    return replace(Progress.start("one", "run", 1, [OBJECTIVE]), runs=[run], **changes)


def test_page_of_a_run_has_scores_curves_images_warnings_and_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one")
    train(folder, 0.5, 0.55, 0.6)
    shutil.copy(ROOT / "docs" / "hacked.png", folder.gallery)
    append_row(folder.hacking, {"update": 4, "kind": "collapse", "metric": "m", "message": "images look alike"})
    text = write_run_page(folder, run_progress()).read_text()
    assert "In progress: update 8 of 8" in text
    assert "base model 0.5050 (+0.1000)" in text
    assert {"evaluator/held_out", "speed/images_per_second"} <= set(re.findall(r"<figcaption>(.*?)</figcaption>", text))
    assert "Reward hacking: update 4: images look alike" in text
    assert "data:image/png" in text
    assert "learning_rate" in text or "optimizer:" in text
    assert "location.reload" in text


def test_final_page_of_a_run_leads_with_its_result_and_has_the_test(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one")
    train(folder, 0.5, 0.55, 0.6)
    folder.finished.write_text("{}")
    assert f"After update 8, {OBJECTIVE} is 0.6050 (+0.1000)" in text_of(
        write_run_page(folder, run_progress(state="finished"))
    )
    for update, value in ((0, 0.4), (8, 0.7)):
        append_row(folder.test_scores, {"update": update, "num_prompts": 2, "scores": {OBJECTIVE: [value, value]}})
    path = write_run_page(folder, run_progress(state="finished"))
    assert "location.reload" not in path.read_text()
    text = text_of(path)
    assert f"On test prompts, {OBJECTIVE} is 0.7000 (+0.3000) with the weights of update 8" in text
    assert f"{OBJECTIVE} 0.4000 0.7000 +0.3000" in text


def test_page_of_a_run_warns_while_preferred_images_become_less_likely(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one")
    train(folder, 0.5, 0.55, 0.6)
    for update, gain in enumerate((0.0, -0.1, -0.1, -0.2), start=9):
        row = {"update": update, "update/gradient_norm": 1.0, "gain/preferred": gain, "preference/margin": -2 * gain}
        append_row(folder.updates, row)
    text = text_of(write_run_page(folder, run_progress()))
    assert "preferred images became less likely while the margin grew" in text


def test_page_of_a_run_says_that_evaluations_sample_in_contrast(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one")
    train(folder, 0.5, 0.55, 0.6)
    assert "in contrast with" not in text_of(write_run_page(folder, run_progress()))
    given = ["model.lora={rank: 4}", "evaluation.rl_guidance=1.5", "evaluation.contrast_with=runs/other"]
    folder.config.write_text(to_yaml(load_run([folder.config], given)))
    said = "Evaluations sample trained weights with evaluation.rl_guidance=1.5 in contrast with `other`; the weights"
    assert said in text_of(write_run_page(folder, run_progress()))


def test_page_of_a_run_that_has_written_nothing_yet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "one")
    folder.make()
    assert "In progress: update 0 of 8" in text_of(write_run_page(folder, run_progress()))
    assert "Failed: update 0 of 8" in text_of(write_run_page(folder, run_progress(state="failed", message="why")))
