"""RAFT (arXiv 2304.06767) and reward-weighted regression: flow matching on the policy's own images, best ones first."""

from torch import Tensor

from srpo_ray.algorithms.forward_losses import best_weights, softmax_weights
from srpo_ray.algorithms.forward_process import ForwardProcess, Inputs
from srpo_ray.config.algorithms.raft import RAFTConfig


class RAFT(ForwardProcess[RAFTConfig]):
    """Fine-tuning on weighted images."""

    def weights(self, rewards: Tensor) -> Tensor:
        """Compute weights with a mean of 1 over each prompt."""
        if self.config.selection == "best":
            return best_weights(rewards, self.config.best)
        return softmax_weights(rewards, self.config.temperature)

    def point_loss(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted matching error."""
        return inputs.weights * inputs.error, {}
