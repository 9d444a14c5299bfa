"""Planned memory of the laboratory's arms on FLUX.1-dev, with as many images per update as on the small world."""

from pathlib import Path

from srpo_ray.config.load import load_run, read_yaml
from srpo_ray.planning.hardware import GIB, Hardware
from srpo_ray.planning.plan import make_plan

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPE = CONFIGS / "recipes" / "flux_lora_48gb.yaml"
"""FLUX.1-dev at 512 px with LoRA of rank 32 and one graph at a time; rewards have their own GPU."""
SIZES = ("training.batch_size", "algorithm.group_size")
"""Keys of an arm that set the images of an update."""


def planned_peak(experiment: str, arm: str) -> float:
    """Peak GiB of the trainer's GPU for the method of an arm.

    Args:
        experiment: File in configs/experiments/laboratory/, without `.yaml`.
        arm: Name of one of its arms.
    """
    file = CONFIGS / "experiments" / "laboratory" / f"{experiment}.yaml"
    own = next(each for each in read_yaml(file)["arms"] if each["name"] == arm)
    preset = [file.parent / own["config"]] if "config" in own else []
    sizes = [f"{key}={own['set'][key]}" for key in SIZES if key in own["set"]]
    config = load_run([RECIPE, *preset], ["rollout.guidance_scale=3.5", *sizes])
    return make_plan(config, Hardware("A100-80GB")).gpus[0].peak / GIB
