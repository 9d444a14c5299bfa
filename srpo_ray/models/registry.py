"""Registry of model families: maps each family to its policy class."""

from srpo_ray.models.families import FLUX, FLUX2, FLUX2_KLEIN, KREA2, QWEN_IMAGE, QWEN_IMAGE21, SD3, Z_IMAGE, family_of
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.flux2 import Flux2KleinPolicy, Flux2Policy
from srpo_ray.models.krea2 import Krea2Policy
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.qwen_image import QwenImagePolicy
from srpo_ray.models.qwen_image21 import QwenImage21Policy
from srpo_ray.models.sd3 import SD3Policy
from srpo_ray.models.z_image import ZImagePolicy

POLICIES: dict[str, type[FlowPolicy]] = {
    FLUX.pipeline: FluxPolicy,
    SD3.pipeline: SD3Policy,
    FLUX2_KLEIN.pipeline: Flux2KleinPolicy,
    FLUX2.pipeline: Flux2Policy,
    Z_IMAGE.pipeline: ZImagePolicy,
    QWEN_IMAGE.pipeline: QwenImagePolicy,
    KREA2.pipeline: Krea2Policy,
    QWEN_IMAGE21.pipeline: QwenImage21Policy,
}


def policy_class(path: str) -> type[FlowPolicy]:
    """Return the policy class of the pipeline at a path.

    Raises:
        ValueError: As `family_of`.
    """
    return POLICIES[family_of(path).pipeline]
