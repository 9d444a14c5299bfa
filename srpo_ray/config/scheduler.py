"""Schedulers of a search: early stopping, promotion over rungs of rising fidelity, population based training."""

import math
from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.changes import Changes

UPDATES = "training.num_updates"
"""Config path of the number of updates."""


class Rung(Section):
    """One rung of a search with promotion: all trials that reach it are trained to the same number of updates."""

    updates: int = Field(ge=1)
    """Updates made at the end of the rung, counted from the base model. Those of the last rung are the
    `training.num_updates` of a trial."""
    keep: float | None = Field(default=None, gt=0, lt=1)
    """Share of the rung's trials that is promoted to the next rung, above 0 and below 1; their number is rounded down,
    and is at least 1. Unset in the last rung only."""
    set: Changes = {}
    """Dotted config path -> value for this rung only, after `search.set`: a lower `model.resolution`, fewer evaluation
    prompts or steps, rollouts of the base model."""

    def num_promoted(self, num_trials: int) -> int:
        """Number of the rung's trials that the next rung continues; 0 in the last rung.

        Args:
            num_trials: Trials that are trained in the rung.
        """
        # The small number allows for shares such as 0.3, whose products may fall short of whole numbers.
        return 0 if self.keep is None else max(1, math.floor(num_trials * self.keep + 1e-9))


class Round(Section):
    """One round of a schedule: constant values up to a number of updates."""

    updates: int = Field(ge=1)
    """Updates made at the end of the round, counted from the base model."""
    set: Changes
    """Dotted config path -> value in this round."""


class SchedulerConfig(Section):
    """Distribution of updates over the trials of a `space`."""

    type: Literal["asha", "promotion", "pbt", "none"] = "asha"
    """`asha` stops trials that are behind others after the same number of updates. `promotion` trains all trials to the
    end of the first of `rungs`, and continues the best from their checkpoints (synchronous successive halving). `pbt`
    is population based training: at the end of a round the worst trials continue from the checkpoints of good ones,
    with perturbed values. `none` trains all to the end."""
    grace_updates: int = Field(default=15, ge=1)
    """Updates that every trial may make before `asha` can stop it."""
    reduction_factor: float = Field(default=2.0, gt=1)
    """Of the trials that reach a rung of `asha`, one in this many continues."""
    rungs: tuple[Rung, ...] = ()
    """Rungs of `promotion`, the cheapest first; at least two."""
    perturb_interval: int | None = Field(default=None, ge=1)
    """Updates of a round of `pbt`, below `training.num_updates`; the last round may be shorter."""
    exploit_share: float = Field(default=0.25, gt=0, le=0.5)
    """Share of the trials, the worst, that copy one of as many best trials after a round of `pbt`; above 0, at most
    0.5. At least one trial copies."""
    resample_probability: float = Field(default=0.25, ge=0, le=1)
    """Probability that a copied value is drawn again from its distribution instead of perturbed, in [0, 1]."""
    perturb_factors: tuple[float, ...] = Field(default=(0.8, 1.25), min_length=1)
    """Factors above 0. A perturbed number is multiplied by one of them and kept within its distribution's range. A
    number among choices moves to a neighbouring one, and another choice is drawn again."""

    @property
    def continues(self) -> bool:
        """True if trials are trained in parts that continue from checkpoints."""
        return self.type in ("promotion", "pbt")

    @model_validator(mode="after")
    def _check_rungs(self) -> Self:
        rungs = self.rungs
        if (self.type == "promotion") != bool(rungs):
            raise ValueError(
                f"expected `rungs` with type: promotion and only there, got {len(rungs)} rungs with type: {self.type};"
                " for example `rungs: [{updates: 10, keep: 0.5}, {updates: 40}]`"
            )
        if rungs and len(rungs) < 2:
            raise ValueError("expected at least two rungs, got one; add one, or use type: none")
        if any(low.updates >= high.updates for low, high in pairwise(rungs)):
            raise ValueError(
                f"expected rungs with rising updates, got {[rung.updates for rung in rungs]}; updates are counted from"
                " the base model, so those of a rung include the rungs before it"
            )
        missing = [number for number, rung in enumerate(rungs[:-1], 1) if rung.keep is None]
        if missing or (rungs and rungs[-1].keep is not None):
            raise ValueError(
                "expected `keep` in every rung but the last, got"
                f" {'none in rung ' + str(missing[0]) if missing else 'one in the last'}; it is the share of trials"
                " that the next rung continues"
            )
        return self

    @model_validator(mode="after")
    def _check_population(self) -> Self:
        if (self.type == "pbt") != (self.perturb_interval is not None):
            raise ValueError(
                "expected `perturb_interval` with type: pbt and only there, got"
                f" {self.perturb_interval or 'none'} with type: {self.type}; for example `perturb_interval: 10`"
            )
        if any(factor <= 0 for factor in self.perturb_factors):
            raise ValueError(
                f"expected perturb_factors above 0, got {list(self.perturb_factors)}; for example [0.8, 1.25]"
            )
        return self

    def ends(self, num_updates: int) -> list[int]:
        """Updates made at the end of each part of a trial.

        Args:
            num_updates: Updates of a whole trial.
        """
        if self.type == "promotion":
            return [rung.updates for rung in self.rungs]
        if self.perturb_interval is None:
            return [num_updates]
        return [*range(self.perturb_interval, num_updates, self.perturb_interval), num_updates]
