"""Planned memory of the laboratory's arms on FLUX.1-dev, with as many images per update as on the small world."""

from pathlib import Path

from srpo_ray.config import apply
from srpo_ray.config.load import load_run, read_yaml
from srpo_ray.planning.hardware import GIB, Hardware
from srpo_ray.planning.plan import make_plan

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPE = CONFIGS / "recipes" / "flux_lora_48gb.yaml"
"""FLUX.1-dev at 512 px with LoRA of rank 32 and one graph at a time; rewards have their own GPU."""
SIZES = ("training.batch_size",)
"""Keys of an arm, beside those of section `algorithm`, that set the images of an update."""


def planned_peak(experiment: str, arm: str) -> float:
    """Peak GiB of the trainer's GPU for the method of an arm.

    Args:
        experiment: File in configs/experiments/laboratory/, without `.yaml`.
        arm: Name of one of its arms.
    """
    file = CONFIGS / "experiments" / "laboratory" / f"{experiment}.yaml"
    arms = {each["name"]: each for each in read_yaml(file)["arms"]}
    own, changes = arms[arm], arms[arm].get("set", {})
    while "like" in own:
        own = arms[own["like"]]
        changes = {**own.get("set", {}), **changes}
    preset = [file.parent / own["config"]] if "config" in own else []
    method = {key: value for key, value in changes.items() if key in SIZES or key.startswith("algorithm.")}
    config = apply(load_run([RECIPE, *preset], ["rollout.guidance_scale=3.5"]), method)
    return make_plan(config, Hardware("A100-80GB")).gpus[0].peak / GIB
