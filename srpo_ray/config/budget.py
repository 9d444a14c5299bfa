"""Budget of an experiment, and the prices that its money is counted with."""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from srpo_ray.config.base import Section, check_plain

GpuName = Literal["A100-40GB", "A100-80GB", "A6000", "H20", "H100", "H200", "L40S", "RTX4090"]
"""GPU models that plans and prices know."""
GPU_NAMES: tuple[str, ...] = get_args(GpuName)

Limit = Literal["gpu_hours", "hours", "money"]
LIMITS: tuple[Limit, ...] = get_args(Limit)
"""Quantities that a budget can limit."""


def _check_prices(prices: dict[str, float]) -> dict[str, float]:
    """Check that each price is that of a known GPU model.

    Raises:
        ValueError: If there is no price, or one of an unknown model.
    """
    check_plain(prices)
    known = ", ".join(GPU_NAMES)
    if not prices:
        raise ValueError(f"expected a price for a GPU model, got none; give one for {known}, or one number for any GPU")
    for name in prices:
        if name not in GPU_NAMES:
            raise ValueError(
                f"expected a price for one of {known}, got one for {name!r}; choose one of them, or give one number for"
                " any GPU"
            )
    return prices


def _kind(value: object) -> str:
    return "prices" if isinstance(value, dict) else "number"


Positive = Annotated[float, Field(gt=0)]
Price = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[dict[str, Positive], AfterValidator(_check_prices), Tag("prices")],
    Discriminator(_kind),
]
"""Price of a GPU-hour: one number, or GPU model -> price."""


class BudgetConfig(Section):
    """Most that an experiment may spend, in search and final runs together; the first limit that is reached ends it."""

    gpu_hours: float | None = Field(default=None, gt=0)
    """Hours of GPUs that trainers and reward replicas reserve, above 0; a GPU that is reserved and idle counts."""
    hours: float | None = Field(default=None, gt=0)
    """Hours of wall-clock time while the experiment's command runs, over all its starts, above 0."""
    money: float | None = Field(default=None, gt=0)
    """GPU-hours times their `price`, in its currency, above 0."""

    @property
    def limits(self) -> dict[Limit, float]:
        """The limits that are given."""
        given: dict[Limit, float | None] = {"gpu_hours": self.gpu_hours, "hours": self.hours, "money": self.money}
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.limits:
            raise ValueError(f"expected at least one of {', '.join(LIMITS)}, got none; give one or remove `budget`")
        return self


class GpuModels(Section):
    """GPU models that the runs of an experiment use."""

    trainers: GpuName
    """GPU model of the trainer workers."""
    rewards: GpuName | None = None
    """GPU model of the reward replicas; unset takes that of the trainers."""

    @property
    def of_rewards(self) -> GpuName:
        """GPU model of the reward replicas."""
        return self.rewards or self.trainers


def gpu_models(gpus: GpuModels | None, price: float | dict[str, float] | None) -> GpuModels | None:
    """GPU models of an experiment: those given, or the only one that has a price; None if neither says."""
    if gpus is not None or not isinstance(price, dict) or len(price) > 1:
        return gpus
    return GpuModels.model_validate({"trainers": next(iter(price))})


def check_prices(gpus: GpuModels | None, price: float | dict[str, float] | None, where: str = "price") -> None:
    """Check that each GPU model of an experiment has a price.

    Raises:
        ValueError: If one has none, or several prices are given and no model.
    """
    if not isinstance(price, dict):
        return
    models = gpu_models(gpus, price)
    if models is None:
        raise ValueError(
            f"{where}: expected `gpus` with several prices ({', '.join(price)}), got none; name the models that"
            " trainers and rewards use, for example `gpus: {trainers: H100, rewards: L40S}`"
        )
    missing = [name for name in dict.fromkeys((models.trainers, models.of_rewards)) if name not in price]
    if missing:
        raise ValueError(
            f"{where}: expected a price for {' and '.join(missing)}, got prices for {', '.join(price)} only; add it"
        )
