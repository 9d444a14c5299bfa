"""Sampler of one process: loads the models, samples and scores images. No Ray."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from srpo_ray.data.cache.shards import ROWS
from srpo_ray.data.cache.text_features import TextCache, cache_root
from srpo_ray.errors import RunFailedError
from srpo_ray.evaluation.evaluator import Evaluator
from srpo_ray.evaluation.gallery import save_png, to_images
from srpo_ray.evaluation.image_statistics import seed_diversity, thumbnails
from srpo_ray.inference.job import Model, Row, SamplingJob
from srpo_ray.models.contrast import BASE, TUNED, Contrast, Network
from srpo_ray.models.contrast_networks import Trained, load_networks
from srpo_ray.models.loading import hide_progress_bars
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.trainable import make_policy, model_dtype
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.runs.trained import TrainedRun


def device_here() -> str:
    """Return the device of this process."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def encode(job: SamplingJob) -> TextCache:
    """Open the cache with features of the texts that condition the job's models, and encode the missing ones."""
    hide_progress_bars()
    config = job.config
    # Use the cache of the run's training, or the job's folder if the run has moved to another machine.
    root = cache_root(config) if Path(config.run_root).is_dir() else job.folder / "cache"
    cache = TextCache(resolve_path(config.model.path), config.model.max_sequence_length, model_dtype(config), root)
    missing = cache.missing([*job.texts, *job.empty_texts])
    if missing:
        encode_part = cache.load_encoder(device_here())
        for start in range(0, len(missing), ROWS):
            encode_part(missing[start : start + ROWS])
    return cache


class Sampler:
    """Sampler of the chunks of a job; every process of a job has one."""

    def __init__(self, job: SamplingJob) -> None:
        """Load the models and, for a scored job, the reward models.

        Args:
            job: Sampling job.

        Raises:
            ValueError: If a model or a reward cannot be loaded.
        """
        config = job.config
        self.job = job
        self._features = encode(job)
        model = config.model_at(config.evaluation)
        self.evaluator = Evaluator(
            config.evaluation,
            job.prompts,
            self._features.features(job.texts),
            size=model.size,
            sigmas=sigma_grid(model)(config.evaluation.num_steps, config.rollout.shift),
            truth=job.truth,
            trained_words=config.trained_words,
            own_words=job.own_words,
            text_free=config.text_free,
        )
        self._runs = {path: self._load(path) for path in dict.fromkeys(_path(model.run) for model in job.models)}
        self._reference: dict[tuple[int, int], Tensor] = {}
        """Images of the first model for the present prompts, by prompt and sample, for rewards that compare pairs."""
        self._rewards: LocalRewards | None = None
        if job.scored:
            self._rewards = LocalRewards.load(
                config.rewards.models,
                config.evaluation.held_out,
                factors=config.rewards.factors,
                micro_batch_size=config.rewards.pool.micro_batch_size,
                official=config.evaluation.preprocessing == "official",
                device=device_here(),
            )

    def draw(self, chunk: Sequence[int]) -> list[Row]:
        """Sample and score the images of some prompts with every model, and write the images.

        Args:
            chunk: Prompt indices.

        Returns:
            One row per image.

        Raises:
            RunFailedError: If a reward fails, or the images of a batch do not fit the GPU's memory.
        """
        self._reference = {}
        try:
            return [row for model in self.job.models for row in self._draw(model, chunk)]
        except torch.OutOfMemoryError as error:
            raise RunFailedError(
                f"a batch of {self.job.config.evaluation.batch_size} images does not fit the GPU's memory"
                f" ({error}); lower --batch-size"
            ) from error

    def _draw(self, model: Model, chunk: Sequence[int]) -> list[Row]:
        policy, others = self._runs[_path(model.run)]
        weight, other = model.rl_guidance, model.other and _path(model.other)
        policy.contrast = None if weight == TUNED else Contrast(others[other], weight, model.contrast_text)
        places = [(prompt, sample) for sample in self.job.samples for prompt in chunk]
        rows: list[Row] = []
        small: list[Tensor] = []
        size = self.job.config.evaluation.batch_size
        for start in range(0, len(places), size):
            batch = places[start : start + size]
            items = [sample * len(self.job.prompts) + prompt for prompt, sample in batch]
            images = self.evaluator.sample(policy, items)
            metrics = self._measure(images, items) | self._compare(model, images, batch)
            small.append(thumbnails(images))
            for index, (prompt, sample) in enumerate(batch):
                values = {name: column[index].item() for name, column in metrics.items()}
                rows.append({"prompt": prompt, "sample": sample, "model": model.name, **values})
            for image, (prompt, sample) in zip(to_images(images), batch, strict=True):
                save_png(image, self.job.image(prompt, sample, model.name), optimize=False)
        if self.job.scored and len(self.job.samples) > 1:
            diversity = seed_diversity(torch.cat(small).unflatten(0, (-1, len(chunk)))).flatten().tolist()
            rows = [row | {"image/diversity": value} for row, value in zip(rows, diversity, strict=True)]
        return rows

    def _measure(self, images: Tensor, items: Sequence[int]) -> dict[str, Tensor]:
        if self._rewards is None:
            return {}
        return self.evaluator.measure(images, items, self._rewards, self.job.config.rewards.factors)

    def _compare(self, model: Model, images: Tensor, places: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Compare images with those of the first model, by the rewards that compare pairs.

        Args:
            model: Model that sampled the images.
            images: `[B, 3, H, W]` in [0, 1].
            places: Prompt and sample of each image.

        Returns:
            Per reward the probability that the image is better, `[B]`; 1/2 for the first model itself. Empty without
            such rewards, or with one model.
        """
        rewards, factors = self._rewards, self.job.config.rewards.factors
        names = sorted(rewards.pairwise) if rewards else []
        if not rewards or not names or len(self.job.models) == 1:
            return {}
        if model is self.job.models[0]:
            self._reference |= zip(places, images.cpu(), strict=True)
            wins = {name: torch.full((len(places),), 0.5) for name in names}
        else:
            others = torch.stack([self._reference[place] for place in places]).to(images)
            queries = [TextQuery.plain(self.job.prompts[prompt]) for prompt, _ in places]
            pairs = [(row, len(places) + row) for row in range(len(places))]
            wins = rewards.compare(torch.cat([images, others]), [*queries, *queries], pairs, names).result()
        return {f"{'reward' if name in factors else 'evaluator'}/{name}/preference": wins[name] for name in names}

    def _load(self, path: Path) -> tuple[FlowPolicy, Mapping[Path | None, Network]]:
        """Build the policy of a run's tuned model, and the other models of its contrasts by their runs' paths."""
        models = [model for model in self.job.models if _path(model.run) == path]
        run = models[0].run
        contrasted = [model.other for model in models if model.rl_guidance != TUNED]
        others = {other and _path(other): other for other in contrasted}
        config, device = run.config, device_here()
        networks = load_networks(
            Trained(config, run.weights),
            [other and Trained(other.config, other.weights) for other in others.values()],
            model_dtype(config),
            device,
            tuned=any(model.rl_guidance != BASE for model in models),
        )
        policy = make_policy(config, networks.tuned, networks.transformer.config, device)
        for empty in self.job.empty_texts:
            policy.empty_prompt = self._features.features([empty])[[0]]
        return policy, dict(zip(others, networks.others, strict=True))


def _path(run: TrainedRun) -> Path:
    return run.folder.path
