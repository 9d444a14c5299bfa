"""Micro-batches of a worker: which samples and images each has, and the clean images and labels of its rows."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import Batch
from srpo_ray.config.algorithms.base import Calls
from srpo_ray.config.training import TrainingConfig
from srpo_ray.data.cache.shards import Rows
from srpo_ray.data.mixture import Prompts
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.training.rollouts import KeptRollouts
from srpo_ray.training.trainer import Trainer

TEXTS = 8


class Tokens:
    """Tokens `[2, 3]` of image i are all i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"tokens": torch.tensor(indices, dtype=torch.float32)[:, None, None].expand(-1, 2, 3)}


def features(offset: int) -> Conditioning:
    numbers = torch.arange(TEXTS, dtype=torch.float32) + offset
    return Conditioning(numbers[:, None, None], numbers[:, None])


def batches(prompts: Prompts, calls: Calls, training: TrainingConfig, rank: int, world_size: int) -> list[Any]:
    trainer: Any = SimpleNamespace(
        config=SimpleNamespace(training=training, seed=3),
        algorithm=SimpleNamespace(calls=calls),
        prompts=prompts,
        rollouts=KeptRollouts(1),
        policy=SimpleNamespace(device="cpu", dtype=torch.float32),
        rank=rank,
        world_size=world_size,
    )
    trainer._batch = lambda *arguments: Trainer._batch(trainer, *arguments)
    return list(Trainer.batches(trainer, 5))


def prompts_with(images: int, ratio: float, **more: Any) -> Prompts:
    texts = [str(number) for number in range(TEXTS)]
    return Prompts(texts, features(0), cast(Rows, Tokens(images)) if images else None, ratio, **more)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_image_of_every_prompt_counts_once_on_any_number_of_workers(world_size: int) -> None:
    training = TrainingConfig(batch_size=4, micro_batch_size=2)
    calls = Calls(1.0, images_per_prompt=6, passes_per_prompt=3)
    counted: dict[tuple[int, int], float] = {}
    passes = []
    for rank in range(world_size):
        mine = batches(prompts_with(0, 1.0), calls, training, rank, world_size)
        passes.append(len(mine))
        for batch, share in mine:
            assert len(batch.prompts) == len(batch.conditioning) == 4
            for image in batch.draws.images:
                counted[image] = counted.get(image, 0.0) + share / world_size
    assert counted == {(sample, child): pytest.approx(1 / 6) for sample in range(4) for child in range(6)}
    assert passes == [-(-6 // world_size)] * world_size


def test_workers_that_share_images_have_the_same_batches_and_draws_with_the_gradient_of_one_worker() -> None:
    training = TrainingConfig(batch_size=4, micro_batch_size=1, num_workers=4, context_parallel=2)
    found = [batches(prompts_with(0, 1.0), Calls(1.0), training, rank, 4) for rank in range(4)]
    samples = [[batch.draws.samples for batch, _ in mine] for mine in found]
    assert samples == [[(0,), (1,)]] * 2 + [[(2,), (3,)]] * 2
    assert [{batch.draws.worker for batch, _ in mine} for mine in found] == [{0}, {0}, {1}, {1}]
    # The two workers of a group each have a part of a gradient, and DeepSpeed divides by all four: 1/4 = 1/4 * share.
    assert {share for mine in found for _, share in mine} == {1.0}


def test_rows_of_a_sample_have_its_prompt_and_features() -> None:
    calls = Calls(1.0, images_per_prompt=2)
    ((batch, _),) = batches(prompts_with(0, 1.0), calls, TrainingConfig(batch_size=3), 0, 1)
    assert batch.draws.images == [(sample, child) for sample in range(3) for child in range(2)]
    assert batch.prompts[0::2] == batch.prompts[1::2]
    assert batch.conditioning.pooled_prompt_embeds[:, 0].tolist() == [float(text) for text in batch.prompts]
    assert (batch.images, batch.labels, batch.image_rows, batch.other_conditioning) == (None, None, (), None)


def one_batch(prompts: Prompts, size: int) -> Batch:
    ((batch, _),) = batches(prompts, Calls(1.0), TrainingConfig(batch_size=size), 0, 1)
    return batch


def test_one_real_image_takes_its_rows_place_and_the_others_have_none() -> None:
    batch = one_batch(prompts_with(5, 0.5), 4)
    assert batch.images is not None
    assert batch.images.shape == (4, 1, 2, 3)
    assert len(batch.image_rows) == 2
    for row, prompt in enumerate(batch.prompts):
        number = float(prompt)
        assert (number < 5) == (row in batch.image_rows)
        assert batch.images[row].unique().tolist() == [number if number < 5 else 0.0]
    assert batch.labels is None


def test_pairs_come_with_labels_and_another_caption() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.25]])
    prompts = prompts_with(6, 1.0, labels=labels, other_conditioning=features(100))
    batch = one_batch(prompts, 3)
    assert batch.images is not None
    assert batch.labels is not None
    assert batch.other_conditioning is not None
    assert batch.image_rows == (0, 1, 2)
    for row, prompt in enumerate(batch.prompts):
        assert batch.images[row, :, 0, 0].tolist() == [2 * int(prompt), 2 * int(prompt) + 1]
        assert batch.labels[row].tolist() == labels[int(prompt)].tolist()
        assert batch.other_conditioning.pooled_prompt_embeds[row].item() == 100 + int(prompt)
