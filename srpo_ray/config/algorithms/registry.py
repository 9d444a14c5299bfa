"""Registry of the algorithms' config classes by `type`."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from srpo_ray.config.algorithms.align_prop import AlignPropConfig
from srpo_ray.config.algorithms.base import AlgorithmSection, Needs
from srpo_ray.config.algorithms.dance_grpo import DanceGRPOConfig
from srpo_ray.config.algorithms.direct_align import DirectAlignConfig
from srpo_ray.config.algorithms.draft import DRaFTConfig
from srpo_ray.config.algorithms.drtune import DRTuneConfig
from srpo_ray.config.algorithms.flow_bp import FlowBPConfig
from srpo_ray.config.algorithms.leap_align import LeapAlignConfig
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
_Configs = _RewardGradients | DanceGRPOConfig

TYPES: dict[str, type[AlgorithmSection]] = {kind.model_fields["type"].default: kind for kind in get_args(_Configs)}
"""Name of each algorithm -> config class."""
DEFAULT_TYPE = "srpo"
"""Default algorithm."""
DEFAULT = SRPOConfig()


def _name_default(section: Any) -> Any:
    return {"type": DEFAULT_TYPE, **section} if isinstance(section, Mapping) else section


AlgorithmConfig = Annotated[_Configs, Field(discriminator="type"), BeforeValidator(_name_default)]
"""Section `algorithm`, with the class that `type` selects."""


def types_that(fit: Callable[[Needs], bool]) -> str:
    """List the names of the algorithms with suitable needs, for messages: `direct_align or srpo`."""
    return " or ".join(sorted(name for name, kind in TYPES.items() if fit(kind.needs)))
