"""FlowBP (arXiv 2606.11075): reward back-propagation through a sparse surrogate of the rollout.

The reward sees the sampled image. Its gradient reaches a few active steps, each weighed by its Euler step.
FlowBP-Sparse detaches the input of every active step. In FlowBP-Bridge, one of them splits the rollout and passes a
part of its gradient on to the active steps before it, so the gradient has one Jacobian of the velocity and no longer
chain. The formulas are those of the paper's public summary. The late bias of the draw and the equal number of active
steps on both sides of the bridge are this implementation's.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.algorithms.step_gradients import Trajectory, collect_trajectory, pinned, scaled_gradient, sum_of_steps
from srpo_ray.config.algorithms.flow_bp import FlowBPConfig
from srpo_ray.flow import per_sample


class FlowBP(Algorithm[FlowBPConfig]):
    """FlowBP-Sparse and FlowBP-Bridge."""

    def collect(self, batch: Batch) -> Trajectory:
        """Sample the images, without gradient."""
        return collect_trajectory(self, batch, self.sigmas)

    def losses(self, batch: Batch, collected: Trajectory, part: int = 0) -> Iterator[Loss]:
        """Yield the single loss of the batch."""
        before, after = self._draw(batch)
        factor = self._factor(torch.stack([*before, *after]))
        carrier = torch.zeros_like(collected.points[0])
        start: Tensor | None = None
        if before:
            carrier = per_sample(factor, carrier) * sum_of_steps(self, batch, collected, before)
            start = pinned(collected.at(after[0]), scaled_gradient(carrier, self.config.bridge_gradient))
        late = sum_of_steps(self, batch, collected, after, start)
        clean = pinned(collected.points[-1], carrier + per_sample(factor, late) * late)
        yield reward_loss(
            self.rewards,
            self.policy.decode_for_training(clean),
            self.queries(batch),
            "sample",
            metrics={"step/gradient_factor": factor},
            hinge=self.config.hinge,
        )

    def _draw(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Draw the active steps before the splitting step, and those from it on, `[B]` each; none before if sparse."""
        rows = [self._draw_row(source) for source in batch.draws.generators("flow_bp")]
        steps = list(torch.tensor(rows).unbind(1))
        count = self.config.before_bridge if self.config.variant == "bridge" else 0
        return steps[:count], steps[count:]

    def _draw_row(self, source: torch.Generator) -> list[int]:
        """Draw the active steps of a sample in ascending order."""
        config, num_steps = self.config, self.rollout.num_steps
        if config.variant == "sparse":
            return self._draw_steps(range(num_steps), config.active_steps, source)
        before, after = config.before_bridge, config.active_steps - config.before_bridge - 1
        split = int(torch.randint(before, num_steps - after, (), generator=source))
        early = self._draw_steps(range(split), before, source)
        return [*early, split, *self._draw_steps(range(split + 1, num_steps), after, source)]

    def _draw_steps(self, steps: range, count: int, source: torch.Generator) -> list[int]:
        """Draw `count` different steps of a range with the late bias, in ascending order."""
        if not count:
            return []
        places = torch.arange(1, len(steps) + 1, dtype=torch.float64) / len(steps)
        drawn = torch.multinomial(places**self.config.late_bias, count, generator=source)
        return [steps[place] for place in sorted(drawn.tolist())]

    def _factor(self, active: Tensor) -> Tensor:
        """Compute the correction `[B]` for inactive steps, from the active steps `[K, B]`."""
        lengths = (self.sigmas[active] - self.sigmas[active + 1]).sum(dim=0)
        return 1 + self.config.rescale * ((self.sigmas[0] - self.sigmas[-1]) / lengths - 1)
