"""Held-out evaluator: images of fixed prompts and noise, scored by held-out models and by known truth."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.config.algorithms.control_words import NO_WORDS, ControlWords, OwnWords
from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.evaluation.captions import caption_of_row
from srpo_ray.evaluation.image_statistics import image_statistics, seed_diversity, thumbnails
from srpo_ray.evaluation.requested import PendingMetrics, plain_scores, relative_scores, total_score
from srpo_ray.flow import generator
from srpo_ray.models.conditioning import ConditioningSource
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.query import TextQuery

TRAINED = "reward/total/trained"
"""Metric of the relative reward that a run trains on: the only one that depends on the run's control words."""


@dataclass(frozen=True)
class Evaluated:
    """One worker's share of an evaluation."""

    items: list[int]
    """Indices of the share's images among all images of the evaluator, in the order of the values."""
    metrics: dict[str, Tensor]
    """Metric name -> one value per image of the share."""
    images: dict[int, Tensor]
    """Prompt index -> its first image `[3, H, W]`, for the prompts of the gallery."""
    thumbnails: Tensor
    """`[items, 3, 32, 32]`, for statistics over all images of a prompt."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of all workers."""

    scores: dict[str, list[float]]
    """Metric name -> value for each image, in the order of the evaluator's items."""
    images: dict[int, Tensor]
    """Images of the gallery, by prompt index."""

    @property
    def metrics(self) -> dict[str, float]:
        """Means over all images."""
        return {name: sum(values) / len(values) for name, values in self.scores.items()}


