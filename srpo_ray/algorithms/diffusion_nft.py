"""DiffusionNFT (arXiv 2509.16117): a positive and a negative policy, both implied by the trained and the old one.

The old weights sample, and follow the policy slowly. Good images draw the positive policy, bad ones the negative one.
"""

from torch import Tensor

from srpo_ray.algorithms.advantages import group_advantages
from srpo_ray.algorithms.forward_losses import negative_aware, optimality
from srpo_ray.algorithms.forward_process import ForwardProcess, Inputs
from srpo_ray.config.algorithms.diffusion_nft import DiffusionNFTConfig


class DiffusionNFT(ForwardProcess[DiffusionNFTConfig]):
    """Negative-aware fine-tuning."""

    def weights(self, rewards: Tensor) -> Tensor:
        """Compute rewards in [0, 1] from the advantages."""
        return optimality(group_advantages(rewards, self.config.advantage_limit), self.config.advantage_limit)

    def point_loss(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of both policies."""
        point, config = inputs.point, self.config
        old, strength, limit = inputs.velocities["old"], config.strength, config.advantage_limit
        losses = negative_aware(inputs.velocity, old, point.target, point.sigma, inputs.weights, strength, limit)
        return losses, {}
