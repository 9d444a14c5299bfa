"""Choice of the weights that stand for a run, and their evaluation on the test prompts."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from srpo_ray.config import RunConfig, load_run
from srpo_ray.evaluation.reward_hacking import Scored
from srpo_ray.runs.checkpoint import Checkpoint, save_checkpoint
from srpo_ray.runs.folder import CHECKPOINT_DAMAGED, RunFolder, append_row, read_rows, read_test_means
from srpo_ray.runs.storage import Storage
from srpo_ray.search.selection import read_row
from srpo_ray.training.early_stop import agreed_decision, ranked_updates
from srpo_ray.training.run import TrainingRun
from tests.conftest import SMALL_WORLD

BEST = ["evaluation.choose=best"]
TEST = ["evaluation.test={}"]
SCORES = {0: 0.5, 10: 0.7, 20: 0.6}
"""Update -> held-out score; the last evaluation is not the best."""


def evaluated(update: int, **scores: float) -> Scored:
    """An evaluation of two images that score alike."""
    return Scored(update, 1, {name.replace("__", "/"): [score, score] for name, score in scores.items()})


def ranked(config: RunConfig, *history: Scored) -> tuple[int, ...]:
    return ranked_updates(history, config)


def test_best_evaluation_is_that_of_the_first_held_out_model() -> None:
    second = "evaluation.held_out=[{name: a, type: open_clip, path: x/a}, {name: b, type: open_clip, path: x/b}]"
    config = load_run([SMALL_WORLD], [*BEST, second])
    history = [evaluated(0, evaluator__a=0.1, evaluator__b=0.9), evaluated(5, evaluator__a=0.2, evaluator__b=0.0)]
    assert ranked(config, *history) == (5, 0)


def test_best_evaluation_follows_the_objective_and_the_earliest_of_equals_comes_first() -> None:
    config = load_run([SMALL_WORLD], [*BEST, "evaluation.objective=truth/content_accuracy"])
    history = [evaluated(update, truth__content_accuracy=value) for update, value in ((0, 0.9), (5, 0.8), (9, 0.9))]
    assert ranked(config, *history) == (0, 9, 5)


def test_score_that_is_not_finite_is_never_the_best() -> None:
    config = load_run([SMALL_WORLD], [*BEST, "evaluation.objective=image/contrast"])
    history = [evaluated(update, image__contrast=value) for update, value in ((0, math.nan), (5, 0.1), (9, math.inf))]
    assert ranked(config, *history)[0] == 5


def test_objective_that_no_evaluation_has_is_named_with_those_that_there_are() -> None:
    config = load_run([SMALL_WORLD], [*BEST, "evaluation.objective=image/sharpness"])
    with pytest.raises(ValueError, match=r"evaluation\.objective: .*\(image/contrast\), got 'image/sharpness'"):
        ranked(config, evaluated(0, image__contrast=0.2))


class Recorder:
    """Trainer that records which weights are evaluated; a test scores `update` + 0.5."""

    def __init__(self, folder: RunFolder, update: int, *, tested: bool = True) -> None:
        self.folder, self.update = folder, update
        self.tester = object() if tested else None
        self.seen: list[tuple[int, int]] = []
        """For each test: the update that it was made for, and the update whose weights were in the model."""

    def load_for_evaluation(self, checkpoint: Checkpoint) -> None:
        self.update = int(checkpoint.weights["a"][0])

    def test_base(self) -> None:
        self.update = 0
        self.test(0)

    def test(self, update: int) -> None:
        self.seen.append((update, self.update))
        scores = {"evaluator/held_out": [self.update + 0.5]}
        append_row(self.folder.test_scores, {"update": update, "num_prompts": 1, "scores": scores})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of 20 updates with a checkpoint of each evaluation, at its last update."""
    folder = RunFolder(tmp_path / "run")
    folder.make()
    for update, score in SCORES.items():
        scores = {"evaluator/held_out": [score, score + 0.1], "truth/content_accuracy": [1 - update / 1000] * 2}
        scores["reward/total/trained"] = [update + 1.0, update + 1.1]
        append_row(folder.scores, {"update": update, "num_prompts": 2, "scores": scores})
        append_row(folder.evaluations, {"update": update, "evaluator/held_out": score + 0.05})
        if update:
            weights = {"a": torch.full((4,), float(update))}
            save_checkpoint(Storage(folder.checkpoints), update, weights, {}, {}, {}, kept=2)
    return folder


