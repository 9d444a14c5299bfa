from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.evaluation import EvaluationConfig, RelativeConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.evaluation.evaluator import Evaluation, Evaluator, combine
from srpo_ray.flow import generator
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.base import ScoreRequest

PROMPTS = [f"prompt {index}" for index in range(5)]
SAMPLES = 3
CONDITIONING = Conditioning(torch.zeros(5, 1, 1), torch.arange(5.0)[:, None].expand(5, 3))
RELATIVE = RelativeConfig(positive="detailed", negative="flat")
WORDS = ControlWords(positive=("detailed", "rich"), negative=("flat",))


class NoisePolicy:
    """An image is its noise, squashed and shaped; so every image of the evaluator is known."""

    device = torch.device("cpu")
    dtype = torch.float32
    size = ImageSize(16, 16)

    @contextmanager
    def at_size(self, size: ImageSize) -> Iterator[None]:
        before, self.size = self.size, size
        yield
        self.size = before

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.rand(3, *self.size, generator=g) for g in generators])

    def integrate(self, noise: Tensor, conditioning: Conditioning, sigmas: Tensor, guidance_scale: float) -> Tensor:
        return noise + conditioning.pooled_prompt_embeds[:, :, None, None] / 100

    def decode(self, tokens: Tensor) -> Tensor:
        return tokens.clamp(0, 1)


class MeanRewards:
    """Mean of the image (`trained`) or its maximum (`evaluator`), times the weighted letters of the query."""

    models = ("trained", "evaluator")

    def request(self, images: Tensor, requests: Sequence[ScoreRequest]) -> list[Any]:
        return [SimpleNamespace(result=partial(self.scores, images, each)) for each in requests]

    def scores(self, images: Tensor, request: ScoreRequest) -> dict[str, Tensor]:
        letters = torch.tensor([sum(weight * len(text) for weight, text in query.terms) for query in request.queries])
        scores = {"trained": images.mean(dim=(1, 2, 3)) * letters, "evaluator": images.amax(dim=(1, 2, 3)) * letters}
        return {name: scores[name] for name in request.names or scores}


class RecordedRewards(MeanRewards):
    """`MeanRewards` that record when scores are requested and waited for."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def request(self, images: Tensor, requests: Sequence[ScoreRequest]) -> list[Any]:
        self.events.append(f"request {len(images)} images for {len(requests)} lists of texts")
        return super().request(images, requests)

    def scores(self, images: Tensor, request: ScoreRequest) -> dict[str, Tensor]:
        self.events.append("wait")
        return super().scores(images, request)


def evaluate(
    world_size: int,
    batch_size: int = 32,
    words: ControlWords | None = None,
    samples: int = SAMPLES,
    text_free: Sequence[str] = (),
    **config: Any,
) -> Evaluation:
    settings = {"samples_per_prompt": samples, "batch_size": batch_size, "gallery_size": 2, **config}
    shares = []
    for rank in range(world_size):
        evaluator = Evaluator(
            EvaluationConfig.model_validate(settings),
            PROMPTS,
            CONDITIONING,
            size=ImageSize(8, 8),
            sigmas=torch.linspace(1, 0, 3),
            truth=False,
            trained_words=words,
            text_free=text_free,
            rank=rank,
            world_size=world_size,
        )
        shares.append(evaluator.evaluate(cast(FlowPolicy, NoisePolicy()), cast(Any, MeanRewards()), {"trained": 2.0}))
    assert len({len(share.items) for share in shares}) == 1, "workers must make the same number of calls"
    return combine(shares, len(PROMPTS))


def image(sample: int, prompt: int) -> Tensor:
    """Images of `NoisePolicy`, from its definition."""
    noise = torch.rand(3, 8, 8, generator=generator(EvaluationConfig().seed, "evaluate", sample * 5 + prompt))
    return (noise + prompt / 100).clamp(0, 1)


def mean_of_means(letters: float) -> float:
    """Mean over all images of the image's mean times `letters`."""
    means = [image(sample, prompt).mean().item() for sample in range(SAMPLES) for prompt in range(5)]
    return letters * sum(means) / len(means)


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 4), (4, 32), (7, 1)])
def test_any_number_of_workers_finds_the_same_scores_and_images(world_size: int, batch_size: int) -> None:
    settings: dict[str, Any] = {"words": WORDS, "relative": {"positive": "detailed", "negative": "flat"}}
    alone, together = evaluate(1, **settings), evaluate(world_size, batch_size, **settings)
    assert set(together.scores) == set(alone.scores)
    for name, values in alone.scores.items():
        assert together.scores[name] == pytest.approx(values, rel=1e-5), name
    assert list(together.images) == list(alone.images)
    assert len(together.images) == 2
    assert all(torch.equal(together.images[index], alone.images[index]) for index in alone.images)


