"""Command-line changes that make a sweep file of `configs/sweep` a short sweep on the small world."""

import json
from pathlib import Path

import yaml

CHANGES = Path(__file__).with_suffix(".yaml")


def small_world_sweep() -> list[str]:
    """Arguments `a.b=value` of `srpo-ray sweep`; YAML reads JSON."""
    return [f"{path}={json.dumps(value)}" for path, value in yaml.safe_load(CHANGES.read_text()).items()]
