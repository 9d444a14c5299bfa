"""Options of learning from preferences: judged images, a loss of their matching errors, and a reference model."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import AlgorithmSection, Calls, Judged, Needs, Role
from srpo_ray.config.algorithms.preference_contrastive import Contrastive
from srpo_ray.config.algorithms.preference_inversion import Inversion
from srpo_ray.config.algorithms.preference_parts import Doubt, MovingReference, PointSigmas

PreferenceLoss = Literal["dpo", "ipo", "hinge", "kto", "mapo", "sft", "contrastive"]
"""Form of the loss."""
ErrorSpace = Literal["velocity", "image", "noise"]
"""Quantity whose squared error is compared."""
_COMPARED_AS_PAIRS: tuple[PreferenceLoss, ...] = ("dpo", "ipo", "hinge", "mapo")
_WITHOUT_REFERENCE: tuple[PreferenceLoss, ...] = ("mapo", "sft", "contrastive")
_ONE_SIDED: tuple[PreferenceLoss, ...] = ("sft", "contrastive")
_MARGINS: tuple[PreferenceLoss, ...] = ("dpo", "ipo", "hinge")
LEAST_ROWS = 4
"""Minimum of `training.micro_batch_size` with `kto`, whose baseline is a mean over a forward pass."""
LEAST_CAPTIONS = 2
"""The same with `contrastive`, which compares the captions of a forward pass."""


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
    """Rows of `data.pairs`. `pairs` of images; `labels`: single images that are liked or not, for `kto`, `sft`
    and `contrastive`; `captions`: images with a right and a wrong caption, compared at one point (TPO, 2509.25771)."""
    captions: Literal["shared", "own"] = "shared"
    """`shared`: both images of a pair have the caption `prompt`; `own`: the other one has the caption `other_prompt`,
    which every row must then have (DCPO, arXiv 2502.06023)."""
    orientation: Literal["preferred", "reversed"] = "preferred"
    """`reversed` exchanges preferred and other images, for a model of what is not wanted (NPO)."""
    coupling: Literal["shared", "independent", "inverted"] = "shared"
    """Points of both images of a pair. `shared`: mixed with the same noise at the same sigma; `independent`: with draws
    for each; `inverted`: states of the inversion of each image, at the same sigma of its grid (InPO, SmPO)."""
    inversion: Inversion = Inversion()
    """Inversion of `coupling: inverted`."""
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
    weights of the policy. Unset is `frozen`, and `none` for `mapo`, `sft` and `contrastive`, without a reference."""
    loss: PreferenceLoss = "dpo"
    """Loss. `dpo`: `-log sigmoid(beta / 2 m)`; `ipo`: `(m - 1 / (2 beta))^2`; `hinge`: `max(0, margin - m)`; `kto`:
    `1 - sigmoid(+-beta (g - z))` of each image, with z the mean of g over the forward pass, at least 0; `mapo`:
    `-log sigmoid(beta (phi_preferred - phi_other))` with `phi = a e / (exp(a e) - 1)`; `sft`: e of preferred images;
    `contrastive`: cross-entropy of the caption of each preferred image among the captions of a forward pass."""
    beta: float = Field(default=100.0, gt=0)
    """Slope of the loss, above 0. Published: 100 for flow models in the space `velocity`, 2000 to 5000 for Stable
    Diffusion in the space `noise`, 1000 for `kto` and `mapo`."""
    margin: float = Field(default=0.001, gt=0)
    """Margin from which `hinge` is 0, above 0."""
    curvature: float = Field(default=0.5, gt=0)
    """Constant a of `mapo`, above 0."""
    contrastive: Contrastive = Contrastive()
    """Logits of `contrastive`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of wrong preferences in `dpo`, in [0, 0.5)."""
    loser_weight: float = Field(default=1.0, ge=0)
    """Factor of the gain of the other image in the margin, at least 0. Published: 0.1 (PSO)."""
    safeguard: float | None = Field(default=None, ge=0, le=1)
    """Share mu, in [0, 1], of the preferred image's descent in output space that the other image must leave (SDPO);
    the gradient of the other image is scaled down until it does. Unset has no limit. Published: 0.9 and 0.6."""
    weights: Literal["equal", "confidence"] = "equal"
    """Weights of the rows: all 1, or their `confidence`."""
    confidence_slope: float | None = Field(default=None, gt=0)
    """Factor f above 0 that replaces beta by `f * confidence * beta` for each row in `dpo`; unset has one beta for all.
    With the probability p of the preference, confidence is 2 p - 1. Published: 10 (SmPO, arXiv 2506.02698)."""
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
        """True if the other image of a pair has a caption of its own, or an image has a wrong caption too."""
        return self.captions == "own" or self.source == "captions"

    @property
    def sides(self) -> int:
        """Images of a row that the loss needs, with a caption each."""
        return 2 if self.source != "labels" and self.loss not in _ONE_SIDED else 1

    @property
    def reference_role(self) -> Role | None:
        """Role of the reference; None without one."""
        if self.reference == "none" or self.loss in _WITHOUT_REFERENCE:
            return None
        return "old" if isinstance(self.reference, MovingReference) else "reference"

    @property
    def inverts(self) -> Role | None:
        """Role whose velocity inverts the images; None without inverted points."""
        if self.coupling != "inverted":
            return None
        return "policy" if self.inversion.by == "policy" else self.reference_role

    @property
    def starts_from_images(self) -> bool:
        """True if the policy inverts the images: a phase of it then calls the model."""
        return self.inverts == "policy"

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
        """Count a call of each asked role and one with gradient for every point, and the calls of the inversion."""
        points, inverted = self.sides * self.draws, self.coupling == "inverted"
        return Calls(
            0,
            compared=points * len(self.asked) + inverted * self.sides * self.inversion.calls,
            losses=self.draws,
            rows_with_gradient=self.sides,
            crosses_texts=self.loss == "contrastive",
            scores_per_image=0,
            phases=1 + len(self.asked),
            decodes=False,
            guidance_scale=self.guidance_scale,
            given_images=2 if self.source == "pairs" else 1,
            kept=points * (len(self.anchor.weights) + inverted),
        )

    def check_micro_batch(self, size: int | None) -> None:
        """Check that `kto` and `contrastive` have enough images in a forward pass, whatever the number of workers."""
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
        if self.source == "labels" and self.captions == "own":
            raise ValueError(
                "expected captions=shared with source=labels, got own; a labelled image has one caption: remove it"
            )
        if self.source == "captions" and self.captions == "own":
            raise ValueError(
                "expected captions=shared with source=captions, got own; every row has a wrong caption, which is"
                " compared without this key: remove it"
            )
        if self.source == "captions" and self.coupling != "shared":
            raise ValueError(
                f"expected coupling=shared with source=captions, got {self.coupling}; both captions are compared at one"
                " point of the image: remove it"
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
        if self.confidence_slope is not None and self.weights == "confidence":
            raise ValueError(
                f"expected weights=equal with confidence_slope={self.confidence_slope:g}, got confidence; both use the"
                " confidence of a row: remove one of them"
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
