"""Measurement of the reference gradient and of each method's gradients, as files of dot products."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from gradient_methods import METHODS, REFERENCES, Objective
from gradient_updates import ExpectedReward, Updates, World, encode_texts
from safetensors.torch import load_file, save_file
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.config.base import folder_name
from srpo_ray.files import write_text

STEP = 0.01
"""Length of the steps in weight space by which the reference is checked; the weights have a norm of about 100."""


@dataclass(frozen=True)
class Options:
    """Extent of a measurement."""

    prompts: int
    """Prompts of a block of the reference, drawn for each block; one image each."""
    references: int
    """Independent blocks of the reference."""
    blocks: int
    """Independent blocks of updates of a method."""
    evaluations: int
    """Velocity evaluations of a block, from which its number of updates follows."""
    least: int
    """Minimum of updates of a block."""
    most: int
    """Maximum of updates of a block."""
    root: str = ""
    """Folder of the results."""

    def reference_file(self, objective: Objective, index: int) -> Path:
        """File of a block of the reference of an objective."""
        return Path(self.root) / "reference" / f"{objective}-{self.prompts}-{index}.safetensors"

    def check_file(self, objective: Objective) -> Path:
        """File of the check of a reference."""
        return Path(self.root) / "reference" / f"{objective}-{self.prompts}-check.json"

    def method_file(self, name: str) -> Path:
        """File of a finished method."""
        return Path(self.root) / "methods" / f"{folder_name(name)}.json"


def finished(options: Options, name: str) -> dict[str, Any] | None:
    """Read the result of a method; None if it is missing, or was measured with other options or settings."""
    file = options.method_file(name)
    found = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("key") == _key(options, name) else None


def _key(options: Options, name: str) -> dict[str, Any]:
    method = METHODS[name]
    extent = {field: value for field, value in asdict(options).items() if field != "root"}
    return {**extent, "preset": method.preset, "settings": list(method.settings)}


def prepare(options: Options, names: Sequence[str]) -> None:
    """Make the folders and encode the texts of methods, before several processes need them."""
    for folder in (options.reference_file("plain", 0).parent, options.method_file("").parent):
        folder.mkdir(parents=True, exist_ok=True)
    for config in (METHODS[name].config(Path(options.root)) for name in names):
        encode_texts(config)


def _config(objective: Objective, options: Options) -> RunConfig:
    """Config with model, rewards, sampler and query of an objective."""
    return METHODS[REFERENCES[objective]].config(Path(options.root))


@cache
def _world(options: Options, objective: Objective) -> World:
    return World.load(_config(objective, options))


def measure_reference(options: Options, objective: Objective, index: int) -> str:
    """Write a block of the reference: the gradient through all steps of the sampler."""
    started = time.monotonic()
    expected = ExpectedReward(_config(objective, options), _world(options, objective), options.prompts)
    gradient, reward = expected.gradient(index)
    file = options.reference_file(objective, index)
    unfinished = file.with_suffix(".unfinished")
    save_file({"gradient": gradient}, unfinished, {"reward": str(reward)})
    unfinished.rename(file)
    seconds = time.monotonic() - started
    return f"{objective}, block {index}: mean reward {reward:.4f}, norm {gradient.norm():.3f}, {seconds:.0f} s"


def _references(options: Options, objective: Objective) -> Tensor:
    """All blocks of the reference `[R, D]`, float64."""
    files = [options.reference_file(objective, index) for index in range(options.references)]
    return torch.stack([load_file(file)["gradient"] for file in files]).double()


def check_reference(options: Options, objective: Objective) -> str:
    """Compare the slope of the first block's mean reward along the mean of the others with a difference quotient."""
    gradients, world = _references(options, objective), _world(options, objective)
    direction = gradients[1:].mean(0)
    direction /= direction.norm()
    expected = ExpectedReward(_config(objective, options), world, options.prompts)
    ends = []
    for sign in (1, -1):
        world.move(-sign * STEP * direction.float())
        ends.append(expected.value(0))
        world.move(sign * STEP * direction.float())
    slope, difference = (gradients[0] @ direction).item(), (ends[0] - ends[1]) / (2 * STEP)
    products = gradients @ gradients.T
    halves = [gradients[half::2].mean(0) for half in (0, 1)]
    cosine = torch.cosine_similarity(halves[0], halves[1], dim=0).item()
    found = {"slope": slope, "difference": difference, "halves": cosine, "products": products.tolist()}
    write_text(options.check_file(objective), json.dumps(found) + "\n")
    return f"{objective}: slope {slope:.4f}, difference quotient {difference:.4f}; cosine of two halves {cosine:.3f}"


def measure_method(options: Options, name: str) -> str:
    """Write the dot products of a method's gradients."""
    started = time.monotonic()
    method = METHODS[name]
    config = method.config(Path(options.root))
    updates = Updates(config, _world(options, method.objective))
    first = updates.gradient(1, 0)
    count = min(options.most, max(options.least, round(options.evaluations / first[1])))
    means, squares, costs, second = [], [], list[float](), torch.zeros(())
    for block in range(options.blocks):
        total, norms = torch.zeros(()), list[float]()
        for index in range(count):
            # The index goes on, so that methods whose steps depend on it show all of them.
            at = block + 1, block * count + index
            gradient, cost = first if at == (1, 0) else updates.gradient(*at)
            total, second = total + gradient, second + gradient.square()
            norms.append(gradient.double().square().sum().item())
            costs.append(cost)
        means.append(total / count)
        squares.append(sum(norms) / count)
    found = {
        "key": _key(options, name),
        "images": config.training.batch_size * updates.images_per_prompt,
        "updates": options.blocks * count,
        "cost": sum(costs) / len(costs),
        "squares": squares,
        **_dots(torch.stack(means), (second / len(costs)).sqrt(), _references(options, method.objective)),
        "seconds": time.monotonic() - started,
    }
    write_text(options.method_file(name), json.dumps(found) + "\n")
    return f"{name}: {len(costs)} updates of {found['cost']:.0f} evaluations, {found['seconds']:.0f} s"


def _dots(means: Tensor, roots: Tensor, references: Tensor) -> dict[str, list[list[float]]]:
    """Dot products of block means `[B, D]` and references `[R, D]`, see `GradientDots`."""
    # Elements without any gradient stay 0.
    scaled = (means / roots.clamp(min=torch.finfo(torch.float32).tiny)).double()
    means = means.double()
    return {
        "own": (means @ means.T).tolist(),
        "cross": (means @ references.T).tolist(),
        "reference": (references @ references.T).tolist(),
        "scaled": (scaled @ references.T).tolist(),
    }
