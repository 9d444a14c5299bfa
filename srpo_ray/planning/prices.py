"""Cost of runs: GPU-hours of trainers and reward replicas, wall-clock time, and money."""

from dataclasses import dataclass

from srpo_ray.config import ExperimentConfig
from srpo_ray.config.budget import Limit, gpu_models


@dataclass(frozen=True)
class Prices:
    """Prices of a GPU-hour, in one currency."""

    trainers: float
    rewards: float

    @classmethod
    def of(cls, config: ExperimentConfig) -> "Prices | None":
        """Read the prices of an experiment; None if it has none."""
        price, models = config.price, gpu_models(config.gpus, config.price)
        if price is None or not isinstance(price, dict):
            return None if price is None else cls(price, price)
        assert models is not None
        return cls(price[models.trainers], price[models.of_rewards])


@dataclass(frozen=True)
class Cost:
    """Cost of one run or of several."""

    hours: float = 0.0
    """Wall-clock hours."""
    trainer_gpu_hours: float = 0.0
    reward_gpu_hours: float = 0.0

    def amounts(self, prices: Prices | None) -> dict[Limit, float]:
        """Quantities that a budget can limit; money is 0 without prices."""
        gpu_hours = self.trainer_gpu_hours + self.reward_gpu_hours
        return {"gpu_hours": gpu_hours, "hours": self.hours, "money": self.money(prices) or 0.0}

    def money(self, prices: Prices | None) -> float | None:
        """GPU-hours times prices; None without prices."""
        if prices is None:
            return None
        return self.trainer_gpu_hours * prices.trainers + self.reward_gpu_hours * prices.rewards


def run_cost(hours: float, trainer_gpus: float, reward_gpus: float, concurrency: int) -> Cost:
    """Cost of one run.

    Args:
        hours: Hours of the run.
        trainer_gpus: GPUs that its trainer workers reserve.
        reward_gpus: GPUs that the replicas of all reward pools reserve.
        concurrency: Runs at the same time, which share the reward pools equally.
    """
    return Cost(hours, hours * trainer_gpus, hours * reward_gpus / concurrency)