def started(folder: RunFolder, *overrides: str, tested: bool = True) -> tuple[TrainingRun, Recorder]:
    """The run after its last update, and its trainer, with the last weights in its model."""
    config = load_run([SMALL_WORLD], ["training.num_updates=20", *overrides])
    trainer = Recorder(folder, 20, tested=tested)
    tracker: Any = SimpleNamespace(logged=[], close=lambda _: None, log_text=lambda *_: None)
    tracker.log_metrics = lambda metrics, update: tracker.logged.append((metrics, update))
    run = TrainingRun(
        config, folder, cast(Any, None), cast(Any, trainer), tracker, 20, decision=agreed_decision(folder, config)
    )
    return run, trainer


def test_best_weights_are_loaded_and_tested_and_are_those_of_the_run(folder: RunFolder) -> None:
    run, trainer = started(folder, *BEST, *TEST)
    best = run.test_chosen(20)
    assert (best, trainer.seen) == (10, [(10, 10)])
    folder.config.write_text("name: run\n")
    run.finish(20, best)
    assert cast(Any, run.tracker).logged == [({"test/evaluator/held_out": 10.5}, 10)]
    assert (folder.best_update, folder.stopped_by_hacking) == (10, False)


def test_last_weights_are_tested_without_a_choice(folder: RunFolder) -> None:
    run, trainer = started(folder, *TEST)
    assert run.test_chosen(20) is None
    assert trainer.seen == [(20, 20)]


def test_start_after_an_interrupted_test_tests_the_same_weights_and_repeats_none(folder: RunFolder) -> None:
    append_row(folder.test_scores, {"update": 0, "num_prompts": 1, "scores": {"evaluator/held_out": [0.25, 0.75]}})
    run, trainer = started(folder, *BEST, *TEST)
    run.test_chosen(20)
    again, next_trainer = started(folder, *BEST, *TEST)
    assert again.test_chosen(20) == 10
    again.test(0)
    assert (trainer.seen, next_trainer.seen) == ([(10, 10)], [])
    folder.config.write_text("name: run\n")
    again.finish(20, 10)
    # Two metrics of one name: the later step must come last.
    assert cast(Any, again.tracker).logged == [
        ({"test/evaluator/held_out": 0.5}, 0),
        ({"test/evaluator/held_out": 10.5}, 10),
    ]


@pytest.mark.parametrize("damage", ["lost", "cut short"])
def test_damaged_best_checkpoint_is_replaced_by_the_next_best_that_is_valid(folder: RunFolder, damage: str) -> None:
    best = Path(folder.checkpoints) / "update_000010"
    if damage == "lost":
        shutil.rmtree(best)
    else:
        file = best / "weights-00000.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
    run, trainer = started(folder, *BEST, *TEST)
    assert run.test_chosen(20) == 20
    assert trainer.seen == [(20, 20)]
    events = [(row["event"], row["update"]) for row in read_rows(folder.events)]
    assert events == ([] if damage == "lost" else [(CHECKPOINT_DAMAGED, 10)])


def test_base_model_that_no_update_improves_on_is_chosen_without_a_checkpoint(folder: RunFolder) -> None:
    run, trainer = started(folder, *BEST, *TEST, "evaluation.objective=truth/content_accuracy")
    assert run.test_chosen(20) == 0
    assert trainer.seen == []
    run.test(0)
    assert trainer.seen == [(0, 0)]


def test_run_without_test_prompts_keeps_its_best_update_and_tests_nothing(folder: RunFolder) -> None:
    run, trainer = started(folder, *BEST, tested=False)
    assert (run.test_chosen(20), trainer.seen) == (10, [])
    assert not folder.test_scores.exists()


def test_run_that_reward_hacking_stopped_is_tested_with_its_best_weights(folder: RunFolder) -> None:
    run, trainer = started(folder, *TEST, "evaluation.hacking.action=stop", "evaluation.hacking.noise=0")
    assert run.decision.stop
    assert run.test_chosen(20) == 10
    assert trainer.seen == [(10, 10)]


def test_means_on_the_test_prompts_are_in_the_row_of_a_finished_run_only(folder: RunFolder) -> None:
    folder.config.write_text(SMALL_WORLD.read_text())
    for update, scores in ((0, [0.25, 0.75]), (10, [0.5, 1.0])):
        append_row(folder.test_scores, {"update": update, "num_prompts": 2, "scores": {"evaluator/held_out": scores}})
    assert read_test_means(folder) == [
        {"update": 0, "evaluator/held_out": 0.5},
        {"update": 10, "evaluator/held_out": 0.75},
    ]
    assert read_row(folder, "repeat", "", {}, 1, None).test_change("evaluator/held_out") is None
    folder.finished.write_text('{"updates": 20, "best_update": 10}')
    row = read_row(folder, "repeat", "", {}, 1, None)
    assert (row.status, row.test_change("evaluator/held_out")) == ("finished", 0.25)
    assert row.value("evaluator/held_out") == pytest.approx(0.75)
    assert row.test_change("evaluator/other") is None
