"""Queries of every registered algorithm: texts, weights and words as they reach the rewards, and their gradients."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from torch import Tensor

from srpo_ray.algorithms import Algorithm, Batch, build_algorithm
from srpo_ray.algorithms.queries import guided_query, relative_query
from srpo_ray.config import load_run
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.algorithms.query import QuerySection
from srpo_ray.config.algorithms.registry import TYPES
from srpo_ray.rewards.base import Scores
from srpo_ray.rewards.query import TextQuery
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import AffinePolicy, as_policy, collect_all, make_batch
from tests.helpers.algorithms.variants import SCORED

WORDS = "word_sets.own={positive: [crisp, fine], negative: [blunt, coarse, dull]}"
TURNS = [
    ("crisp", "blunt"),
    ("fine", "coarse"),
    ("crisp", "dull"),
    ("fine", "blunt"),
    ("crisp", "coarse"),
    ("fine", "dull"),
]
"""Positive and negative word of six turns, after which the two lists start together again."""
SAMPLES = (1, 0)
SETTINGS = {"srpo": ["algorithm.branches=[denoise]", "algorithm.denoise_discount=null"]}
"""Settings without which an algorithm weighs the texts by rules of its own, which its own tests cover."""


def score(image: Tensor, text: str) -> Tensor:
    """Score of one image for one text, linear in neither; every text has another slope."""
    return torch.tanh(sum(map(ord, text)) / 2000 * image).mean()


class WordRewards:
    """Score of a query = weighted sum over its texts."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Tensor, list[TextQuery]]] = []

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> Any:
        self.submitted.append((images, list(queries)))
        parts = [
            torch.stack([weight * score(image, text) for weight, text in query.terms]).sum()
            for image, query in zip(images, queries, strict=True)
        ]
        total = torch.stack(parts)
        return SimpleNamespace(result=lambda: Scores(total, {}))


def make(kind: str, *settings: str) -> tuple[Algorithm[Any], WordRewards, AffinePolicy]:
    """An algorithm as a run builds it from its config, with stand-ins for rewards and model."""
    chosen = [f"algorithm.type={kind}", "algorithm.control_words=own", WORDS, *SETTINGS.get(kind, []), *settings]
    policy, rewards = AffinePolicy(), WordRewards()
    return build_algorithm(load_run([SMALL_WORLD], chosen), as_policy(policy), cast(Any, rewards)), rewards, policy


def make_rows(algorithm: Algorithm[Any], update: int) -> Batch:
    """All samples of an update, not in their order, each with the images of a prompt."""
    return make_batch(update=update, samples=SAMPLES, children=range(algorithm.calls.images_per_prompt))


Terms = tuple[tuple[float, str], ...]


def submitted_terms(kind: str, update: int, *settings: str) -> tuple[Terms, Terms]:
    """Queries of both samples of an update; all images of a sample, and all losses, must have the same."""
    algorithm, rewards, _ = make(kind, *settings)
    batch = make_rows(algorithm, update)
    (collected,) = collect_all(algorithm, [batch])
    assert list(algorithm.losses(batch, collected))
    found = [[query.terms for query in queries] for _, queries in rewards.submitted]
    images = algorithm.calls.images_per_prompt
    assert all(terms == [found[0][0]] * images + [found[0][-1]] * images for terms in found)
    return found[0][0], found[0][-1]


@pytest.mark.parametrize("kind", SCORED)
def test_only_srpo_compares_texts_by_default(kind: str) -> None:
    assert issubclass(TYPES[kind], QuerySection)
    assert TYPES[kind].model_fields["query"].default == ("relative" if kind == "srpo" else "plain")


@pytest.mark.parametrize("kind", SCORED)
@pytest.mark.parametrize(("query", "weights"), [("relative", (1.0, -1.0)), ("guided", (3.0, -2.0))])
def test_rewards_get_the_words_of_the_update_with_the_weights_of_the_query(
    kind: str, query: str, weights: tuple[float, float]
) -> None:
    for update, (positive, negative) in enumerate([*TURNS, TURNS[0]]):
        found = submitted_terms(kind, update, f"algorithm.query={query}", "algorithm.query_guidance=3.0")
        for sample, terms in zip(SAMPLES, found, strict=True):
            assert terms == (
                (weights[0], f"{positive}. prompt {sample}"),
                (weights[1], f"{negative}. prompt {sample}"),
            )


@pytest.mark.parametrize("kind", SCORED)
def test_plain_query_is_the_prompt_and_needs_no_words(kind: str) -> None:
    found = submitted_terms(kind, 3, "algorithm.query=plain", "algorithm.control_words=of no set")
    assert found == (((1.0, "prompt 1"),), ((1.0, "prompt 0"),))


@pytest.mark.parametrize("kind", SCORED)
def test_words_advance_with_the_sample_from_a_first_turn_if_the_config_says_so(kind: str) -> None:
    settings = ["algorithm.query=relative", "algorithm.word_cycle=per_sample", "algorithm.word_start=3"]
    for sample, terms in zip(SAMPLES, submitted_terms(kind, 5, *settings), strict=True):
        words = tuple(text.partition(".")[0] for _, text in terms)
        assert words == TURNS[(3 + 5 + sample) % 6]


@pytest.mark.parametrize("kind", SCORED)
def test_query_of_a_row_does_not_depend_on_the_rows_beside_it(kind: str) -> None:
    algorithm, _, _ = make(kind, "algorithm.query=relative", "algorithm.word_cycle=per_sample")
    whole = algorithm.queries(make_batch(update=2, samples=(1, 3), children=range(2)))
    parts = [make_batch(update=2, samples=(sample,), children=(child,)) for sample in (1, 3) for child in range(2)]
    assert [query for part in parts for query in algorithm.queries(part)] == whole
    assert whole[0] == whole[1] != whole[2] == whole[3]


