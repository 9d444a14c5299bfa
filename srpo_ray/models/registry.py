"""Registry of model families: maps each family to its policy class."""

from srpo_ray.models.families import FLUX, SD3, family_of
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.sd3 import SD3Policy

POLICIES: dict[str, type[FlowPolicy]] = {FLUX.pipeline: FluxPolicy, SD3.pipeline: SD3Policy}


def policy_class(path: str) -> type[FlowPolicy]:
    """Return the policy class of the pipeline at a path.

    Raises:
        ValueError: As `family_of`.
    """
    return POLICIES[family_of(path).pipeline]
