"""Runs of the small world whose training, evaluation and test have images of different heights and widths."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch import distributed as dist

from srpo_ray.config import RunConfig, apply
from srpo_ray.config.continuation import run_identity
from srpo_ray.config.size import ImageSize
from srpo_ray.data.images import load_images as load_real_images
from srpo_ray.data.pairs import load_judged
from srpo_ray.data.sizes import prompt_size
from srpo_ray.flow import generator, shift_at, shifted_sigmas
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.inference.sample import sample_run
from srpo_ray.launch.fit_here import fit_here
from srpo_ray.launch.preflight import check_inputs, open_run_folder
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text_encoders import encode_prompts
from srpo_ray.models.trainable import make_policy
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.checkpoint import load_checkpoint
from srpo_ray.runs.folder import RunFolder, load_images, read_rows
from srpo_ray.runs.storage import Storage
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from tests.helpers.training.ranks import joined, run_ranks

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
    sample_run(open_run(folder.path), PROMPTS, folder.path / "own", options=options)
    sample_run(
        open_run(folder.path), PROMPTS, folder.path / "asked", options=SamplingOptions(num_steps=2, resolution=(32, 80))
    )
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


SEVERAL = [(32, 48), 32, (64, 32)]
MANY = [
    f"a {color} {shape} on a {ground} background"
    for color in ("red", "blue")
    for shape in ("circle", "star")
    for ground in ("gray", "black")
]


def run_of_several_sizes(config: RunConfig, workers: int, **changes: Any) -> RunConfig:
    (Path(config.run_root) / "train.txt").write_text("\n".join(MANY))
    several = {
        "model.resolution": None,
        "model.sizes": SEVERAL,
        "evaluation.resolution": 64,
        "evaluation.test": None,
        "data.prompts": str(Path(config.run_root) / "train.txt"),
        "training.num_workers": workers,
        "training.micro_batch_size": 1,
        "training.zero_stage": 3,
        "name": f"workers_{workers}",
    }
    return apply(config, {**SETTINGS, **several, **changes})


def train_several(config: RunConfig, workers: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Make two updates; the weights, and what each sample of this run was sampled from and to."""
    config = run_of_several_sizes(config, workers, **changes)
    check_inputs(config)
    folder = RunFolder(Path(config.run_root) / config.name)
    folder.make()
    trainer = build_trainer(config, folder, LocalRewards.load(config.rewards.models), "cpu", None)
    seen: dict[str, Any] = {}
    for batch, _, collected in trainer.collect(0):
        assert batch.size is not None
        if hasattr(collected, "clean"):
            seen[f"clean {batch.prompts[0]}"] = collected.clean
        seen[batch.prompts[0]] = torch.tensor(batch.size)
    for update in range(2):
        trainer.update(update)
    weights = {name: value.clone() for name, value in trainer.engine.weights().items()}
    return {"weights": joined(weights), "seen": joined(seen)}


DANCE = {
    "algorithm": {"type": "dance_grpo", "group_size": 2},
    "rollout.shift": 3.0,
}


@pytest.mark.parametrize("changes", [{}, DANCE], ids=["srpo", "dance_grpo"])
def test_workers_with_different_sizes_in_an_update_train_as_one(
    changes: dict[str, Any], tiny_run: RunConfig, tmp_path: Path
) -> None:
    alone = run_ranks(train_several, 1, tmp_path, tiny_run, 1, changes)
    together = run_ranks(train_several, 2, tmp_path, tiny_run, 2, changes)
    sizes = {prompt: tuple(size.tolist()) for prompt, size in alone["seen"].items() if prompt in MANY}
    assert sizes == {prompt: prompt_size(prompt, [ImageSize.of(size) for size in SEVERAL], 0) for prompt in sizes}
    assert len(set(sizes.values())) > 1
    assert alone["seen"].keys() == together["seen"].keys()
    for name, value in alone["seen"].items():
        torch.testing.assert_close(together["seen"][name], value, rtol=1e-4, atol=1e-5)
    for name, value in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], value, rtol=1e-4, atol=1e-6)


def train_on_images(config: RunConfig, workers: int) -> dict[str, Any]:
    """Make an update on real images of the nearest sizes; the clean tokens of each, and those of its encoded crop."""
    root = Path(config.run_root) / "images"
    if dist.get_rank() == 0:
        root.mkdir(exist_ok=True)
        for number, (height, width) in enumerate([(60, 90), (50, 50), (90, 40), (33, 36)]):
            colors = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(number))
            Image.fromarray((colors * 255).byte().numpy()).save(root / f"{number}.png")
            (root / f"{number}.txt").write_text(f"image {number}")
    dist.barrier()
    config = run_of_several_sizes(config, workers, **{"data.images": str(root), "training.batch_size": 4})
    folder = RunFolder(Path(config.run_root) / config.name)
    folder.make()
    trainer = build_trainer(config, folder, LocalRewards.load(config.rewards.models), "cpu", None)
    seen: dict[str, Any] = {}
    images = load_real_images(str(root))
    for batch, _, collected in trainer.collect(0):
        number = int(batch.prompts[0].rpartition(" ")[2])
        assert batch.size is not None
        seen[f"size {number}"] = torch.tensor(batch.size)
        seen[f"clean {number}"] = collected.clean[0]
        seen[f"expected {number}"] = trainer.policy.encode(images.load([number], batch.size))[0]
    trainer.update(0)
    return {
        "weights": joined({name: value.clone() for name, value in trainer.engine.weights().items()}),
        **joined(seen),
    }


