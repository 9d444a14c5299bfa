"""Options of learning from preferences: judged images, a loss of their matching errors, and a reference model."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import AlgorithmSection, Calls, Judged, Needs, Role
from srpo_ray.config.algorithms.preference_parts import Doubt, MovingReference, PointSigmas

PreferenceLoss = Literal["dpo", "ipo", "hinge", "kto", "mapo", "sft"]
"""Form of the loss."""
ErrorSpace = Literal["velocity", "image", "noise"]
"""Quantity whose squared error is compared."""
_COMPARED_AS_PAIRS: tuple[PreferenceLoss, ...] = ("dpo", "ipo", "hinge", "mapo")
_WITHOUT_REFERENCE: tuple[PreferenceLoss, ...] = ("mapo", "sft")
_MARGINS: tuple[PreferenceLoss, ...] = ("dpo", "ipo", "hinge")
LEAST_ROWS = 4
"""Minimum of `training.micro_batch_size` with `kto`, whose baseline is a mean over a forward pass."""


class PreferenceConfig(AlgorithmSection):
    """Preference optimization on judged images: no rollout and no reward model in the updates.

    Images are mixed with noise. `e` is the mean squared error of the velocity there, `r` the same error of the
    reference, `g = r - e` the gain of an image, and `m = g_preferred - g_other` the margin of a pair.
    """

    code: ClassVar[str] = "srpo_ray.algorithms.preference:Preference"
    needs: ClassVar[Needs] = Needs(reward="none", images="pairs")
    anchors_itself: ClassVar[bool] = True
    keeps_old: ClassVar[bool] = True
    type: Literal["preference"] = "preference"
    source: Judged = "pairs"
    """Rows of `data.pairs`: `pairs` of images, or single images with `labels`, which `kto` and `sft` accept."""
    captions: Literal["shared", "own"] = "shared"
    """`shared`: both images of a pair have the caption `prompt`; `own`: the other one has the caption `other_prompt`,
    which every row must then have (DCPO, arXiv 2502.06023)."""
    orientation: Literal["preferred", "reversed"] = "preferred"
    """`reversed` exchanges preferred and other images, for a model of what is not wanted (NPO)."""
    coupling: Literal["shared", "independent"] = "shared"
    """Noise and sigma of both images of a pair: the same, or drawn for each."""
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
    weights: Literal["equal", "confidence"] = "equal"
    """Weights of the rows: all 1, or their `confidence`."""
    doubt: Doubt | None = None
    """Lower weights for pairs whose preference contradicts the policy's own margin; unset has none."""
    sft: float = Field(default=0.0, ge=0)
    """Weight of the error of preferred images beside the loss, at least 0."""

    @property
    def judged(self) -> Judged:
        """Kind of the rows of `data.pairs`."""
        return self.source

    @property
    def uses_own_captions(self) -> bool:
        """True if the other image of a pair has a caption of its own."""
        return self.captions == "own"

    @property
    def sides(self) -> int:
        """Images of a row that the loss needs."""
        return 2 if self.source == "pairs" and self.loss != "sft" else 1

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

    def calls(self, num_steps: int) -> Calls:
        """Count a call of each asked role and one with gradient for every point; nothing is sampled or scored."""
        points = self.sides * self.draws
        return Calls(
            0,
            compared=points * len(self.asked),
            losses=self.draws,
            rows_with_gradient=self.sides,
            scores_per_image=0,
            phases=1 + len(self.asked),
            decodes=False,
            guidance_scale=self.guidance_scale,
            given_images=2 if self.source == "pairs" else 1,
            kept=points * len(self.anchor.weights),
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
        if self.source == "labels" and self.captions == "own":
            raise ValueError(
                "expected captions=shared with source=labels, got own; a labelled image has one caption: remove it"
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
