"""Clean samples of a rollout with the noise that losses mix into them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """Clean samples, and the noise for renoising them."""

    clean: Tensor
    """Clean tokens `[B, N, 64]`."""
    noise: Tensor
    """Noise tokens `[B, N, 64]`."""

    def __getitem__(self, rows: slice) -> "Rollout":
        return Rollout(self.clean[rows], self.noise[rows])
