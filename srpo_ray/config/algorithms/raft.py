"""Options of RAFT and of reward-weighted regression, which train on the policy's own images."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.algorithms.forward_process import ForwardProcessSection


class RAFTConfig(ForwardProcessSection):
    """Reward-ranked fine-tuning (RAFT), arXiv 2304.06767, or reward-weighted regression with `selection: softmax`.

    The loss is the flow-matching loss of the sampled images, with weights from their rewards that average 1 over the
    group of a prompt.
    """

    code: ClassVar[str] = "srpo_ray.algorithms.raft:RAFT"
    type: Literal["raft"] = "raft"
    selection: Literal["best", "softmax"] = "best"
    """Weights of a prompt's images: equal for the `best` ones and zero for the others, or the `softmax` of the rewards
    divided by `temperature`."""
    best: int = Field(default=1, ge=1)
    """Images of a prompt that `selection: best` keeps, fewer than `group_size`."""
    temperature: float = Field(default=0.1, gt=0)
    """Difference of two rewards, in the units of the weighted sum of the rewards, that multiplies the weight by e,
    above 0. Near 0 only the best image counts."""

    @property
    def compared(self) -> tuple[Role, ...]:
        """None."""
        return ()

    @model_validator(mode="after")
    def _check_best(self) -> Self:
        if self.selection == "best" and self.best >= self.group_size:
            raise ValueError(
                f"expected algorithm.best below algorithm.group_size = {self.group_size}, got {self.best}; with all"
                " images kept, the rewards have no effect: lower best or raise group_size"
            )
        return self
