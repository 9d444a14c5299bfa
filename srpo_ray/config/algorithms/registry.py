"""Registry of the algorithms' config classes by `type`."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from srpo_ray.config.algorithms.align_prop import AlignPropConfig
from srpo_ray.config.algorithms.awm import AWMConfig
from srpo_ray.config.algorithms.base import AlgorithmSection, Needs
from srpo_ray.config.algorithms.crd import CRDConfig
from srpo_ray.config.algorithms.dance_grpo import DanceGRPOConfig
from srpo_ray.config.algorithms.diffusion_nft import DiffusionNFTConfig
from srpo_ray.config.algorithms.direct_align import DirectAlignConfig
from srpo_ray.config.algorithms.draft import DRaFTConfig
from srpo_ray.config.algorithms.drtune import DRTuneConfig
from srpo_ray.config.algorithms.flow_bp import FlowBPConfig
from srpo_ray.config.algorithms.leap_align import LeapAlignConfig
from srpo_ray.config.algorithms.policy_gradient import PolicyGradientConfig
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.config.algorithms.raft import RAFTConfig
from srpo_ray.config.algorithms.refl import ReFLConfig
from srpo_ray.config.algorithms.srpo import SRPOConfig

_RewardGradients = (
    SRPOConfig
    | DirectAlignConfig
    | ReFLConfig
    | DRaFTConfig
    | AlignPropConfig
    | DRTuneConfig
    | LeapAlignConfig
    | FlowBPConfig
)
_PolicyGradients = DanceGRPOConfig | PolicyGradientConfig
_ForwardProcess = AWMConfig | DiffusionNFTConfig | RAFTConfig | CRDConfig
_Configs = _RewardGradients | _PolicyGradients | _ForwardProcess | PreferenceConfig

TYPES: dict[str, type[AlgorithmSection]] = {kind.model_fields["type"].default: kind for kind in get_args(_Configs)}
"""Name of each algorithm -> config class."""
DEFAULT_TYPE = "srpo"
"""Default algorithm."""
DEFAULT = SRPOConfig()


def _name_default(section: Any) -> Any:
    return {"type": DEFAULT_TYPE, **section} if isinstance(section, Mapping) else section


AlgorithmConfig = Annotated[_Configs, Field(discriminator="type"), BeforeValidator(_name_default)]
"""Section `algorithm`, with the class that `type` selects."""


def part_types(name: Any) -> dict[str, str]:
    """Return the parts of an algorithm's section whose keys depend on their `type`, with the default type of each.

    Args:
        name: Type of the algorithm; an unknown one has no such parts.
    """
    kind = TYPES.get(name) if isinstance(name, str) else None
    fields = kind.model_fields if kind else {}
    return {part: info.default.type for part, info in fields.items() if info.discriminator}


def types_that(fit: Callable[[Needs], bool]) -> str:
    """List the names of the algorithms with suitable needs, for messages: `direct_align or srpo`."""
    return " or ".join(sorted(name for name, kind in TYPES.items() if fit(kind.needs)))