def test_trained_models_are_rewards_and_all_others_the_evaluator() -> None:
    metrics = evaluate(1).metrics
    assert {"reward/trained", "evaluator/evaluator", "reward/total", "image/saturation"} <= set(metrics)
    assert metrics["reward/trained"] == pytest.approx(mean_of_means(len("prompt 0")), rel=1e-5)
    assert metrics["reward/total"] == pytest.approx(2 * metrics["reward/trained"], rel=1e-6)
    assert metrics["reward/trained"] < metrics["evaluator/evaluator"]
    assert not {name for name in metrics if name.endswith("/relative")}
    assert "reward/total/trained" not in metrics


def test_relative_score_is_the_positive_words_minus_the_negative_words() -> None:
    metrics = evaluate(2, relative={"positive": "detailed", "negative": "flat"}).metrics
    expected = mean_of_means(len("detailed. prompt 0") - len("flat. prompt 0"))
    assert metrics["reward/trained/relative"] == pytest.approx(expected, rel=1e-5)
    assert metrics["reward/total/relative"] == pytest.approx(2 * expected, rel=1e-5)
    assert metrics["evaluator/evaluator/relative"] > metrics["reward/trained/relative"]
    assert "reward/total/trained" not in metrics


@pytest.mark.parametrize(
    ("text_free", "expected"),
    [
        (["evaluator"], {"reward/trained", "reward/total"}),
        (["trained"], {"evaluator/evaluator"}),
        (["trained", "evaluator"], set()),
    ],
)
def test_models_that_read_no_text_have_no_relative_score(text_free: list[str], expected: set[str]) -> None:
    scores = evaluate(1, text_free=text_free, relative={"positive": "detailed", "negative": "flat"}).scores
    relative = {name.removesuffix("/relative") for name in scores if name.endswith("/relative")}
    assert relative == expected
    assert {"reward/trained", "reward/total", "evaluator/evaluator"} <= set(scores)


def test_trained_score_is_the_mean_over_the_words_of_the_run() -> None:
    metrics = evaluate(2, words=WORDS).metrics
    expected = 2 * mean_of_means((len("detailed") + len("rich")) / 2 - len("flat"))
    assert metrics["reward/total/trained"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_diversity_is_the_mean_difference_over_all_pairs_of_a_prompt(world_size: int) -> None:
    pairs = [
        (image(one, prompt) - image(other, prompt)).abs().mean().item()
        for prompt in range(5)
        for one, other in combinations(range(SAMPLES), 2)
    ]
    assert evaluate(world_size).metrics["image/diversity"] == pytest.approx(sum(pairs) / len(pairs), rel=1e-3)


def test_one_image_per_prompt_has_no_diversity() -> None:
    assert "image/diversity" not in evaluate(2, samples=1).metrics


def test_scores_of_a_batch_are_waited_for_when_the_next_one_is_sampled() -> None:
    events: list[str] = []
    settings = EvaluationConfig(samples_per_prompt=2, batch_size=4, relative=RELATIVE)
    evaluator = Evaluator(
        settings, PROMPTS, CONDITIONING, size=ImageSize(8, 8), sigmas=torch.linspace(1, 0, 3), truth=False
    )

    def sampled() -> Iterator[tuple[list[int], Tensor]]:
        for batch in evaluator.batches(cast(FlowPolicy, NoisePolicy())):
            events.append("sampled")
            yield batch

    evaluator.score(sampled(), cast(Any, RecordedRewards(events)), {"trained": 2.0})
    request, wait = "request {} images for 2 lists of texts", ["wait", "wait"]
    first, second, third = [["sampled", request.format(size)] for size in (4, 4, 2)]
    # Never more than two batches are in flight.
    assert events == [*first, *second, *wait, *third, *wait, *wait]


def test_progress_counts_the_scored_images_of_the_worker() -> None:
    seen: list[tuple[int, int]] = []
    evaluator = Evaluator(
        EvaluationConfig(samples_per_prompt=2, batch_size=2),
        PROMPTS,
        CONDITIONING,
        size=ImageSize(8, 8),
        sigmas=torch.linspace(1, 0, 3),
        truth=False,
        rank=1,
        world_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    evaluator.evaluate(cast(FlowPolicy, NoisePolicy()), cast(Any, MeanRewards()), {"trained": 2.0})
    # Ten images are five for each worker. The scores of the last two batches arrive at the end.
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_batches_may_be_scored_in_any_order() -> None:
    evaluator = Evaluator(
        EvaluationConfig(samples_per_prompt=SAMPLES, batch_size=4, gallery_size=2),
        PROMPTS,
        CONDITIONING,
        size=ImageSize(8, 8),
        sigmas=torch.linspace(1, 0, 3),
        truth=False,
    )
    batches = list(evaluator.batches(cast(FlowPolicy, NoisePolicy())))
    given, reversed_ = [
        combine([evaluator.score(order, cast(Any, MeanRewards()), {"trained": 2.0})], len(PROMPTS))
        for order in (batches, batches[::-1])
    ]
    assert reversed_.scores == given.scores
    assert reversed_.images.keys() == given.images.keys()