@pytest.mark.parametrize("kind", SCORED)
@pytest.mark.parametrize("query", ["relative", "guided"])
def test_each_row_is_scored_for_its_own_words_as_in_a_run_with_these_words(kind: str, query: str) -> None:
    settings = [f"algorithm.query={query}", "algorithm.word_cycle=per_sample"]
    sets = {1: "{positive: [crisp], negative: [blunt, coarse, dull]}", 3: "{positive: [vivid, pale], negative: [grey]}"}
    algorithm, _, _ = make(kind, *settings)
    batch = make_batch(update=2, samples=tuple(sets), children=range(2))
    own = [ControlWords(**yaml.safe_load(sets[sample])) for sample in batch.draws.samples]
    found = algorithm.queries(replace(batch, words=tuple(own)))
    apart = [make(kind, *settings, f"word_sets.own={words}")[0] for words in sets.values()]
    parts = [make_batch(update=2, samples=(sample,), children=range(2)) for sample in sets]
    expected = [alone.queries(part) for alone, part in zip(apart, parts, strict=True)]
    assert found == [query for queries in expected for query in queries]
    assert found != algorithm.queries(batch)


@pytest.mark.parametrize("kind", ["srpo", "refl", "direct_align", "draft"])
def test_rows_with_words_of_their_own_have_the_gradients_of_two_runs_with_these_words(kind: str) -> None:
    settings = ["algorithm.query=relative", *["algorithm.hinge=5.0"] * (kind != "draft")]
    sets = [
        ControlWords(positive=("vivid",), negative=("grey",)),
        ControlWords(positive=("crisp",), negative=("dull",)),
    ]

    def gradients(samples: tuple[int, ...], words: tuple[ControlWords, ...] | None, text: str) -> tuple[float, Tensor]:
        algorithm, _, policy = make(kind, *settings, f"word_sets.own={text}")
        batch = replace(make_batch(samples=samples), words=words)
        (collected,) = collect_all(algorithm, [batch])
        total = torch.stack([loss().loss for loss in algorithm.losses(batch, collected)]).sum()
        total.backward()
        assert policy.offset.grad is not None
        return total.item(), policy.offset.grad

    other = "{positive: [fine], negative: [coarse]}"
    found = gradients((1, 3), tuple(sets), other)
    apart = [gradients((sample,), None, sets[row].model_dump_json()) for row, sample in enumerate((1, 3))]
    assert found[0] == pytest.approx((apart[0][0] + apart[1][0]) / 2, rel=1e-12)
    torch.testing.assert_close(found[1], (apart[0][1] + apart[1][1]) / 2, rtol=1e-9, atol=1e-14)
    assert found[0] != pytest.approx(gradients((1, 3), None, other)[0], rel=1e-6)


def test_relative_refl_has_the_gradient_of_the_difference_of_two_scores() -> None:
    algorithm, _, policy = make("refl", "algorithm.query=relative", "algorithm.hinge=5.0")
    batch = make_rows(algorithm, 1)
    point: Any = algorithm.collect(batch)
    (loss,) = [loss() for loss in algorithm.losses(batch, point)]
    loss.loss.backward()

    slope, offset = (value.detach().clone().requires_grad_() for value in (policy.slope, policy.offset))
    # The step to sigma 0 of the affine velocity; words of update 1.
    images = point.tokens - point.sigma[0] * (slope * point.tokens + offset)
    differences = [
        score(image, f"fine. prompt {sample}") - score(image, f"coarse. prompt {sample}")
        for sample, image in zip(SAMPLES, images, strict=True)
    ]
    expected = 5.0 - torch.stack(differences).mean()
    expected.backward()
    assert loss.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert offset.grad is not None
    assert offset.grad.abs().max() > 1e-4
    for found, wanted in ((policy.offset.grad, offset.grad), (policy.slope.grad, slope.grad)):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-14)


def test_relative_direct_align_is_srpos_denoise_branch_without_a_discount() -> None:
    found = []
    for kind in ("direct_align", "srpo"):
        algorithm, _, policy = make(kind, "algorithm.query=relative", "algorithm.hinge=5.0")
        batch = make_rows(algorithm, 1)
        (loss,) = [loss() for loss in algorithm.losses(batch, algorithm.collect(batch))]
        loss.loss.backward()
        found.append((loss.loss.detach(), policy.offset.grad, policy.slope.grad))
    assert found[0][1].abs().max() > 0
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_relative_advantages_are_those_of_the_differences_within_each_group() -> None:
    algorithm, rewards, _ = make("dance_grpo", "algorithm.query=relative", "algorithm.group_size=4")
    batch = make_rows(algorithm, 1)
    (walks,) = collect_all(algorithm, [batch])
    ((images, _),) = rewards.submitted
    for group, sample in enumerate(SAMPLES):
        rows = slice(4 * group, 4 * group + 4)
        texts = (f"fine. prompt {sample}", f"coarse. prompt {sample}")
        differences = [(score(image, texts[0]) - score(image, texts[1])).item() for image in images[rows]]
        expected = [(value - mean(differences)) / stdev(differences) for value in differences]
        # A group with one standard deviation below 1e-3 shows the 1e-8 that is added to it.
        assert walks.advantages[0][rows].tolist() == pytest.approx(expected, rel=1e-4)


def test_own_text_gets_the_discount() -> None:
    assert relative_query("Real. a cat", "Painting. a cat", 0.25).terms == (
        (1.25, "Real. a cat"),
        (-1.0, "Painting. a cat"),
    )
    assert guided_query("Real. a cat", "Painting. a cat", 2.25).terms == (
        (2.25, "Real. a cat"),
        (-1.25, "Painting. a cat"),
    )
