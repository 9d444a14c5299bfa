"""Assignment of attributes against brute force, and the update of Direct-Align that it leads to."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.direct_align import DirectAlign
from srpo_ray.algorithms.distribution import ScoredRollout, assign, attribute_margins, attribute_queries, counts_of
from srpo_ray.config import ConfigError, load_run
from srpo_ray.config.algorithms.direct_align import DirectAlignConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.rewards.base import Scores
from srpo_ray.rewards.query import TextQuery
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import AffinePolicy, as_policy, make_batch, settle_on_workers


def table(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_two_attributes_are_split_by_the_rank_of_their_difference(seed: int) -> None:
    scores = table(16, 2, seed)
    order = (scores[:, 0] - scores[:, 1]).argsort(descending=True).tolist()
    assert (assign(scores, [0.75, 0.25]) == 0).nonzero().flatten().tolist() == sorted(order[:12])


@pytest.mark.parametrize("seed", range(5))
def test_assignment_of_three_attributes_has_the_best_sum_among_all_with_exact_shares(seed: int) -> None:
    scores, shares = table(6, 3, seed), [0.5, 1 / 3, 1 / 6]
    allowed = [each for each in product(range(3), repeat=6) if [each.count(k) for k in range(3)] == [3, 2, 1]]
    best = max(allowed, key=lambda each: sum(scores[row, k].item() for row, k in enumerate(each)))
    assert assign(scores, shares).tolist() == list(best)


@pytest.mark.parametrize(
    ("shares", "total", "counts"),
    [([0.75, 0.25], 8, [6, 2]), ([0.7, 0.2, 0.1], 10, [7, 2, 1]), ([0.75, 0.25], 6, [5, 1]), ([0.5, 0.5], 3, [2, 1])],
)
def test_shares_are_divided_by_largest_remainders(shares: list[float], total: int, counts: list[int]) -> None:
    assert counts_of(shares, total) == counts


def test_query_is_the_own_attribute_minus_the_mean_of_the_others() -> None:
    found = attribute_queries(["a", "b", "c"], ["x", "y"], [1, 2])
    assert found[0] == TextQuery(((-0.5, "a. x"), (1.0, "b. x"), (-0.5, "c. x")))
    assert found[1] == TextQuery(((-0.5, "a. y"), (-0.5, "b. y"), (1.0, "c. y")))


class Brightness:
    """Score = plus or minus the mean of the image, for `bright` and `dark`."""

    def __init__(self) -> None:
        self.queries: list[TextQuery] = []

    def submit(self, images: Tensor, queries: Any) -> Any:
        self.queries = list(queries)
        signs = {"bright": 1.0, "dark": -1.0}
        slopes = [sum(weight * signs[text.split(".")[0]] for weight, text in query.terms) for query in queries]
        total = images.mean(dim=(1, 2)) * torch.tensor(slopes, dtype=torch.float64)
        return SimpleNamespace(result=lambda: Scores(total, {}))


def make(policy: AffinePolicy, rewards: Any, hinge: float = 1e3, **settings: Any) -> DirectAlign:
    target: Any = {"attributes": ("bright", "dark"), "shares": (0.75, 0.25), **settings}
    config = DirectAlignConfig(distribution=target, noise="per_sample", hinge=hinge)
    return DirectAlign(config, RolloutConfig(num_steps=4), as_policy(policy), rewards)


def test_darkest_images_of_the_whole_update_are_made_darker_on_any_number_of_workers() -> None:
    policy, rewards = AffinePolicy(), Brightness()
    algorithm = make(policy, rewards)
    batches = [make_batch(samples=(first, first + 1)) for first in (0, 2, 4, 6)]
    rounds = [(batch, algorithm.collect(batch)) for batch in batches]
    means = torch.cat([found.clean.mean(dim=(1, 2)) for _, found in rounds])
    expected = torch.zeros(8, dtype=torch.int64)
    expected[means.argsort()[:2]] = 1
    for workers in ([rounds], [rounds[:2], rounds[2:]], [rounds[:1], rounds[1:2], rounds[2:3], rounds[3:]]):
        settled: list[ScoredRollout] = [found for part in settle_on_workers(algorithm, workers) for found in part]
        assigned = [each.assigned for each in settled if each.assigned is not None]
        assert torch.equal(torch.cat(assigned), expected)
    (output,) = [loss() for loss in algorithm.losses(batches[0], settled[0])]
    words = ["bright" if own == 0 else "dark" for own in expected[:2].tolist()]
    assert [query.terms[expected[row]][1].split(".")[0] for row, query in enumerate(rewards.queries)] == words
    assert output.metrics["distribution/share/dark"].tolist() == (means[:2] < 0).float().tolist()


def test_offsets_move_the_score_at_which_an_image_has_its_attribute() -> None:
    offsets, rewards = (0.3, -0.1), Brightness()
    algorithm = make(AffinePolicy(), rewards, hinge=0.6, offsets=offsets)
    batch = make_batch(samples=(0, 1, 2, 3))
    ((found,),) = settle_on_workers(algorithm, [[(batch, algorithm.collect(batch))]])
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    means = found.clean.mean(dim=(1, 2))
    # An image is bright if mean + 0.3 > -mean - 0.1, that is above -0.2.
    assert output.metrics["distribution/share/bright"].tolist() == (means > -0.2).float().tolist()
    signs = torch.where(found.assigned == 0, 1.0, -1.0)
    adjusted = output.metrics["reward/total/denoise"] + 0.4 * signs
    assert torch.allclose(output.metrics["loss/denoise"], (0.6 - adjusted).clamp(min=0))
    assert 0 < (output.metrics["loss/denoise"] == 0).sum() < 4


def test_margin_is_the_own_offset_minus_the_mean_of_the_others() -> None:
    assert attribute_margins([0.3, -0.1, 0.4], torch.tensor([0, 2, 1])).tolist() == pytest.approx([0.15, 0.3, -0.45])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.distribution={attributes: [a, b], shares: [0.5, 0.4]}"], r"shares of sum 1, got 0.9; change"),
        (["algorithm.distribution={attributes: [a, b, c], shares: [0.5, 0.5]}"], r"each of the 3 attributes, got 2"),
        (
            ["algorithm.distribution={attributes: [a, b], shares: [0.5, 0.5], offsets: [0.1]}"],
            r"one offset for each of the 2 attributes, got 1; give",
        ),
        (["algorithm.distribution={attributes: [a, 'A.'], shares: [0.5, 0.5]}"], r"different attributes, .*repeats"),
        (
            ["algorithm.distribution={attributes: [a, b], shares: [0.5, 0.5]}", "algorithm.query=relative"],
            r"query plain with a distribution, got relative; .*remove query or distribution",
        ),
        (
            [
                "algorithm.distribution={attributes: [a, b], shares: [0.5, 0.5]}",
                "rewards.models=[{name: looks, type: aesthetic, path: head.pth, backbone: b}]",
            ],
            r"read text with algorithm.distribution, got looks, .*remove algorithm.distribution, or move",
        ),
    ],
)
def test_unusable_distributions_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run([SMALL_WORLD], ["algorithm.type=direct_align", *overrides])
