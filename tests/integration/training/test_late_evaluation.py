"""Evaluation of the weights before the first update, after that update: the bits of one before it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_ray.config import RunConfig, apply
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder, load_images, read_rows
from srpo_ray.training.setup import build_trainer
from tests.helpers.training.ranks import run_ranks


def evaluate_and_update(config: RunConfig, path: str, late: bool) -> dict[str, Any]:
    """Evaluate the base model before or after the first update, then make the second one and evaluate again."""
    folder = RunFolder(path)
    folder.make()
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    trainer = build_trainer(config, folder, rewards, "cpu", None)
    if late:
        trainer.engine.keep_start()
        updates = [trainer.update(0)]
        trainer.evaluate(0)
    else:
        trainer.evaluate(0)
        updates = [trainer.update(0)]
    assert not trainer.engine.keeps_start
    updates.append(trainer.update(1))
    trainer.evaluate(2)
    rows = [*updates, *read_rows(folder.evaluations)]
    return {
        "rows": [{name: row[name] for name in row if not name.startswith(("time/", "memory/"))} for row in rows],
        "images": load_images(folder.base_images),
    }


@pytest.mark.parametrize(
    ("changes", "workers"),
    [
        ({"training.ema.decay": 0.5}, 1),
        ({"model.lora.rank": 4, "training.ema.decay": 0.5, "training.num_workers": 2}, 2),
        ({"training.num_workers": 2, "training.zero_stage": 3}, 2),
    ],
    ids=["all weights", "adapters of two workers", "sharded weights"],
)
def test_evaluation_after_the_first_update_has_the_bits_of_one_before_it(
    changes: dict[str, Any], workers: int, tiny_run: RunConfig, tmp_path: Path
) -> None:
    config = apply(tiny_run, {**changes, "evaluation.cache": False, "training.optimizer.lr": 1e-2})
    cached = apply(config, {"evaluation.cache": True})
    # The last one finds in the cache what the one before has written.
    early, late, writes, reads = (
        run_ranks(evaluate_and_update, workers, tmp_path, each, str(tmp_path / name), name != "early")
        for name, each in (("early", config), ("late", config), ("writes", cached), ("reads", cached))
    )
    assert late["rows"] == early["rows"]
    assert writes["rows"] == early["rows"]
    assert reads["rows"] == early["rows"]
    assert [row["update"] for row in late["rows"][2:]] == [0, 2]
    assert late["rows"][2]["reward/total"] != late["rows"][3]["reward/total"]
    assert list(late["images"]) == list(early["images"])
    assert all(torch.equal(late["images"][index], image) for index, image in early["images"].items())
