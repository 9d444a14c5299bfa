"""Choice of pairs, against enumeration of all images, image by image."""

from itertools import permutations

import pytest
import torch

from srpo_ray.algorithms.pair_choice import SELECTIONS, choose_pairs

WEIGHTS = torch.tensor([1.0, 0.5, 2.0])


def rewards(seed: int, prompts: int = 40, images: int = 5) -> torch.Tensor:
    """Rewards on a coarse grid, so that there are ties."""
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (prompts, images, 3), generator=source).double() / 4


def votes(first: list[float], second: list[float]) -> int:
    """Rewards that prefer the first image, less those that prefer the second."""
    return sum((a > b) - (a < b) for a, b in zip(first, second, strict=True))


def total(image: list[float]) -> float:
    return sum(value * weight for value, weight in zip(image, WEIGHTS.tolist(), strict=True))


def enumerated(images: list[list[float]], selection: str, min_gap: float) -> set[tuple[int, int]]:
    """All pairs of a prompt that are as good as any other."""
    wins = [sum((net := votes(a, b)) and (1 if net > 0 else -1) for b in images) for a in images]
    orders: dict[tuple[int, int], float] = {}
    for i, j in permutations(range(len(images)), 2):
        gap = total(images[i]) - total(images[j])
        if selection == "vote":
            if votes(images[i], images[j]) > 0:
                orders[i, j] = wins[i] - wins[j]
        else:
            never_worse = all(a >= b for a, b in zip(images[i], images[j], strict=True))
            if gap > 0 and gap >= min_gap and (selection == "best_worst" or never_worse):
                orders[i, j] = gap
    return {pair for pair, order in orders.items() if order == max(orders.values())}


@pytest.mark.parametrize(
    ("selection", "min_gap"),
    [("vote", 0.0), ("best_worst", 0.0), ("best_worst", 1.0), ("dominance", 0.0), ("dominance", 1.0)],
)
def test_chosen_pairs_are_the_best_ones_of_all(selection, min_gap: float) -> None:
    scores = rewards(seed=3)
    choice = choose_pairs(scores, WEIGHTS, selection, min_gap)
    expected = [enumerated(images, selection, min_gap) for images in scores.tolist()]
    assert choice.valid.tolist() == [bool(pairs) for pairs in expected]
    assert {True, False} >= set(choice.valid.tolist())
    for prompt, pairs in enumerate(expected):
        if pairs:
            assert (int(choice.preferred[prompt]), int(choice.other[prompt])) in pairs


def test_vote_depends_on_no_scale_of_a_reward_and_the_sum_does() -> None:
    scores = rewards(seed=1)
    scaled = scores * torch.tensor([100.0, 1.0, 0.01]) + torch.tensor([5.0, -3.0, 0.0])
    vote, scaled_vote = (choose_pairs(each, WEIGHTS, "vote") for each in (scores, scaled))
    assert all(torch.equal(a, b) for a, b in zip(vote, scaled_vote, strict=True))
    best, scaled_best = (choose_pairs(each, WEIGHTS, "best_worst") for each in (scores, scaled))
    assert not torch.equal(best.preferred, scaled_best.preferred)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_equal_images_make_no_pair(selection) -> None:
    equal = torch.ones(2, 4, 3)
    assert choose_pairs(equal, WEIGHTS, selection).valid.tolist() == [False, False]


def test_rewards_that_contradict_each_other_give_no_dominance_and_no_majority() -> None:
    # Two rewards order the two images in opposite ways.
    opposed = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    weights = torch.ones(2)
    assert not choose_pairs(opposed, weights, "dominance").valid.any()
    assert not choose_pairs(opposed, weights, "vote").valid.any()
    assert [int(each) for each in choose_pairs(opposed, weights, "best_worst")] == [1, 0, 1]
