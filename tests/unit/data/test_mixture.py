from fractions import Fraction
from typing import Any, cast

import pytest
import torch

from srpo_ray.data.cache.shards import Rows
from srpo_ray.data.mixture import Prompts, real_samples, stack_rows

IMAGES, TEXTS = 5, 12


class Tokens:
    """Tokens of image i are all i."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"tokens": torch.tensor(indices)[:, None, None].expand(-1, 2, 3)}


def mixture(ratio: float) -> Prompts:
    texts = [f"text {number}" for number in range(TEXTS)]
    return Prompts(texts, cast(Any, None), cast(Rows, Tokens()), ratio)


@pytest.mark.parametrize("ratio", [Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(1, 3), Fraction(1)])
def test_every_micro_batch_has_the_same_number_of_real_images(ratio: Fraction) -> None:
    for size in (ratio.denominator, 2 * ratio.denominator):
        real = real_samples(6 * size, float(ratio))
        assert {sum(real[start : start + size]) for start in range(0, len(real), size)} == {size * ratio}


def test_images_and_prompts_have_separate_epochs() -> None:
    prompts = mixture(0.25)
    taken = [index for step in range(14) for index in prompts.indices(step, 4, seed=3)]
    images = [index for index in taken if index < IMAGES]
    rolled_out = [index - IMAGES for index in taken if index >= IMAGES]
    assert (len(images), len(rolled_out)) == (14, 42)
    assert sorted(images[:5]) == sorted(images[5:10]) == list(range(IMAGES))
    assert sorted(rolled_out[:7]) == sorted(rolled_out[7:14]) == list(range(TEXTS - IMAGES))
    assert [index for step in range(9, 14) for index in prompts.indices(step, 4, seed=3)] == taken[36:]


def test_tokens_are_those_of_the_captions_images() -> None:
    found = mixture(0.5).given_tokens([7, 3, 11, 0])
    assert {row: tokens.unique().tolist() for row, tokens in found.items()} == {1: [3], 3: [0]}
    assert mixture(0.5).given_tokens([7, 11]) == {}


def test_several_images_of_a_caption_come_with_their_labels() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    prompts = Prompts(["a", "b", "c"], cast(Any, None), cast(Rows, Tokens()), 0.5, labels=labels)
    assert prompts.num_real == 2
    tokens, found = prompts.given_tokens([2, 1, 0]), prompts.real_labels([2, 1, 0])
    assert {row: value[:, 0, 0].tolist() for row, value in tokens.items()} == {1: [2, 3], 2: [0, 1]}
    assert {row: value.tolist() for row, value in found.items()} == {1: [0.0, 1.0], 2: [1.0, 0.0]}
    assert tokens[1].shape == (2, 2, 3)
    assert mixture(0.5).real_labels([0, 1]) == {}


def test_rows_without_a_tensor_are_zeros_in_the_stack() -> None:
    stacked = stack_rows({1: torch.full((2, 3), 7.0)}, 3)
    assert stacked is not None
    assert stacked.tolist() == [[[0.0] * 3] * 2, [[7.0] * 3] * 2, [[0.0] * 3] * 2]
    assert stack_rows({}, 3) is None


def test_without_images_and_without_prompts_all_are_of_the_other_kind() -> None:
    assert min(mixture(1.0).indices(0, 4, seed=0)) < max(mixture(1.0).indices(0, 4, seed=0)) < IMAGES
    alone = Prompts(["a", "b"], cast(Any, None))
    assert sorted(alone.indices(0, 2, seed=0)) == [0, 1]
    assert alone.given_tokens([0, 1]) == {}
