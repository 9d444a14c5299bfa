"""Aesthetic rewards: a small head on the image features of CLIP or SigLIP, independent of the prompt.

LAION's aesthetic predictor v2 uses CLIP ViT-L/14, Aesthetic Predictor v2.5 SigLIP so400m; both score from about 1 to
10. The backbone determines the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from srpo_ray.config.rewards import AestheticRewardConfig, Fit
from srpo_ray.rewards.models.checkpoint_file import find_checkpoint, load_strictly, read_state_dict
from srpo_ray.rewards.models.image_encoder import DTYPES, ClipImageEncoder, pooled_image_features
from srpo_ray.rewards.models.linear_head import linear_head
from srpo_ray.rewards.models.pretrained import CLIP_STATISTICS, image_statistics, load_pretrained
from srpo_ray.rewards.preprocess import normalize
from srpo_ray.rewards.query import TextQuery


@dataclass(frozen=True)
class _Kind:
    """Properties of the published head for one type of backbone."""

    layers: str
    """Name of the head's layers in its file."""
    dropouts: int
    """Number of layers that a dropout follows in the file's numbering."""
    fit: Fit
    statistics: tuple[tuple[float, ...], tuple[float, ...]]


_KINDS = {
    "clip": _Kind("layers", dropouts=3, fit="crop", statistics=CLIP_STATISTICS),
    "siglip": _Kind("scoring_head", dropouts=4, fit="squash", statistics=((0.5,) * 3, (0.5,) * 3)),
}


class AestheticReward:
    """`score = head(f_img)` with the unit image feature `f_img` of the backbone.

    As for any reward, the score of a query is the weighted sum of the scores of its texts. Here all texts have the same
    score, so the result is that score times the sum of the weights, and 0 for a difference of texts.

    Args:
        name: Unique name of the reward.
        backbone: A `CLIPModel` or `SiglipModel` of transformers; only its image part is kept.
        head: Maps features `[B, D]` to scores `[B, 1]`.
        fit: Resize to a square.
        statistics: Channel means and standard deviations that normalise the images.

    Source: https://github.com/christophschuhmann/improved-aesthetic-predictor and
        https://github.com/discus0434/aesthetic-predictor-v2-5.
    """

    image_gradient = True

    def __init__(
        self, name: str, backbone: Any, head: nn.Module, fit: Fit, statistics: tuple[Sequence[float], Sequence[float]]
    ) -> None:
        self.name = name
        self.fit = fit
        self.image_size = int(backbone.config.vision_config.image_size)
        backbone.text_model = None
        self.backbone = backbone.eval().requires_grad_(False)
        self.head = head.eval().requires_grad_(False)
        self._mean, self._std = statistics

    @classmethod
    def load(cls, config: AestheticRewardConfig, device: str = "cpu") -> "AestheticReward":
        """Load backbone and head.

        Raises:
            ValueError: If either is missing or cannot be read, or the head does not match the backbone.
        """
        from transformers import CLIPModel, SiglipModel

        classes = {"clip": CLIPModel, "siglip": SiglipModel}
        state = read_state_dict(config.name, find_checkpoint(config.name, config.path), config.sha256)
        backbone = load_pretrained(config.name, config.backbone, classes, "CLIP or SigLIP")
        kind = _KINDS[backbone.config.model_type]
        vision = backbone.config.vision_config
        width = backbone.config.projection_dim if kind.layers == "layers" else vision.hidden_size
        head = nn.Sequential()
        head.add_module(kind.layers, linear_head(width, kind.dropouts))
        load_strictly(config.name, head, state)
        statistics = image_statistics(config.name, config.backbone, kind.statistics)
        ClipImageEncoder(backbone).to(DTYPES[config.dtype])
        return cls(config.name, backbone.to(device), head.to(device), kind.fit, statistics)

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """See `Reward.score`; the result has the type of `images`."""
        weight = next(self.head.parameters())
        pixels = normalize(images.to(weight.device, weight.dtype), self._mean, self._std)
        scores = self.head(pooled_image_features(self.backbone, pixels)).squeeze(-1).to(images.dtype)
        return scores * scores.new_tensor([sum(weight for weight, _ in query.terms) for query in queries])
