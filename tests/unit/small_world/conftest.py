"""Models of the shipped weights, loaded once per test run."""

import pytest
from diffusers import FluxPipeline

from srpo_ray.small_world.weights import flux_dir


@pytest.fixture(scope="session")
def pipeline() -> FluxPipeline:
    return FluxPipeline.from_pretrained(flux_dir())
