"""Check of `dtype: bfloat16` before a run: `python -m srpo_ray.launch.reward_precision CONFIG...`.

For each trained reward model, it prints the cosine between its image gradients in bfloat16 and in float32.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.rewards import BuiltInRewardSection, RewardModelConfig
from srpo_ray.data.images import EMBEDDED, load_images
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery

LEAST_COSINE = 0.999
"""Cosine below which a gradient in bfloat16 counts as too coarse."""
_EMBEDDED_SIZE = 64


@dataclass(frozen=True)
class Precision:
    """Agreement of a reward in bfloat16 with the same reward in float32, over some images."""

    reward: str
    query: str
    """`plain` or `relative`."""
    cosine: float
    """Lowest cosine of an image between the two gradients."""
    score_error: float
    """Largest absolute difference of a score."""

    @property
    def passes(self) -> bool:
        """True if every gradient has almost the same direction."""
        return self.cosine >= LEAST_COSINE


def reward_precision(
    config: RewardModelConfig, images: Tensor, queries: Mapping[str, Sequence[TextQuery]], device: str = "cpu"
) -> Iterator[Precision]:
    """Compare a reward model in bfloat16 with itself in float32, as training uses it.

    Args:
        config: A model that this package loads; its own `dtype` is ignored.
        images: `[B, 3, H, W]` in [0, 1], of any size.
        queries: Kind of query -> B text queries.
        device: Device of the models, of which one at a time is loaded.

    Yields:
        One result per kind of query.
    """
    found: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for dtype in ("float32", "bfloat16"):
        rewards = LocalRewards.load([config.model_copy(update={"dtype": dtype, "weight": 1.0})], device=device)
        found[dtype] = {kind: _score_and_gradient(rewards, images.to(device), queries[kind]) for kind in queries}
    for kind in queries:
        (scores, exact), (rounded_scores, rounded) = found["float32"][kind], found["bfloat16"][kind]
        cosines = torch.cosine_similarity(rounded.flatten(1).double(), exact.flatten(1).double())
        yield Precision(config.name, kind, float(cosines.min()), float((rounded_scores - scores).abs().max()))


def _score_and_gradient(rewards: LocalRewards, images: Tensor, queries: Sequence[TextQuery]) -> tuple[Tensor, Tensor]:
    pixels = images.detach().requires_grad_()
    total = rewards.submit(pixels, queries).result().total
    (gradient,) = torch.autograd.grad(total.sum(), pixels)
    return total.detach(), gradient


def check_run(config: RunConfig, count: int, device: str) -> list[Precision]:
    """Check the trained rewards of a run on images of `data.images`, or of the small world.

    Args:
        config: The run.
        count: Number of images.
        device: Device of the reward models.

    Raises:
        ValueError: If images or a model cannot be read.
    """
    source = config.data.images or EMBEDDED
    real = load_images(source)
    chosen = range(min(count, len(real.captions)))
    images = real.load(chosen, _EMBEDDED_SIZE if source == EMBEDDED else config.model.size.resolution)
    found: list[Precision] = []
    for model in config.rewards.models:
        if isinstance(model, BuiltInRewardSection):
            found += reward_precision(model, images, _queries(config, model, real.captions[: len(chosen)]), device)
    return found


def _queries(config: RunConfig, model: RewardModelConfig, prompts: Sequence[str]) -> dict[str, list[TextQuery]]:
    queries = {"plain": [TextQuery.plain(prompt) for prompt in prompts]}
    words = config.trained_words
    if words and words.complete and model.reads_text:
        queries["relative"] = [TextQuery.relative(prompt, words.positive, words.negative) for prompt in prompts]
    return queries


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per reward and kind of query. Exit code 1: a cosine is below 0.999."""
    parser = argparse.ArgumentParser(prog="python -m srpo_ray.launch.reward_precision", description=__doc__)
    parser.add_argument("config", nargs="+", help="config files and a.b=value arguments of a run")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="number of images (default 8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parsed = parser.parse_args(arguments)
    try:
        config = load_run(
            [word for word in parsed.config if "=" not in word], [word for word in parsed.config if "=" in word]
        )
        found = check_run(config, parsed.images, parsed.device)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for each in found:
        verdict = "" if each.passes else f", below {LEAST_COSINE}: keep dtype float32"
        print(
            f"{each.reward}, {each.query} query: cosine of the gradients at least {each.cosine:.5f}, scores within"
            f" {each.score_error:.2g}{verdict}"
        )
    return int(not all(each.passes for each in found))


if __name__ == "__main__":
    sys.exit(main())
