"""Reward of one user, or of a mixture of users, with a trained head of PAL (model B, arXiv 2406.08469) over CLIP.

A prompt has one ideal point per prototype, and a user is a mixture of prototypes. The score of an image is the cosine
between its point and the user's ideal point, times the temperature of the head. `docs/rewards.md` has scale, licence
and what was read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from srpo_ray.rewards.models.checkpoint_file import read_state_dict
from srpo_ray.rewards.query import TextQuery

PREFIX = "preference_learner."
LAYERS = (0, 3, 6)
"""Indices of the three linear layers of a projector; dropouts and activations are between them."""
LARGEST_SCALE = 100.0


class PalReward:
    """`min(exp(s), 100) * cos(f(image), sum_k w_k g_k(prompt))` with `w = softmax(user's weights)`.

    Args:
        backbone: open_clip model whose features the head was trained on, such as `ViT-H-14`, or `local-dir:FOLDER`.
        checkpoint: State dict of the trained head, saved by `torch.save`.
        pretrained: Weights of `backbone` in open_clip, such as `laion2b_s32b_b79k`; None if its folder contains them.
        user: Name of a user in the checkpoint; None takes `mixture`.
        mixture: Share of each prototype, of sum 1; None takes `user`.
        unit_features: True if the head was trained on features of length 1.

    Raises:
        ValueError: If the checkpoint cannot be read, or `user` and `mixture` do not fit it.
    """

    name = "pal"
    image_gradient = True

    def __init__(
        self,
        backbone: str,
        checkpoint: str,
        pretrained: str | None = None,
        user: str | None = None,
        mixture: Sequence[float] | None = None,
        *,
        unit_features: bool = True,
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = open_clip.create_model(backbone, pretrained=pretrained, device=self.device)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer: Any = open_clip.get_tokenizer(backbone)
        size = model.visual.image_size
        self.image_size = int(size if isinstance(size, int) else size[0])
        self.unit_features = unit_features
        state = read_state_dict(self.name, Path(checkpoint))
        # Checkpoints of an earlier version of the release name the layers `m`.
        self.state = {
            key.removeprefix(PREFIX).replace(".m.", ".mlp."): tensor.float().to(self.device)
            for key, tensor in state.items()
        }
        names = [key.removesuffix(".mlp.layers.0.weight") for key in self.state if key.endswith(".layers.0.weight")]
        self.prototypes = sorted((key for key in names if key.startswith("user_learner.projectors.")), key=_number)
        self.shares = self._shares(user, mixture)

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """Score each image; the score of a query is the weighted sum of the scores of its texts."""
        visual = self.model.visual
        mean, std = (torch.tensor(values, device=self.device) for values in (visual.image_mean, visual.image_std))
        pixels = (images.to(self.device) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        features = self.model.encode_image(pixels, normalize=self.unit_features)
        points = normalize(self._project("item_learner.projector", features), dim=-1)
        ideals = self._ideals([text for query in queries for text in query.texts]).split(
            [len(q.terms) for q in queries]
        )
        weights = [torch.tensor([weight for weight, _ in query.terms], device=self.device) for query in queries]
        sums = [weight @ (ideal @ point) for weight, ideal, point in zip(weights, ideals, points, strict=True)]
        return self.state["logit_scale"].exp().clamp(max=LARGEST_SCALE) * torch.stack(sums)

    def _ideals(self, texts: list[str]) -> Tensor:
        """Unit ideal points of the user for N prompts `[N, D]`."""
        tokens = self.tokenizer(texts).to(self.device)
        features = self.model.encode_text(tokens, normalize=self.unit_features)
        points = torch.stack([self._project(name, features) for name in self.prototypes])
        return normalize(torch.einsum("k,knd->nd", self.shares, points), dim=-1)

    def _project(self, name: str, features: Tensor) -> Tensor:
        """Apply three linear layers with ReLU between them, and add the input."""
        hidden = features
        for layer in LAYERS:
            weight, bias = (self.state[f"{name}.mlp.layers.{layer}.{part}"] for part in ("weight", "bias"))
            hidden = linear(hidden if layer == LAYERS[0] else hidden.relu(), weight, bias)
        return features + hidden

    def _shares(self, user: str | None, mixture: Sequence[float] | None) -> Tensor:
        """Share of each prototype `[K]`."""
        if user is not None and mixture is None:
            key = f"user_learner.W.{user}"
            if key not in self.state:
                raise ValueError(f"reward pal: expected a user of the checkpoint, got {user!r}; check the name")
            return self.state[key].softmax(0)
        count = len(self.prototypes)
        if user is not None or mixture is None or len(mixture) != count or abs(sum(mixture) - 1) > 1e-6:
            raise ValueError(
                f"reward pal: expected a user, or {count} shares of sum 1 as mixture, got user {user!r} and mixture"
                f" {mixture!r}; give one of both"
            )
        return torch.tensor(mixture, device=self.device)


def _number(key: str) -> int:
    return int(key.rsplit(".", 1)[1])
