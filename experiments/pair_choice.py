"""Images that the scorers of each arm of `biased_pairs` prefer before any training: the direction of its first update.

python experiments/pair_choice.py

It samples four images of each training prompt with the base model, lets the rule of each arm choose a pair of them, and
prints how much more the preferred image has of a true attribute than the other one. ± is half of the 95 % interval over
prompts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from laboratory_cells import head, row, text
from torch import Tensor

from srpo_ray.algorithms.pair_choice import choose_pairs
from srpo_ray.config import RunConfig, apply, load_experiment
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.crossed import mean_over
from srpo_ray.flow import generator
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.trainable import load_tuned, make_policy, model_dtype
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.small_world.tastes import utilities
from srpo_ray.small_world.truth import measure

FILE = Path(__file__).parents[1] / "configs" / "experiments" / "laboratory" / "biased_pairs.yaml"
SEED = 5
BATCH = 4
"""Prompts that are sampled at once."""
COLUMNS = {
    "saturation": "saturation",
    "detail": "detail",
    "content_accuracy": "content",
    "utility/test/mean": "mean utility",
}


def main() -> None:
    """Print the table."""
    experiment, base = load_experiment(FILE)
    runs = {arm.name: apply(base, experiment.changes(arm)) for arm in experiment.arms}
    print(*choice_table(runs, *sampled(list(runs.values()))), sep="\n")


@torch.no_grad()
def sampled(runs: list[RunConfig]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sample a group of each training prompt with the base model.

    Args:
        runs: Runs with one base model, sampler and group size; all their scorers score the images.

    Returns:
        Scores and true attributes by name, each `[prompts, group]`.
    """
    config, models = runs[0], {model.name: model for run in runs for model in run.rewards.models}
    group, prompts, cache = group_of(config), read_texts(config).trained.prompts, TextCache.of(config)
    if missing := cache.missing(prompts):
        cache.load_encoder("cpu")(missing)
    features, rollout = cache.features(prompts), config.rollout
    transformer = load_tuned(config, model_dtype(config), "cpu", None)
    policy = make_policy(config, transformer, transformer.config, "cpu")
    rewards, sigmas = (
        LocalRewards.load(list(models.values())),
        sigma_grid(config.model)(rollout.num_steps, rollout.shift),
    )
    scores, truth = list[Mapping[str, Tensor]](), list[Mapping[str, Tensor]]()
    for start in range(0, len(prompts), BATCH):
        rows = [row for row in range(start, min(start + BATCH, len(prompts))) for _ in range(group)]
        noise = policy.noise([generator(SEED, "pair_choice", row, place % group) for place, row in enumerate(rows)])
        conditioning = features[rows].to(policy.device, policy.dtype)
        images = policy.decode(policy.integrate(noise, conditioning, sigmas, rollout.guidance_scale))
        texts = [prompts[row] for row in rows]
        scores.append(rewards.measure(images, [TextQuery.plain(each) for each in texts], list(models)))
        attributes = measure(images, texts)
        truth.append(attributes | utilities(attributes))
    return _grouped(scores, group), _grouped(truth, group)


def _grouped(parts: list[Mapping[str, Tensor]], group: int) -> dict[str, Tensor]:
    return {name: torch.cat([part[name].double() for part in parts]).view(-1, group) for name in parts[0]}


def group_of(config: RunConfig) -> int:
    """Images per prompt of a run."""
    return config.algorithm.calls(config.rollout.num_steps).images_per_prompt


def choice_table(
    runs: Mapping[str, RunConfig], scores: Mapping[str, Tensor], truth: Mapping[str, Tensor]
) -> Iterator[str]:
    """Make rows in Markdown: mean differences of the preferred and the other image of each run's pairs.

    Args:
        runs: Name -> run, whose scorers and rule choose pairs.
        scores: Scorer -> scores `[prompts, group]`.
        truth: True attribute -> values `[prompts, group]`.
    """
    yield from head([*COLUMNS.values(), "prompts without a pair"])
    for name, run in runs.items():
        algorithm, factors = run.algorithm, run.rewards.factors
        assert isinstance(algorithm, PreferenceConfig)
        rewards = torch.stack([scores[scorer] for scorer in factors], dim=2)
        choice = choose_pairs(rewards, torch.tensor(list(factors.values())).double(), algorithm.select)
        sides = [side[choice.valid, None] for side in (choice.preferred, choice.other)]
        gaps = []
        for attribute in COLUMNS:
            first, second = (truth[attribute][choice.valid].gather(1, side)[:, 0] for side in sides)
            gaps.append(text(mean_over([(first - second).tolist()])))
        yield row(name, [*gaps, str(int((~choice.valid).sum()))])


if __name__ == "__main__":
    main()