def test_real_images_train_at_the_nearest_size_on_one_worker_as_on_two(tiny_run: RunConfig, tmp_path: Path) -> None:
    alone = run_ranks(train_on_images, 1, tmp_path, tiny_run, 1)
    together = run_ranks(train_on_images, 2, tmp_path, tiny_run, 2)
    nearest = [(32, 48), (32, 32), (64, 32), (32, 32)]
    for found in (alone, together):
        assert [tuple(found[f"size {number}"].tolist()) for number in range(4)] == nearest
        for number in range(4):
            torch.testing.assert_close(found[f"clean {number}"], found[f"expected {number}"], rtol=1e-4, atol=1e-4)
    for name, value in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], value, rtol=1e-4, atol=1e-6)


PAIR = {"type": "preference", "draws": 2}
SHAPES = {
    "wide": (60, 90),
    "wider": (30, 50),
    "nearly": (50, 66),
    "square": (50, 50),
    "tall": (90, 40),
    "high": (80, 40),
}
PAIRS = [("nearly", "wider"), ("square", "nearly"), ("tall", "high"), ("nearly", "square")]
PAIR_SIZES = [(32, 48), (32, 32), (64, 32), (32, 32)]
"""Size of each pair. Alone, the image `nearly` is nearest to the wide size; with a square one, to a square."""


def write_pairs(root: Path, pairs: list[tuple[str, str]]) -> str:
    """Write images of random pixels, and a file of pairs of them."""
    root.mkdir(exist_ok=True)
    for number, (name, shape) in enumerate(SHAPES.items()):
        colors = torch.rand(*shape, 3, generator=torch.Generator().manual_seed(number))
        Image.fromarray((colors * 255).byte().numpy()).save(root / f"{name}.png")
    rows = [
        {"preferred": f"{first}.png", "other": f"{second}.png", "prompt": f"pair {number}"}
        for number, (first, second) in enumerate(pairs)
    ]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(root / "pairs.jsonl")


def pairs_trainer(config: RunConfig, workers: int, *, resume: bool = False, **changes: Any) -> Trainer:
    pairs = {"algorithm": PAIR, "rollout.shift": 3.0, "training.batch_size": 4, "data.prompts": "small_world:train"}
    config = run_of_several_sizes(config, workers, **{**pairs, **changes})
    check_inputs(config)
    folder = RunFolder(Path(config.run_root) / config.name)
    folder.make()
    checkpoint = load_checkpoint(Storage(folder.checkpoints), run_identity(config)) if resume else None
    return build_trainer(config, folder, LocalRewards.load(config.rewards.models), "cpu", checkpoint)


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.engine.weights().items()}


def train_on_pairs(config: RunConfig, workers: int) -> dict[str, Any]:
    """Make two updates on pairs of the nearest sizes; the second one once more after a restart."""
    root = Path(config.run_root) / "images"
    if dist.get_rank() == 0:
        write_pairs(root, PAIRS)
    dist.barrier()
    source: dict[str, Any] = {"data.pairs": str(root / "pairs.jsonl")}
    trainer, seen = pairs_trainer(config, workers, **source), dict[str, Any]()
    judged = load_judged(str(root / "pairs.jsonl"), "pairs")
    for batch, _ in trainer.batches(0):
        number = int(batch.prompts[0].rpartition(" ")[2])
        assert batch.size is not None
        assert batch.images is not None
        seen[f"size {number}"] = torch.tensor(batch.size)
        seen[f"given {number}"] = batch.images[0]
        seen[f"expected {number}"] = trainer.policy.encode(
            judged.images.load(judged.rows[number].images, batch.size.resolution)
        )
    trainer.update(0)
    trainer.save(1)
    trainer.update(1)
    found = {"weights": joined(weights_of(trainer)), **joined(seen)}
    resumed = pairs_trainer(config, workers, resume=True, **source)
    resumed.update(1)
    return {**found, "resumed": joined(weights_of(resumed))}


def test_pairs_train_at_the_size_of_both_images_on_one_worker_as_on_two(tiny_run: RunConfig, tmp_path: Path) -> None:
    alone = run_ranks(train_on_pairs, 1, tmp_path, tiny_run, 1)
    together = run_ranks(train_on_pairs, 2, tmp_path, tiny_run, 2)
    for found in (alone, together):
        assert [tuple(found[f"size {number}"].tolist()) for number in range(4)] == PAIR_SIZES
        for number in range(4):
            torch.testing.assert_close(found[f"given {number}"], found[f"expected {number}"], rtol=1e-4, atol=1e-4)
        for name, value in found["weights"].items():
            assert torch.equal(found["resumed"][name], value)
    for name, value in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], value, rtol=1e-4, atol=1e-6)


def train_at_one_size(config: RunConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """Make two updates on pairs that all have the wide size; the second one has gains, and the weights."""
    source = write_pairs(Path(config.run_root) / "images", [PAIRS[0], ("wide", "wider")])
    trainer = pairs_trainer(config, 1, **{"data.pairs": source, "training.batch_size": 2, **changes})
    trainer.update(0)
    metrics = {name: value for name, value in trainer.update(1).items() if name.startswith(("gain/", "error/", "loss"))}
    return {"metrics": metrics, "weights": weights_of(trainer)}


def test_pairs_of_one_size_train_among_several_as_they_do_alone(tiny_run: RunConfig, tmp_path: Path) -> None:
    several = run_ranks(train_at_one_size, 1, tmp_path, tiny_run, {"name": "several"})
    one = {"name": "one", "model.sizes": None, "model.resolution": (32, 48)}
    alone = run_ranks(train_at_one_size, 1, tmp_path, tiny_run, one)
    assert several["metrics"] == alone["metrics"]
    assert alone["metrics"]["gain/preferred"] != 0
    assert all(torch.equal(several["weights"][name], value) for name, value in alone["weights"].items())
