"""Options of learning from preferences: images to compare, a loss of their matching errors, a reference model."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.preference_contrastive import Contrastive
from srpo_ray.config.algorithms.preference_inversion import Inversion
from srpo_ray.config.algorithms.preference_options import WITHOUT_REFERENCE, PreferenceLoss, PreferenceOptions
from srpo_ray.config.algorithms.preference_parts import MovingReference

_COMPARED_AS_PAIRS: tuple[PreferenceLoss, ...] = ("dpo", "ipo", "hinge", "mapo")
_MARGINS: tuple[PreferenceLoss, ...] = ("dpo", "ipo", "hinge")
LEAST_ROWS = 4
"""Minimum of `training.micro_batch_size` with `kto`, whose baseline is a mean over a forward pass."""
LEAST_CAPTIONS = 2
"""The same with `contrastive`, which compares the captions of a forward pass."""


class PreferenceConfig(PreferenceOptions):
    """Preference optimization on images of files, or on images that are sampled and ranked by rewards.

    Images are mixed with noise. `e` is the mean squared error of the velocity there, `r` the same error of the
    reference, `g = r - e` the gain of an image, and `m = g_preferred - g_other` the margin of a pair.
    """

    code: ClassVar[str] = "srpo_ray.algorithms.preference:Preference"
    needs: ClassVar[Needs] = Needs(reward="none", images="pairs")
    anchors_itself: ClassVar[bool] = True
    keeps_old: ClassVar[bool] = True
    type: Literal["preference"] = "preference"

    @property
    def inputs(self) -> Needs:
        """Inputs with this source: judged images, rewards without gradient, or real images."""
        inexact = self.coupling != "states"
        if self.source == "online":
            return Needs(reward="score", accepts_approximate_rollouts=inexact)
        if self.source == "self_play":
            return Needs(reward="none", images="optional", accepts_approximate_rollouts=inexact)
        return self.needs

    @property
    def needs_likelihood(self) -> bool:
        """True with the loss of MaPO, which has no reference."""
        return self.loss == "mapo"

    def calls(self, num_steps: int) -> Calls:
        """Count rollouts, inversions, and at every point a call of each asked role and one with gradient."""
        points, group, inverted = self.sides * self.draws, self.images_per_prompt, self.coupling == "inverted"
        asked = points * len(self.asked) + inverted * self.sides * self.inversion.calls
        parts = self.rollout_parts
        rollout = num_steps * parts if self.samples_images else 0
        # Calls at points have two images of a group, so they count as smaller calls without gradient.
        forward = rollout + asked if group > 1 else rollout
        states = 2 * self.draws if self.coupling == "states" else 0
        return Calls(
            forward,
            compared=0 if group > 1 else asked,
            losses=self.draws,
            images_per_prompt=group,
            rollout_parts=parts,
            rows_with_gradient=self.sides,
            crosses_texts=self.loss == "contrastive",
            forward_size=(rollout + asked * parts / group) / forward if group > 1 else 1.0,
            scores_per_image=1 if self.source == "online" else 0,
            pairs=group * (group - 1) // 2 if self.compares_images else 0,
            phases=1 + len(self.asked),
            decodes=False,
            guidance_scale=self.guidance_scale,
            given_images=2 if self.source == "pairs" else 1,
            kept=points * (len(self.anchor.weights) + inverted) / group + self.samples_images + states,
        )

    def check_micro_batch(self, size: int | None, *, several_sizes: bool = False) -> None:
        """Check that `kto` and `contrastive` have enough images in a forward pass, whatever the number of workers."""
        if several_sizes and self.loss in ("kto", "contrastive"):
            raise ValueError(
                f"expected one size of images with algorithm.loss={self.loss}, got model.sizes; the loss compares the"
                " prompts of a forward pass, and with several sizes it has one prompt: set model.resolution alone, or"
                " change the loss"
            )
        if self.loss == "contrastive" and (size or 0) < LEAST_CAPTIONS:
            raise ValueError(
                f"expected training.micro_batch_size of at least {LEAST_CAPTIONS} with algorithm.loss=contrastive, got"
                f" {size}; it compares the captions of a forward pass, whose size must not depend on the number of"
                " workers: set it"
            )
        if self.loss == "kto" and (size or 0) < LEAST_ROWS:
            raise ValueError(
                f"expected training.micro_batch_size of at least {LEAST_ROWS} with algorithm.loss=kto, got {size}; its"
                " baseline is a mean over a forward pass, whose size must not depend on the number of workers: set it"
            )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.source == "labels" and self.loss in _COMPARED_AS_PAIRS:
            raise ValueError(
                f"expected loss kto, sft or contrastive with source=labels, got {self.loss}; it compares two images, so"
                " set source=pairs"
            )
        if self.source != "pairs" and self.captions == "own":
            raise ValueError(
                f"expected captions=shared with source={self.source}, got own; its images have one caption: remove it"
            )
        if self.source == "self_play" and self.loss == "sft":
            raise ValueError(
                "expected a loss of pairs with source=self_play, got sft; it trains on real images alone, so nothing"
                " would have to be sampled: set another loss"
            )
        return self

    @model_validator(mode="after")
    def _check_sampled_points(self) -> Self:
        if self.samples_images and (self.coupling == "inverted" or self.loss == "contrastive"):
            name, value = ("coupling", "inverted") if self.coupling == "inverted" else ("loss", "contrastive")
            sources = "pairs or labels" if name == "coupling" else "pairs, labels or captions"
            raise ValueError(
                f"expected source={sources} with {name}={value}, got {self.source}; it takes images of files, so"
                f" change source or {name}"
            )
        if self.coupling in ("rollout", "states") and not self.samples_images:
            raise ValueError(
                f"expected coupling shared or independent with source={self.source}, got {self.coupling}; images of"
                " files have no rollout, so set another coupling, or source to online"
            )
        if self.coupling == "states" and self.sigma.type != "grid":
            raise ValueError(
                f"expected sigma.type=grid with coupling=states, got {self.sigma.type}; a rollout has states at the"
                " sigmas of the sampler only, so set sigma={type: grid}"
            )
        if self.coupling == "states" and self.source == "online" and self.sampler != "reference":
            raise ValueError(
                f"expected sampler=reference with coupling=states and source=online, got {self.sampler or 'policy'};"
                " the policy's own velocities have the error 0 and no gradient, so set sampler to reference"
            )
        if self.sampler == "reference" and self.reference_role is None:
            raise ValueError(
                f"expected a reference with sampler=reference, got none with loss={self.loss}; set reference, or"
                " remove sampler"
            )
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        uses_confidence = self.weights != "equal" or self.confidence_slope is not None
        if uses_confidence and self.samples_images and self.temperature is None:
            raise ValueError(
                f"expected weights=equal and no confidence_slope with source={self.source} and no temperature, got"
                f" weights={self.weights} and confidence_slope={self.confidence_slope}; all pairs have the same"
                " confidence, so remove them, or with source=online set temperature"
            )
        if not uses_confidence and self.temperature is not None:
            raise ValueError(
                "expected weights confidence or soft_labels with temperature, got equal; temperature makes the"
                " confidence of pairs, so set weights or confidence_slope, or remove temperature"
            )
        if self.weights == "soft_labels" and (self.loss != "dpo" or self.label_smoothing):
            raise ValueError(
                f"expected loss=dpo and no label_smoothing with weights=soft_labels, got loss={self.loss} and"
                f" label_smoothing={self.label_smoothing:g}; both say how probable a preference is, so remove one"
            )
        if self.source == "captions" and self.coupling != "shared":
            raise ValueError(
                f"expected coupling=shared with source=captions, got {self.coupling}; both captions are compared at one"
                " point of the image: remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if self.loss in WITHOUT_REFERENCE and self.reference not in (None, "none"):
            raise ValueError(
                f"expected no reference with loss={self.loss}, which has none, got {self.reference}; remove reference"
            )
        if self.anchor.old and not isinstance(self.reference, MovingReference):
            raise ValueError(
                f"expected anchor.old = 0 with reference={self.reference or 'unset'}, got {self.anchor.old:g}; only a"
                " moving reference keeps older weights: set anchor.reference, or reference={ema: 0.99}"
            )
        if self.anchor.data:
            raise ValueError(
                f"expected anchor.data = 0 with type=preference, got {self.anchor.data:g}; the flow-matching loss of"
                " the preferred images has a weight of its own: set sft"
            )
        return self

    @model_validator(mode="after")
    def _check_inversion(self) -> Self:
        if self.coupling != "inverted":
            if self.inversion != Inversion():
                raise ValueError(
                    f"expected coupling=inverted with inversion, got {self.coupling}; set it, or remove inversion"
                )
            return self
        if self.sigma.type != "grid":
            raise ValueError(
                f"expected sigma.type=grid with coupling=inverted, got {self.sigma.type}; its points are states at the"
                " sigmas of the inversion's grid: set sigma={type: grid}"
            )
        if self.draws > self.inversion.steps:
            raise ValueError(
                f"expected at most as many draws as inversion.steps = {self.inversion.steps}, got {self.draws}; each"
                " draw has another state of the inversion: lower draws or raise inversion.steps"
            )
        if self.inverts is None:
            raise ValueError(
                f"expected inversion.by=policy without a reference (loss={self.loss}, reference={self.reference}), got"
                " reference; change it, or set reference"
            )
        return self

    @model_validator(mode="after")
    def _check_contrastive(self) -> Self:
        if self.loss != "contrastive" and self.contrastive != Contrastive():
            raise ValueError(
                f"expected loss=contrastive with contrastive, got {self.loss}; set it, or remove contrastive"
            )
        if self.loss == "contrastive" and self.coupling != "shared":
            raise ValueError(
                f"expected coupling=shared with loss=contrastive, got {self.coupling}; all images of a forward pass"
                " have one noise and sigma: remove it"
            )
        if self.confidence_slope is not None and self.weights != "equal":
            raise ValueError(
                f"expected weights=equal with confidence_slope={self.confidence_slope:g}, got {self.weights}; both use"
                " the confidence of a row: remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_modifiers(self) -> Self:
        changed = {
            "label_smoothing": (self.label_smoothing > 0, ("dpo",)),
            "confidence_slope": (self.confidence_slope is not None, ("dpo",)),
            "loser_weight": (self.loser_weight != 1, _MARGINS),
            "safeguard": (self.safeguard is not None, _MARGINS),
            "doubt": (self.doubt is not None, _MARGINS),
        }
        for name, (is_changed, losses) in changed.items():
            if is_changed and self.loss not in losses:
                raise ValueError(
                    f"expected loss {' or '.join(losses)} with {name}, got {self.loss}; remove {name} or change the"
                    " loss"
                )
        return self
