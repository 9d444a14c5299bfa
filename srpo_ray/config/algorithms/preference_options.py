"""Fields of `type: preference`, and the properties that follow from them."""

from typing import Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.algorithms.preference_contrastive import Contrastive
from srpo_ray.config.algorithms.preference_inversion import Inversion
from srpo_ray.config.algorithms.preference_parts import Doubt, MovingReference, PointSigmas
from srpo_ray.config.algorithms.preference_sources import SampledPairsSection

PreferenceLoss = Literal["dpo", "ipo", "hinge", "kto", "mapo", "sft", "contrastive"]
"""Form of the loss."""
ErrorSpace = Literal["velocity", "image", "noise"]
"""Quantity whose squared error is compared."""
WITHOUT_REFERENCE: tuple[PreferenceLoss, ...] = ("mapo", "sft", "contrastive")
"""Losses without a reference."""
_ONE_SIDED: tuple[PreferenceLoss, ...] = ("sft", "contrastive")


class PreferenceOptions(SampledPairsSection):
    """Options of preference optimization."""

    captions: Literal["shared", "own"] = "shared"
    """`shared`: both images of a pair have the caption `prompt`; `own`: the other one has the caption `other_prompt`,
    which every row must then have (DCPO, arXiv 2502.06023)."""
    orientation: Literal["preferred", "reversed"] = "preferred"
    """`reversed` exchanges preferred and other images, for a model of what is not wanted (NPO)."""
    coupling: Literal["shared", "independent", "inverted", "rollout", "states"] = "shared"
    """Points of both images of a pair. `shared`: mixed with the same noise at the same sigma; `independent`: with draws
    for each; `inverted`, of files: states of the inversion of each image, at the same sigma of its grid (InPO, SmPO).
    With sampled images also `rollout`: one sigma, and each sampled image is mixed with the noise that it was sampled
    from, a real image with that of its opponent; and `states` (DRO): states of the rollout at one sigma, with the
    velocities there as targets, where real images are mixed with noise. `states` samples with `guidance_scale`.
    `inverted` and `states` need `sigma.type: grid`."""
    inversion: Inversion = Inversion()
    """Inversion of `coupling: inverted`."""
    sigma: PointSigmas = PointSigmas()
    """Distribution of the sigmas of the points."""
    draws: int = Field(default=1, ge=1)
    """Points per image, each with a call with gradient, at least 1; their sigmas are stratified. With `inverted`
    points at most as many as the inversion has sigmas inside `sigma.window`."""
    guidance_scale: float = Field(default=1.0, ge=0)
    """Guidance of all calls, at least 0. The targets are velocities of data without guidance, so 1; with
    `mapo` a model that was distilled from guided velocities takes no other value."""
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
    weights: Literal["equal", "confidence", "soft_labels"] = "equal"
    """Weights of the rows: all 1, or their `confidence` c, of files or from `temperature`. `soft_labels` with `dpo`:
    the preference holds with the probability `p = (1 + c) / 2`, so the loss is
    `-p log sigmoid(beta / 2 m) - (1 - p) log sigmoid(-beta / 2 m)`."""
    confidence_slope: float | None = Field(default=None, gt=0)
    """Factor f above 0 that replaces beta by `f * confidence * beta` for each row in `dpo`; unset has one beta for all.
    With the probability p of the preference, confidence is 2 p - 1. Published: 10 (SmPO, arXiv 2506.02698)."""
    doubt: Doubt | None = None
    """Lower weights for pairs whose preference contradicts the policy's own margin; unset has none."""
    sft: float = Field(default=0.0, ge=0)
    """Weight of the error of preferred images beside the loss, at least 0."""

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
        if self.reference == "none" or self.loss in WITHOUT_REFERENCE:
            return None
        return "old" if isinstance(self.reference, MovingReference) else "reference"

    @property
    def inverts(self) -> Role | None:
        """Role whose velocity inverts the images; None without inverted points."""
        if self.coupling != "inverted":
            return None
        return "policy" if self.inversion.by == "policy" else self.reference_role

    @property
    def samples_for_images(self) -> bool:
        """True with self-play, or if the policy inverts the images: its first phase then calls the model."""
        return super().samples_for_images or self.inverts == "policy"

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
