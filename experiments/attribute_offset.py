"""Offset of a reward between two attributes of the small world: where images of the base model are as bright as dark.

python experiments/attribute_offset.py

It samples one image of each training prompt, scores it for both attributes of `configs/algorithms/distribution.yaml`,
and prints the offset of the first at which the reward calls as many images bright as truly are, see
`algorithm.distribution.offsets`. The count of a person can replace the truth.
"""

from pathlib import Path

import torch
from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.texts import read_texts
from srpo_ray.flow import generator
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.trainable import load_tuned, make_policy, model_dtype
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.small_world.truth import measure
from srpo_ray.training.evaluation import encode_evaluated

CONFIGS = Path(__file__).parents[1] / "configs"
BATCH = 16
SEED = 99
ATTRIBUTES = ("bright", "dark")


def main() -> None:
    """Print shares and offset."""
    differences, bright = scored(load_run([CONFIGS / "small_world.yaml", CONFIGS / "algorithms" / "distribution.yaml"]))
    share = bright.double().mean().item()
    print(f"images: {len(bright)}, truly bright: {share:.3f}, by the reward: {(differences > 0).double().mean():.3f}")
    print(f"offsets: [{offset_of(differences, share):.3f}, 0]")


def offset_of(differences: Tensor, share: float) -> float:
    """Number to add to the first attribute's score, so that a share of the images scores higher for it.

    Args:
        differences: Scores for the first attribute minus those for the second `[N]`.
        share: Share of the images that have the first attribute.
    """
    return -torch.quantile(differences.double(), 1 - share).item()


@torch.no_grad()
def scored(config: RunConfig) -> tuple[Tensor, Tensor]:
    """Sample an image of each training prompt, and return differences of scores `[N]` and true attributes `[N]`."""
    prompts, cache = read_texts(config).trained.prompts, TextCache.of(config)
    encode_evaluated(config)
    if missing := cache.missing(prompts):
        cache.load_encoder("cpu")(missing)
    features, rollout = cache.features(prompts), config.rollout
    transformer = load_tuned(config, model_dtype(config), "cpu", None)
    policy = make_policy(config, transformer, transformer.config, "cpu")
    rewards = LocalRewards.load(config.rewards.models, (), factors=config.rewards.factors)
    sigmas = sigma_grid(config.model)(rollout.num_steps, rollout.shift)
    differences, bright = list[Tensor](), list[Tensor]()
    for start in range(0, len(prompts), BATCH):
        rows = list(range(start, min(start + BATCH, len(prompts))))
        noise = policy.noise([generator(SEED, "attribute", row) for row in rows])
        conditioning = features[rows].to(policy.device, policy.dtype)
        images = policy.decode(policy.integrate(noise, conditioning, sigmas, rollout.guidance_scale))
        texts = [prompts[row] for row in rows]
        first, second = (_total(rewards, config, images, word, texts) for word in ATTRIBUTES)
        differences.append(first - second)
        bright.append(measure(images, texts)["brightness"] > 0.5)
    return torch.cat(differences), torch.cat(bright)


def _total(rewards: LocalRewards, config: RunConfig, images: Tensor, word: str, prompts: list[str]) -> Tensor:
    queries = [TextQuery.plain(f"{word}. {prompt}") for prompt in prompts]
    scores = rewards.measure(images, queries, list(config.rewards.factors))
    return torch.stack([factor * scores[name] for name, factor in config.rewards.factors.items()]).sum(0)


if __name__ == "__main__":
    main()
