"""Timestep and guidance of FLUX and of both Qwen-Image families in float32, for transformers of any data type.

The transformer of diffusers rounds both to the data type of its tokens before it embeds them. In bfloat16, with 8
significant bits, sigmas above 0.5 become multiples of 1/256, and a guidance of 3.5 becomes 3.504. Here only the
embedding's cosines and sines, in [-1, 1], are rounded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from diffusers.models.embeddings import (
    CombinedTimestepGuidanceTextProjEmbeddings,
    CombinedTimestepTextProjEmbeddings,
    get_timestep_embedding,
)
from diffusers.models.transformers.transformer_flux2 import Flux2TimestepGuidanceEmbeddings
from diffusers.models.transformers.transformer_qwenimage import QwenTimestepProjEmbeddings
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21TimestepProjEmbeddings
from torch import Tensor

_EXACT: ContextVar[tuple[Tensor, Tensor | None] | None] = ContextVar("exact_times", default=None)
"""Timestep and guidance of the current call. They reach the transformer through an engine and other wrappers."""


@contextmanager
def exact_times(timestep: Tensor, guidance: Tensor | None) -> Iterator[None]:
    """Set the values that transformers prepared by `embed_exact_times` embed in calls inside this context.

    Args:
        timestep: Thousandths of sigma `[B]`, float32; sigma itself for both Qwen-Image families, whose embeddings
            multiply it.
        guidance: Thousandths of the guidance scale `[B]`, float32; None for a model without such an input.
    """
    token = _EXACT.set((timestep, guidance))
    try:
        yield
    finally:
        _EXACT.reset(token)


def embed_exact_times(transformer: Any) -> None:
    """Prepare a transformer of FLUX or of a Qwen-Image family for `exact_times`; others are not changed.

    It replaces the class of one module and sets no hook, because the engine removes hooks for rollouts.

    Args:
        transformer: Transformer, changed in place; its weights, their names and its own class do not change.
    """
    for name in ("time_text_embed", "time_guidance_embed"):
        embedding = getattr(transformer, name, None)
        exact = _CLASSES.get(type(embedding))
        if exact:
            embedding.__class__ = exact


class _ExactTime(CombinedTimestepTextProjEmbeddings):
    def forward(self, timestep: Tensor, pooled_projection: Tensor) -> Tensor:
        given = _EXACT.get()
        return super().forward(given[0] if given else timestep, pooled_projection)


class _ExactTimeAndGuidance(CombinedTimestepGuidanceTextProjEmbeddings):
    def forward(self, timestep: Tensor, guidance: Tensor, pooled_projection: Tensor) -> Tensor:
        given = _EXACT.get()
        if given:
            timestep, guidance = given[0], guidance if given[1] is None else given[1]
        return super().forward(timestep, guidance, pooled_projection)


class _ExactFlux2(Flux2TimestepGuidanceEmbeddings):
    def forward(self, timestep: Tensor, guidance: Tensor) -> Tensor:
        given = _EXACT.get()
        if not given:
            return super().forward(timestep, guidance)
        embedded = self.timestep_embedder(self.time_proj(given[0]).to(timestep.dtype))
        if given[1] is not None and self.guidance_embedder is not None:
            embedded = embedded + self.guidance_embedder(self.time_proj(given[1]).to(timestep.dtype))
        return embedded


class _ExactQwen(QwenTimestepProjEmbeddings):
    def forward(self, timestep: Tensor, hidden_states: Tensor, addition_t_cond: Tensor | None = None) -> Tensor:
        given = _EXACT.get()
        return super().forward(given[0] if given else timestep, hidden_states, addition_t_cond)


class _ExactQwen21(QwenImage21TimestepProjEmbeddings):
    def forward(self, timestep: Tensor, hidden_states: Tensor) -> Tensor:
        given = _EXACT.get()
        if not given:
            return super().forward(timestep, hidden_states)
        # With `causal_condition`, one more row has the time 0 of all text tokens.
        times = torch.cat([given[0], given[0].new_zeros(len(timestep) - len(given[0]))])
        # Not by `time_proj`, whose frequencies are a buffer that engines convert to the data type of the weights.
        waves = get_timestep_embedding(
            times * 1000, self.time_proj.timestep_dim, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return self.timestep_embedder(waves.to(hidden_states.dtype))


_CLASSES: dict[type, type] = {
    CombinedTimestepTextProjEmbeddings: _ExactTime,
    CombinedTimestepGuidanceTextProjEmbeddings: _ExactTimeAndGuidance,
    Flux2TimestepGuidanceEmbeddings: _ExactFlux2,
    QwenTimestepProjEmbeddings: _ExactQwen,
    QwenImage21TimestepProjEmbeddings: _ExactQwen21,
}
