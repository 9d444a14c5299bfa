"""Advantage weighted matching (AWM, arXiv 2509.25050): a policy gradient without the sampler's densities.

The log-likelihood of an image is minus its weighted matching error at a few points. With `weighting: plain` and without
a ratio the loss is the advantage times the evidence lower bound (arXiv 2602.04663).
"""

from torch import Tensor

from srpo_ray.algorithms.advantages import group_advantages
from srpo_ray.algorithms.forward_losses import advantage_weighted, clipped_ratio, matching_error, weighted_error
from srpo_ray.algorithms.forward_process import ForwardProcess, Inputs
from srpo_ray.config.algorithms.awm import AWMConfig


class AWM(ForwardProcess[AWMConfig]):
    """Advantage weighted matching."""

    def weights(self, rewards: Tensor) -> Tensor:
        """Compute advantages, scaled from the limit to `advantage_scale`."""
        limit = self.config.advantage_limit
        return group_advantages(rewards, limit) * (self.config.advantage_scale / limit)

    def point_loss(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the clipped ratio times the advantage, or the advantage times minus the log-likelihood."""
        minus_log = self._minus_log(inputs.error, inputs)
        if self.config.clip_range is None:
            return advantage_weighted(minus_log, inputs.weights), {}
        # In the first optimizer step the policy is the one that sampled.
        sampled = inputs.velocities.get("policy")
        error = inputs.error.detach() if sampled is None else matching_error(sampled, inputs.point.target)
        losses, outside = clipped_ratio(
            minus_log, self._minus_log(error, inputs), inputs.weights, self.config.clip_range
        )
        return losses, {"ratio/clip_fraction": outside}

    def _minus_log(self, error: Tensor, inputs: Inputs) -> Tensor:
        return weighted_error(error, inputs.point.sigma, self.config.weighting, self.config.huber_power)
