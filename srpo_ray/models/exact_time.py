"""Timestep and guidance of FLUX in float32, whatever the data type of its transformer.

diffusers' transformer rounds both to the data type of its tokens before it embeds them. In bfloat16, with 8 significant
bits, sigmas above 0.5 become multiples of 1/256, and a guidance of 3.5 becomes 3.504. Here only what is computed from
them, cosines and sines in [-1, 1], is rounded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from diffusers.models.embeddings import (
    CombinedTimestepGuidanceTextProjEmbeddings,
    CombinedTimestepTextProjEmbeddings,
)
from torch import Tensor

_EXACT: ContextVar[tuple[Tensor, Tensor | None] | None] = ContextVar("exact_times", default=None)
"""Timestep and guidance of the call under way. It reaches the transformer through an engine and other wrappers."""


@contextmanager
def exact_times(timestep: Tensor, guidance: Tensor | None) -> Iterator[None]:
    """Let transformers that `embed_exact_times` prepared embed these values, in calls inside of the context.

    Args:
        timestep: Thousandths of sigma `[B]`, float32.
        guidance: Thousandths of the guidance scale `[B]`, float32; None for a model without such an input.
    """
    token = _EXACT.set((timestep, guidance))
    try:
        yield
    finally:
        _EXACT.reset(token)


def embed_exact_times(transformer: Any) -> None:
    """Prepare a FLUX transformer for `exact_times`; others stay as they are.

    The class of one module is exchanged, and no hook is set: the engine takes hooks away for rollouts.

    Args:
        transformer: Changed in place; its weights, their names and its own class stay as they are.
    """
    embedding = getattr(transformer, "time_text_embed", None)
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


_CLASSES: dict[type, type] = {
    CombinedTimestepTextProjEmbeddings: _ExactTime,
    CombinedTimestepGuidanceTextProjEmbeddings: _ExactTimeAndGuidance,
}
