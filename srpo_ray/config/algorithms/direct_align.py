"""Options of Direct-Align."""

from typing import ClassVar, Literal

from srpo_ray.config.algorithms.base import Calls
from srpo_ray.config.algorithms.window import WindowSection


class DirectAlignConfig(WindowSection):
    """Direct-Align with a plain reward, arXiv 2509.06942; window and strength default to SRPO's HPSv2.1 recipe."""

    code: ClassVar[str] = "srpo_ray.algorithms.direct_align:DirectAlign"
    keeps_rollout: ClassVar[bool] = True
    type: Literal["direct_align"] = "direct_align"

    def calls(self, num_steps: int) -> Calls:
        """Count one rollout and one loss."""
        return Calls(num_steps, guidance_scale=self.guidance_scale)
