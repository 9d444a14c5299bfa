"""Runs of the small world whose training, evaluation and test have images of different heights and widths."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from srpo_ray.config import RunConfig, apply
from srpo_ray.flow import generator, shift_at, shifted_sigmas
from srpo_ray.inference.job import SamplingOptions
from srpo_ray.inference.sample import sample_run
from srpo_ray.launch.fit import fit_here
from srpo_ray.launch.preflight import check_inputs, open_run_folder
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text_encoders import encode_prompts
from srpo_ray.models.trainable import make_policy
from srpo_ray.runs.folder import RunFolder, load_images, read_rows
from tests.helpers.training.ranks import run_ranks

SETTINGS = {
    "rewards.in_process": True,
    "training.num_updates": 2,
    "training.optimizer.lr": 1e-4,
    "rollout.shift": "resolution",
    "evaluation.cache": False,
}
PROMPTS = ["a red circle on a gray background", "a blue square on a black background"]
TESTED = ["a green star on a white background"]


class Rows:
    """Process that receives rows."""

    def report(self, row: dict[str, Any]) -> None:
        pass

    def leaving_nodes(self) -> frozenset[str]:
        return frozenset()


def train(config: RunConfig) -> RunFolder:
    check_inputs(config)
    folder = open_run_folder(config, Path(config.run_root) / config.name)
    fit_here(config, folder, None, Rows(), name=config.name, commit=None)
    return folder


def with_files(config: RunConfig, **changes: Any) -> RunConfig:
    """The run with prompts of files: the truth of the small world is measured at its own size alone."""
    root = Path(config.run_root)
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    (root / "test.txt").write_text("\n".join(TESTED))
    prompts = {"evaluation.prompts": str(root / "prompts.txt"), "evaluation.test.prompts": str(root / "test.txt")}
    return apply(config, {**SETTINGS, **prompts, **changes})


def drawn(config: RunConfig, size: tuple[int, int]) -> Tensor:
    """Images of the base model for the evaluation's prompts and noise, in a plain loop at one size."""
    transformer = load_transformer("small_world", torch.float32)
    policy = make_policy(apply(config, {"model.resolution": size}), transformer, transformer.config, "cpu")
    noise = [torch.randn(policy.token_shape, generator=generator(1234, "evaluate", item)) for item in range(2)]
    sigmas = shifted_sigmas(config.evaluation.num_steps, shift_at("resolution", size[0] * size[1] // 256))
    conditioning = encode_prompts(resolve_path("small_world"), PROMPTS, 16)
    with torch.no_grad():
        tokens = policy.integrate(torch.stack(noise), conditioning, sigmas, config.evaluation.guidance_scale)
        return policy.decode(tokens)


def train_apart(config: RunConfig) -> dict[str, Any]:
    sizes = {"model.resolution": [48, 32], "evaluation.resolution": [64, 96], "evaluation.test.resolution": 80}
    config = with_files(config, **sizes)
    folder = train(config)
    base, tuned = load_images(folder.base_images), load_images(folder.tuned_images)
    options = SamplingOptions(num_steps=2)
    sample_run(folder.path, PROMPTS, folder.path / "own", options=options)
    sample_run(folder.path, PROMPTS, folder.path / "asked", options=SamplingOptions(num_steps=2, resolution=(32, 80)))
    return {
        "base": torch.stack([base[index] for index in range(2)]),
        "tuned": torch.stack([tuned[index] for index in range(2)]),
        "expected": drawn(config, (64, 96)),
        "gallery": Image.open(folder.gallery).size,
        "drift": read_rows(folder.evaluations)[-1]["image/drift"],
        "tests": [row["update"] for row in read_rows(folder.test_scores)],
        "samples": [Image.open(folder.path / name / "images" / "00000_0_tuned.png").size for name in ("own", "asked")],
    }


def test_run_is_trained_evaluated_and_tested_at_three_sizes(tiny_run: RunConfig, tmp_path: Path) -> None:
    found = run_ranks(train_apart, 1, tmp_path, tiny_run)
    torch.testing.assert_close(found["base"], found["expected"], rtol=0, atol=1e-5)
    assert found["tuned"].shape == (2, 3, 64, 96)
    assert found["drift"] > 0
    assert found["tests"] == [0, 2]
    # Two pairs of images 192 pixels wide in a row.
    assert found["gallery"][0] > 4 * 192
    assert found["samples"] == [(96, 64), (80, 32)]


def train_small(config: RunConfig) -> dict[str, Any]:
    """Train at 32 pixels and evaluate at 64, where the truth is measured."""
    changes = {**SETTINGS, "model.resolution": 32, "evaluation.resolution": 64, "evaluation.test": None}
    folder = train(apply(config, changes))
    whole = train(apply(config, {**changes, "name": "large", "model.resolution": 64}))
    rows = [read_rows(each.evaluations) for each in (folder, whole)]
    kept = [[{key: row[key] for key in row if not key.startswith("time/")} for row in each] for each in rows]
    return {"small": kept[0], "large": kept[1]}


def test_base_model_scores_the_same_whatever_the_size_of_the_training(tiny_run: RunConfig, tmp_path: Path) -> None:
    found = run_ranks(train_small, 1, tmp_path, tiny_run)
    small, large = found["small"], found["large"]
    assert small[0] == large[0]
    assert "truth/content_accuracy" in small[0]
    assert small[-1]["update"] == 2
    assert small[-1] != large[-1]
