"""Points of judged images: clean tokens mixed with noise, states of an inversion, or states of the rollout."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch
from srpo_ray.algorithms.forward_process import Point
from srpo_ray.algorithms.preference_inversion import drawn_states, inverted_point, walk
from srpo_ray.algorithms.preference_sigmas import drawn_sigmas, grid_sigmas, inside_window
from srpo_ray.algorithms.preference_sources import Judged
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import SigmaGrid, mix
from srpo_ray.models.conditioning import Conditioning


class PreferencePoints(Algorithm[PreferenceConfig]):
    """Base of preference optimization with its points."""

    @classmethod
    def check_points(cls, config: PreferenceConfig, rollout: RolloutConfig, grid: SigmaGrid) -> None:
        """Check that the type `grid` has sigmas inside its window, and for inverted points one for each draw."""
        if config.sigma.type != "grid":
            return
        found = len(inside_window(config.sigma, grid_of_points(config, grid, rollout)))
        if config.coupling == "inverted" and config.draws > found:
            raise ValueError(
                f"expected at most {found} algorithm.draws with coupling=inverted, got {config.draws}; each draw has"
                f" another state of the inversion, of whose sigmas {found} are inside algorithm.sigma.window ="
                f" {list(config.sigma.window)}: lower draws, widen the window, or raise inversion.steps"
            )

    def points(self, batch: Batch, judged: Judged, draw: int, inverted: Tensor | None = None) -> list[Point]:
        """Build the points of each side for a draw.

        Args:
            batch: Micro-batch with one row for each prompt.
            judged: Its images.
            draw: Index of the draw, from 0; the draws of an image have quantiles in consecutive equal parts.
            inverted: States of the inversion `[B, sides, draws, N, C]`; None without inverted points.
        """
        if inverted is not None:
            at = self.sigma(batch, (draw,))
            return [inverted_point(clean, inverted[:, side, draw], at) for side, clean in enumerate(judged.clean)]
        return [self._point(batch, judged, draw, side) for side in range(len(judged.clean))]

    def _point(self, batch: Batch, judged: Judged, draw: int, side: int) -> Point:
        """Return a state of the rollout, or mix the images of a side with noise."""
        address = (draw, side) if self.config.coupling == "independent" else (draw,)
        sigma = self.sigma(batch, address)
        states = judged.states[side] if judged.states else None
        if states is not None:
            return Point(states.tokens[:, draw], sigma, states.velocities[:, draw])
        clean, noise = judged.clean[side], self._noise(batch, judged, side, address)
        if self.config.loss == "contrastive":
            # All images have the draws of the first, so that their errors differ by image and caption alone.
            noise, sigma = noise[:1].expand_as(noise), sigma[:1].expand_as(sigma)
        return Point(mix(clean, noise, sigma), sigma, noise - clean)

    def _noise(self, batch: Batch, judged: Judged, side: int, address: tuple[int, ...]) -> Tensor:
        """Draw the noise of a point, or that from which the rollout of the row started."""
        if self.config.coupling == "rollout":
            draws = replace(batch.draws, children=judged.children[side])
            return self.noise(replace(batch, draws=draws), scope="per_image")
        return self.noise(batch, "pair_noise", *address)

    def sigma(self, batch: Batch, address: tuple[int, ...]) -> Tensor:
        """Draw the sigmas of a point, `[B]`; the address begins with the index of the draw."""
        share = batch.draws.uniform("pair_sigma", 0.0, 1.0, *address)
        quantile = (address[0] + share) / self.config.draws
        section = self.config.sigma
        return grid_sigmas(section, quantile, self._grid) if section.type == "grid" else drawn_sigmas(section, quantile)

    @property
    def _grid(self) -> Tensor:
        return grid_of_points(self.config, self.grid, self.rollout)

    @torch.no_grad()
    def inverted(self, batch: Batch, judged: Judged) -> Tensor:
        """Invert the images of all sides with the weights that the policy now has.

        Args:
            batch: Micro-batch.
            judged: Its images.

        Returns:
            A state for each draw, `[B, sides, draws, N, C]`.
        """
        wanted = torch.stack([self.sigma(batch, (draw,)) for draw in range(self.config.draws)])
        grid = self._grid.flip(0)
        sides = [
            drawn_states(wanted, grid, self._walk(batch, clean, text, grid))
            for clean, text in zip(judged.clean, judged.conditionings, strict=True)
        ]
        return torch.stack(sides, dim=1)

    def _walk(self, batch: Batch, clean: Tensor, text: Conditioning, grid: Tensor) -> Iterator[Tensor]:
        velocity = partial(self.policy.velocity, conditioning=text, guidance_scale=self.config.guidance_scale)
        return walk(clean, grid, velocity, partial(self.noise, batch, "inversion"), self.config.inversion)


def grid_of_points(config: PreferenceConfig, grid: SigmaGrid, rollout: RolloutConfig) -> Tensor:
    """Compute the sigmas of the type `grid`, from 1 to 0: those of the sampler or of the inversion, float64."""
    return grid(config.inversion.steps if config.coupling == "inverted" else rollout.num_steps, rollout.shift)
