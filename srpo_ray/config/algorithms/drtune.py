"""Options of DRTune.

The gradient goes through steps of the sampler, so section `rollout` determines their number, shift and guidance.
"""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.query import QuerySection


class DRTuneConfig(QuerySection):
    """Deep reward tuning (DRTune), arXiv 2405.00760.

    Defaults are those of its reproduction for FLUX in LeapAlign (arXiv 2604.15311, appendix E, 25 steps): two trained
    steps, a stop in the last 11 steps, ReFL's hinge.
    """

    code: ClassVar[str] = "srpo_ray.algorithms.drtune:DRTune"
    needs: ClassVar[Needs] = Needs(accepts_approximate_rollouts=True)
    type: Literal["drtune"] = "drtune"
    train_steps: int = Field(default=2, ge=1)
    """Number of evenly spaced sampler steps with gradient; those after the stop are left out."""
    late_share: float = Field(default=0.44, gt=0, le=1)
    """Share of the sampler's last steps among which the stop is drawn, in (0, 1]; 0.44 is 11 of 25. At the stop, one
    step to sigma 0 predicts the clean image."""
    hinge: float = 0.55
    """Hinge of the loss `relu(hinge - reward)`. The default is for HPSv2.1; for other rewards set it above their
    range."""

    def late_steps(self, num_steps: int) -> int:
        """Count the last sampler steps among which the stop is drawn."""
        return max(1, round(self.late_share * num_steps))

    def trained(self, num_steps: int, offset: int, stop: int) -> list[int]:
        """List the steps with gradient, from 0, in the order of the sampler.

        Args:
            num_steps: Steps of the sampler.
            offset: Steps after the last trained one, from 0 to `last_offset`.
            stop: Step that predicts the clean image; trained steps after it are left out.
        """
        spacing = num_steps // self.train_steps
        steps = [num_steps - 1 - offset - index * spacing for index in range(self.train_steps)]
        return [step for step in reversed(steps) if step <= stop]

    def last_offset(self, num_steps: int) -> int:
        """Compute the largest offset, with which the first trained step is step 0."""
        return num_steps - 1 - (self.train_steps - 1) * (num_steps // self.train_steps)

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout up to the stop, one step to the clean image, and the trained steps again with gradient."""
        stops = range(num_steps - self.late_steps(num_steps), num_steps)
        offsets = range(self.last_offset(num_steps) + 1)
        counts = [len(self.trained(num_steps, offset, stop)) for stop in stops for offset in offsets]
        forward = sum(stop + 1 for stop in stops) / len(stops)
        mean = sum(counts) / len(counts)
        return Calls(forward, chained=max(counts), mean_chained=mean, kept=num_steps + 1)

    def check_rollout(self, num_steps: int) -> None:
        """Check that there is a trained step before every stop."""
        if self.train_steps > num_steps:
            raise ValueError(
                f"expected algorithm.train_steps of at most rollout.num_steps = {num_steps}, got {self.train_steps};"
                " lower the one or raise the other"
            )
        earliest, late = num_steps - self.late_steps(num_steps), self.late_steps(num_steps)
        if not self.trained(num_steps, 0, earliest):
            raise ValueError(
                f"expected a trained step before every stop, got train_steps={self.train_steps} and a stop in the last"
                f" {late} of rollout.num_steps = {num_steps} steps (late_share={self.late_share:g}); with an early"
                " stop, all trained steps may lie after it, so raise train_steps or lower late_share"
            )