class Evaluator:
    """Evaluator that samples and scores the evaluation prompts; every worker has an equal share."""

    def __init__(
        self,
        config: EvaluationConfig,
        prompts: Sequence[str],
        conditioning: ConditioningSource,
        *,
        size: ImageSize,
        sigmas: Tensor,
        truth: bool,
        trained_words: ControlWords | None = None,
        other_words: Mapping[str, ControlWords] | None = None,
        conditioned_on: Sequence[str] | None = None,
        own_words: Sequence[OwnWords] | None = None,
        text_free: Collection[str] = (),
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[int, int], object] = lambda _done, _total: None,
    ) -> None:
        """Fix prompts, noise and shares.

        Args:
            config: Section `evaluation`.
            prompts: Evaluation prompts, as all scores read them.
            conditioning: Text features for the prompts, in the same order.
            size: Size of the images, whatever the size that the policy is trained with.
            sigmas: Sampling grid of `config.num_steps` steps.
            truth: True if the prompts are of the small world, where the true content and style can be measured.
            trained_words: Control words of the run, if its reward is relative.
            other_words: Metric name -> control words of other runs, whose relative reward `score` adds with `for_all`.
            conditioned_on: Texts of `conditioning`; None are the prompts.
            own_words: Control words of the prompts' own, in place of those of any run; None has none.
            text_free: Models that read no text; their difference between two texts is always 0 and is left out.
            rank: Rank of this worker.
            world_size: Number of workers.
            progress: Receives the number of this worker's images that are scored, and of all its images.
        """
        self.config = config
        self.prompts = list(prompts)
        self.conditioning = conditioning
        self.size = size
        self.sigmas = sigmas
        self.truth = truth
        self.trained_words = trained_words
        self.other_words = dict(other_words or {})
        self.conditioned_on = list(prompts if conditioned_on is None else conditioned_on)
        self.own_words = list(own_words or [NO_WORDS] * len(self.prompts))
        self.text_free = text_free
        self.progress = progress
        # Prompt files are often sorted by subject, so the gallery draws its prompts from the whole file.
        order = torch.randperm(len(self.prompts), generator=generator(config.seed, "gallery"))
        self.gallery = set(order[: config.gallery_size].tolist())
        total = len(self.prompts) * config.samples_per_prompt
        # Every worker must make the same number of calls, so the last shares are filled up by repetition.
        share = -(-total // world_size)
        self.items = [(rank + index * world_size) % total for index in range(share)]

    @property
    def captions(self) -> list[str]:
        """Captions of the prompts' images."""
        return [caption_of_row(*texts) for texts in zip(self.prompts, self.conditioned_on, strict=True)]

    @property
    def batched_items(self) -> list[list[int]]:
        """Items of each batch of this worker's share; every worker has as many batches."""
        size = self.config.batch_size
        return [self.items[start : start + size] for start in range(0, len(self.items), size)]

    def evaluate(self, policy: FlowPolicy, rewards: RewardScorer, weights: Mapping[str, float]) -> Evaluated:
        """Sample and score this worker's share; arguments as for `batches` and `score`."""
        return self.score(self.batches(policy), rewards, weights)

    def batches(self, policy: FlowPolicy) -> Iterator[tuple[list[int], Tensor]]:
        """Sample this worker's share.

        Args:
            policy: Model to evaluate.

        Yields:
            Items of a batch, and their images `[B, 3, H, W]`.
        """
        for items in self.batched_items:
            yield items, self.sample(policy, items)

    def score(
        self,
        batches: Iterable[tuple[list[int], Tensor]],
        rewards: RewardScorer,
        weights: Mapping[str, float],
        *,
        for_all: bool = False,
    ) -> Evaluated:
        """Score this worker's share. A pool scores one batch while the next one is sampled.

        Args:
            batches: Images from `batches`, in any order.
            rewards: Scorer with the trained and the held-out models.
            weights: Trained model -> weight. Their metrics are `reward/...`, those of all others `evaluator/...`.
            for_all: Score the images for the control words of other runs too.
        """
        order: list[int] = []
        requested = deque[PendingMetrics]()
        parts: list[dict[str, Tensor]] = []
        small: list[Tensor] = []
        images: dict[int, Tensor] = {}
        self.progress(0, len(self.items))
        for items, batch in batches:
            requested.append(self.request(batch, items, rewards, weights, for_all=for_all))
            order += items
            small.append(thumbnails(batch))
            for item, image in zip(items, batch, strict=True):
                sample, prompt = divmod(item, len(self.prompts))
                if sample == 0 and prompt in self.gallery:
                    images[prompt] = image.cpu()
            # More batches in flight would only occupy memory.
            if len(requested) > 1:
                parts.append(requested.popleft().result())
                self.progress(len(order) - len(items), len(self.items))
        parts += [pending.result() for pending in requested]
        self.progress(len(order), len(self.items))
        metrics = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Evaluated(order, metrics, images, torch.cat(small))

    @torch.no_grad()
    def sample(self, policy: FlowPolicy, items: Sequence[int]) -> Tensor:
        """Sample images `[B, 3, H, W]` of the evaluator's items; item = sample * number of prompts + prompt."""
        indices = [item % len(self.prompts) for item in items]
        conditioning = self.conditioning[indices].to(policy.device, policy.dtype)
        with policy.at_size(self.size):
            noise = policy.noise([generator(self.config.seed, "evaluate", item) for item in items])
            # Not a rollout, which may use 8-bit copies of the weights.
            return policy.decode(policy.integrate(noise, conditioning, self.sigmas, self.config.guidance_scale))

    def measure(
        self, images: Tensor, items: Sequence[int], rewards: RewardScorer, weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Score images of the evaluator's items, and wait for the scores; arguments and metrics as for `request`."""
        return self.request(images, items, rewards, weights).result()

    def request(
        self,
        images: Tensor,
        items: Sequence[int],
        rewards: RewardScorer,
        weights: Mapping[str, float],
        *,
        for_all: bool = False,
    ) -> PendingMetrics:
        """Request the metrics of images of the evaluator's items.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            items: B items.
            rewards: Scorer with the trained and the held-out models.
            weights: Trained model -> weight.
            for_all: Add the metrics for the control words of other runs.
        """
        indices = [item % len(self.prompts) for item in items]
        prompts = [self.prompts[index] for index in indices]
        asked = [plain_scores(prompts, weights)]
        readers = [name for name in rewards.models if name not in self.text_free]
        if self.config.relative and readers:
            positive, negative = (self.config.relative.positive,), (self.config.relative.negative,)
            queries = [TextQuery.relative(prompt, positive, negative) for prompt in prompts]
            asked.append(relative_scores(queries, readers, weights))
        own = {TRAINED: self.trained_words} if self.trained_words else {}
        for name, words in {**own, **(self.other_words if for_all else {})}.items():
            chosen = [(self.prompts[index], self.own_words[index].over(words)) for index in indices]
            queries = [TextQuery.relative(prompt, each.positive, each.negative) for prompt, each in chosen]
            asked.append(total_score(name, queries, weights))
        pending = rewards.request(images, [each.request for each in asked])
        # The models score meanwhile.
        return PendingMetrics(asked, pending, self._without_scores(images, prompts))

    def _without_scores(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """Compute the metrics that need no reward model."""
        metrics = {f"image/{name}": values for name, values in image_statistics(images).items()}
        if self.truth:
            from srpo_ray.small_world.tastes import utilities
            from srpo_ray.small_world.truth import measure

            truth = measure(images, prompts)
            metrics |= {f"truth/{name}": values for name, values in (truth | utilities(truth)).items()}
        return metrics


def combine(shares: Sequence[Evaluated], num_prompts: int) -> Evaluation:
    """Combine all workers' shares, each image once.

    With two or more images per prompt, `image/diversity` is added, see `seed_diversity`.

    Args:
        shares: Shares of all workers.
        num_prompts: Number of prompts of the evaluator.
    """
    columns: dict[str, dict[int, float]] = {}
    images: dict[int, Tensor] = {}
    small: dict[int, Tensor] = {}
    for share in shares:
        images |= share.images
        small |= zip(share.items, share.thumbnails, strict=True)
        for name, column in share.metrics.items():
            columns.setdefault(name, {}).update(zip(share.items, column.tolist(), strict=True))
    items = sorted(small)
    scores = {name: [column[item] for item in items] for name, column in columns.items()}
    if len(items) > num_prompts:
        by_sample = torch.stack([small[item] for item in items]).unflatten(0, (-1, num_prompts))
        scores["image/diversity"] = seed_diversity(by_sample).flatten().tolist()
    return Evaluation(scores, dict(sorted(images.items())))
