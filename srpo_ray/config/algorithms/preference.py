"""Options of learning from preferences: judged images, a loss of their matching errors, and a reference model."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Calls, Needs, Role
from srpo_ray.config.algorithms.preference_parts import Doubt, MovingReference, PointSigmas
from srpo_ray.config.algorithms.preference_sources import SampledPairsSection

PreferenceLoss = Literal["dpo", "ipo", "hinge", "kto", "mapo", "sft"]
"""Form of the loss."""
ErrorSpace = Literal["velocity", "image", "noise"]
"""Quantity whose squared error is compared."""
_COMPARED_AS_PAIRS: tuple[PreferenceLoss, ...] = ("dpo", "ipo", "hinge", "mapo")
_WITHOUT_REFERENCE: tuple[PreferenceLoss, ...] = ("mapo", "sft")
_MARGINS: tuple[PreferenceLoss, ...] = ("dpo", "ipo", "hinge")
LEAST_ROWS = 4
"""Minimum of `training.micro_batch_size` with `kto`, whose baseline is a mean over a forward pass."""


class PreferenceConfig(SampledPairsSection):
    """Preference optimization on images of files, or on images that are sampled and ranked by rewards.

    Images are mixed with noise. `e` is the mean squared error of the velocity there, `r` the same error of the
    reference, `g = r - e` the gain of an image, and `m = g_preferred - g_other` the margin of a pair.
    """

    code: ClassVar[str] = "srpo_ray.algorithms.preference:Preference"
    needs: ClassVar[Needs] = Needs(reward="none", images="pairs")
    anchors_itself: ClassVar[bool] = True
    keeps_old: ClassVar[bool] = True
    type: Literal["preference"] = "preference"
    captions: Literal["shared", "own"] = "shared"
    """`shared`: both images of a pair have the caption `prompt`; `own`: the other one has the caption `other_prompt`,
    which every row must then have (DCPO, arXiv 2502.06023)."""
    orientation: Literal["preferred", "reversed"] = "preferred"
    """`reversed` exchanges preferred and other images, for a model of what is not wanted (NPO)."""
    coupling: Literal["shared", "independent", "rollout", "states"] = "shared"
    """Points of both images of a pair. `shared`: one noise and sigma; `independent`: noise and sigma drawn for each.
    With sampled images also `rollout`: one sigma, and each sampled image is mixed with the noise that it was sampled
    from, a real image with that of its opponent; and `states` (DRO): states of the rollout at one sigma, with the
    velocities there as targets, where real images are mixed with noise; it samples with `guidance_scale`."""
    sigma: PointSigmas = PointSigmas()
    """Distribution of the sigmas of the points."""
    draws: int = Field(default=1, ge=1)
    """Points per image, each with a call with gradient, at least 1; their sigmas are stratified."""
    guidance_scale: float = Field(default=1.0, ge=0)
    """Guidance of all calls, at least 0. The targets are velocities of data without guidance, so 1."""
    error_space: ErrorSpace = "velocity"
    """Space of the errors. With sigma s, the error of the clean image is s^2 times that of the velocity, and the error
    of the noise (1 - s)^2 times. Published slopes of Stable Diffusion are in the space `noise`."""
    reference: Literal["frozen", "none"] | MovingReference | None = None
    """Weights whose errors are `r`. `frozen`: the base model; `none`: r = 0; `{ema: d}` or `{refresh: n}`: older
    weights of the policy. Unset is `frozen`, and `none` for `mapo` and `sft`, which have no reference."""
    loss: PreferenceLoss = "dpo"
    """Loss. `dpo`: `-log sigmoid(beta / 2 m)`; `ipo`: `(m - 1 / (2 beta))^2`; `hinge`: `max(0, margin - m)`; `kto`:
    `1 - sigmoid(+-beta (g - z))` of each image, with z the mean of g over the forward pass, at least 0; `mapo`:
    `-log sigmoid(beta (phi_preferred - phi_other))` with `phi = a e / (exp(a e) - 1)`; `sft`: e of preferred images."""
    beta: float = Field(default=100.0, gt=0)
    """Slope of the loss, above 0. Published: 100 for flow models in the space `velocity`, 2000 to 5000 for Stable
    Diffusion in the space `noise`, 1000 for `kto` and `mapo`."""
    margin: float = Field(default=0.001, gt=0)
    """Margin from which `hinge` is 0, above 0."""
    curvature: float = Field(default=0.5, gt=0)
    """Constant a of `mapo`, above 0."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of wrong preferences in `dpo`, in [0, 0.5)."""
    loser_weight: float = Field(default=1.0, ge=0)
    """Factor of the gain of the other image in the margin, at least 0. Published: 0.1 (PSO)."""
    safeguard: float | None = Field(default=None, ge=0, le=1)
    """Share mu, in [0, 1], of the preferred image's descent in output space that the other image must leave (SDPO);
    the gradient of the other image is scaled down until it does. Unset has no limit. Published: 0.9 and 0.6."""
    weights: Literal["equal", "confidence", "soft_labels"] = "equal"
    """Weights of the rows: all 1, or their `confidence` c, of files or from `temperature`. `soft_labels` with `dpo`:
    the preference holds with the probability `p = (1 + c) / 2`, so the loss is
    `-p log sigmoid(beta / 2 m) - (1 - p) log sigmoid(-beta / 2 m)`."""
    doubt: Doubt | None = None
    """Lower weights for pairs whose preference contradicts the policy's own margin; unset has none."""
    sft: float = Field(default=0.0, ge=0)
    """Weight of the error of preferred images beside the loss, at least 0."""

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
    def uses_own_captions(self) -> bool:
        """True if the other image of a pair has a caption of its own."""
        return self.captions == "own"

    @property
    def sides(self) -> int:
        """Images of a row that the loss needs."""
        return 1 if self.source == "labels" or self.loss == "sft" else 2

    @property
    def reference_role(self) -> Role | None:
        """Role of the reference; None without one."""
        if self.reference == "none" or self.loss in _WITHOUT_REFERENCE:
            return None
        return "old" if isinstance(self.reference, MovingReference) else "reference"

    @property
    def asked(self) -> tuple[Role, ...]:
        """Roles whose velocities are computed at the points: the reference and those of the anchors, each once."""
        own = () if self.reference_role is None else (self.reference_role,)
        return tuple(dict.fromkeys((*own, *self.anchor.weights)))

    @property
    def roles(self) -> frozenset[Role]:
        """Roles besides the policy that phases use with these settings."""
        return frozenset(self.asked)

    @property
    def sampler_role(self) -> Role:
        """Role of the first phase, which samples the images if any are sampled."""
        return (self.reference_role or "policy") if self.sampler == "reference" else "policy"

    def calls(self, num_steps: int) -> Calls:
        """Count rollouts if there are any, a call of each asked role and one with gradient for every point."""
        points, group = self.sides * self.draws, self.images_per_prompt
        asked = points * len(self.asked)
        rollout = num_steps if self.samples_images else 0
        # Calls at points have two images of a group, so they count as smaller calls without gradient.
        forward = rollout + asked if group > 1 else rollout
        states = 2 * self.draws if self.coupling == "states" else 0
        return Calls(
            forward,
            compared=0 if group > 1 else asked,
            losses=self.draws,
            images_per_prompt=group,
            rows_with_gradient=self.sides,
            forward_size=(rollout + asked / group) / forward if group > 1 else 1.0,
            scores_per_image=1 if self.source == "online" else 0,
            pairs=group * (group - 1) // 2 if self.compares_images else 0,
            phases=1 + len(self.asked),
            decodes=False,
            guidance_scale=self.guidance_scale,
            given_images=2 if self.source == "pairs" else 1,
            kept=points * len(self.anchor.weights) / group + self.samples_images + states,
        )

    def check_micro_batch(self, size: int | None) -> None:
        """Check that the baseline of `kto` is a mean over enough images, whatever the number of workers."""
        if self.loss == "kto" and (size or 0) < LEAST_ROWS:
            raise ValueError(
                f"expected training.micro_batch_size of at least {LEAST_ROWS} with algorithm.loss=kto, got {size}; its"
                " baseline is a mean over a forward pass, whose size must not depend on the number of workers: set it"
            )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.source == "labels" and self.loss in _COMPARED_AS_PAIRS:
            raise ValueError(
                f"expected loss kto or sft with source=labels, got {self.loss}; it compares two images, so set"
                " source=pairs"
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
        if self.weights != "equal" and self.samples_images and self.temperature is None:
            raise ValueError(
                f"expected weights=equal with source={self.source} and no temperature, got {self.weights}; all pairs"
                " have the same confidence, so set weights to equal, or with source=online set temperature"
            )
        if self.weights == "equal" and self.temperature is not None:
            raise ValueError(
                "expected weights confidence or soft_labels with temperature, got equal; temperature makes the"
                " confidence of pairs, so set weights, or remove temperature"
            )
        if self.weights == "soft_labels" and (self.loss != "dpo" or self.label_smoothing):
            raise ValueError(
                f"expected loss=dpo and no label_smoothing with weights=soft_labels, got loss={self.loss} and"
                f" label_smoothing={self.label_smoothing:g}; both say how probable a preference is, so remove one"
            )
        return self

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if self.loss in _WITHOUT_REFERENCE and self.reference not in (None, "none"):
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
    def _check_modifiers(self) -> Self:
        changed = {
            "label_smoothing": (self.label_smoothing > 0, ("dpo",)),
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
