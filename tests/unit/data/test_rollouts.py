"""Images of the base model in the cache: their addresses, their order, and what they depend on."""

from pathlib import Path

import pytest
import torch

from srpo_ray.config import load_run
from srpo_ray.data.mixture import SampleOrder
from srpo_ray.data.prompts import prompt_indices
from srpo_ray.data.rollouts import Item, RolloutCache
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.base_rollouts import sample_missing
from tests.conftest import SMALL_WORLD

ITEMS = [Item(f"prompt {number}", copy) for copy in range(2) for number in range(10)]


def cache_of(root: Path, *overrides: str) -> RolloutCache:
    return RolloutCache(load_run([SMALL_WORLD], [f"run_root={root}", "rollout.source=base_model", *overrides]))


def test_each_epoch_takes_another_image_of_a_prompt_until_all_are_used() -> None:
    prompts, order = 6, SampleOrder(2, 6, image_ratio=0.25, images_per_prompt=3)
    drawn = [index - 2 for update in range(16) for index in order.indices(update, 4, seed=5) if index >= 2]
    expected = [index for update in range(16) for index in prompt_indices(prompts, update, 3, seed=5)]
    assert [number % prompts for number in drawn] == expected
    for epoch in range(8):
        assert {number // prompts for number in drawn[epoch * prompts : (epoch + 1) * prompts]} == {epoch % 3}


@pytest.mark.parametrize(
    "change",
    [
        "rollout.num_steps=13",
        "rollout.shift=1.0",
        "rollout.guidance_scale=2.0",
        "rollout.seed=1",
        "model.dtype=bfloat16",
        "model.resolution=32",
        "model.max_sequence_length=8",
        "model.truncate_sigma=true",
    ],
)
def test_whatever_changes_an_image_has_another_cache(change: str, tmp_path: Path) -> None:
    assert cache_of(tmp_path, change).store.folder != cache_of(tmp_path).store.folder


def test_trials_of_a_sweep_share_one_cache(tmp_path: Path) -> None:
    others = ("seed=4", "training.optimizer.lr=1e-3", "algorithm.control_words=vivid", "training.num_updates=7")
    others += ("rollout.images_per_prompt=3", "training.batch_size=4", "evaluation.num_steps=3", "model.lora.rank=4")
    assert cache_of(tmp_path, *others).store.folder == cache_of(tmp_path).store.folder


def test_noise_of_an_image_depends_on_its_prompt_and_number_alone(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    draws = {
        item: torch.rand(1, generator=source).item() for item, source in zip(ITEMS, cache.noises(ITEMS), strict=True)
    }
    assert len(set(draws.values())) == len(ITEMS)
    for item, source in zip(ITEMS[::-3], cache.noises(ITEMS[::-3]), strict=True):
        assert torch.rand(1, generator=source).item() == draws[item]


def number_of(item: Item) -> float:
    return float(item.text.split()[1]) + 100 * item.copy


def tokens_of(items: list[Item]) -> torch.Tensor:
    return torch.stack([torch.full((2, 3), number_of(item)) for item in items])


def test_images_that_another_run_writes_meanwhile_are_not_sampled_again(tmp_path: Path) -> None:
    config = load_run([SMALL_WORLD], [f"run_root={tmp_path}", "rollout.source=base_model", "training.batch_size=4"])
    cache, folder, sampled = RolloutCache(config), RunFolder(tmp_path / "run"), []
    folder.make()
    items = [Item(f"prompt {number}", 0) for number in range(48)]

    def sample(part: list[Item]) -> torch.Tensor:
        if not sampled:
            RolloutCache(config).add(items[16:40], tokens_of(items[16:40]))
        sampled.extend(part)
        return tokens_of(part)

    sample_missing(config, cache, items, sample, folder)  # pyright: ignore[reportArgumentType]
    assert sampled == items[:16] + items[40:]
    assert not folder.activity.exists()
    assert cache.missing(items) == []
    found = cache.tokens({7 * place: item for place, item in enumerate(items)})
    assert found[[21, 0, 7 * 47]][:, 0, 0].tolist() == [3, 0, 47]


def test_damaged_images_are_missing_again(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.add(ITEMS[:5], tokens_of(ITEMS[:5]))
    cache.add(ITEMS[5:], tokens_of(ITEMS[5:]))
    shard = sorted(cache.store.folder.glob("*"))[0]
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    with pytest.warns(UserWarning, match="was damaged"):
        missing = cache.missing(ITEMS)
    assert missing in (ITEMS[:5], ITEMS[5:])
