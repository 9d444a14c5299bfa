"""Context parallelism: the workers of a group share the tokens of each image in every call of the transformer.

Each worker computes its part of the image tokens and of the text tokens. Before attention, the workers exchange tokens
for heads, so that each has all tokens of its share of the heads, and after attention back (DeepSpeed-Ulysses, arXiv
2309.14509). The output is gathered, so all workers of a group return the same velocity.
"""

from typing import Any

import torch
from diffusers import ContextParallelConfig, ParallelConfig, SD3Transformer2DModel
from diffusers.hooks import HookRegistry, ModelHook, apply_context_parallel
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

_SD3_PLAN: dict[str, Any] = {
    "": {"encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3)},
    "pos_embed": {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)},
    "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
}
"""Tensors of SD3's transformer that are split and gathered; diffusers has no such plan for it."""


def context_mesh(workers: int, device: str) -> DeviceMesh:
    """Group every `workers` consecutive ranks, in dimension `ulysses`. All workers must call.

    Args:
        workers: Workers of a group, a divisor of the number of workers.
        device: Device of the transformer.
    """
    shape = (dist.get_world_size() // workers, 1, workers)
    return init_device_mesh(torch.device(device).type, shape, mesh_dim_names=("data", "ring", "ulysses"))


def share_tokens(transformer: Any, mesh: DeviceMesh) -> None:
    """Let the workers of each group share the tokens of their images.

    A backward pass leaves each worker with its part of the gradients: those of the parameters must be added over the
    group, and that of the input is already added. diffusers' own `enable_parallelism` does not add the latter, does not
    support SD3, and needs a GPU.

    Args:
        transformer: Transformer of diffusers, changed in place; its attention kernel has been chosen.
        mesh: Groups of `context_mesh`, whose size divides heads, image tokens and text tokens.
    """
    group = mesh["ulysses"].get_group()
    context = ContextParallelConfig(ulysses_degree=group.size(), mesh=mesh)
    config = ParallelConfig(context_parallel_config=context)
    config.setup(dist.get_rank(), dist.get_world_size(), transformer.device, mesh=mesh)
    if isinstance(transformer, SD3Transformer2DModel):
        attention: Any = JointAttention()
        transformer.set_attn_processor(attention)
    processors: list[Any] = [*transformer.attn_processors.values()]
    for processor in processors:
        assert hasattr(processor, "_parallel_config"), f"{type(processor).__name__} does not exchange tokens"
        processor._parallel_config = config  # noqa: SLF001, diffusers has no other access
    apply_context_parallel(transformer, context, _plan(transformer))
    # The hook that is added last runs first, while the tokens are whole.
    HookRegistry.check_if_exists_or_initialize(transformer).register_hook(_AddedGradient(group), "added_gradient")


def _plan(transformer: nn.Module) -> dict[str, Any]:
    plan = _SD3_PLAN if isinstance(transformer, SD3Transformer2DModel) else getattr(transformer, "_cp_plan", None)
    assert plan, f"{type(transformer).__name__} has no plan for context parallelism"
    return plan


class JointAttention:
    """Attention of SD3 over image and text tokens, or over image tokens, through diffusers' exchange of tokens."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the attention of a block of diffusers.

        Args:
            attn: Layers of the attention.
            hidden_states: This worker's image tokens `[B, N, D]`.
            encoder_hidden_states: This worker's text tokens `[B, L, D]`; None for image tokens alone.
            attention_mask: None, as SD3 has no mask.

        Returns:
            Image tokens `[B, N, D]`, and text tokens `[B, L, D]` if there were any.
        """
        assert attention_mask is None, "SD3 attends to all tokens"
        parts = [_heads(attn, hidden_states, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))]
        if encoder_hidden_states is not None:
            names = ("add_q_proj", "add_k_proj", "add_v_proj")
            parts.append(_heads(attn, encoder_hidden_states, names, ("norm_added_q", "norm_added_k")))
        query, key, value = (torch.cat(tokens, dim=1) for tokens in zip(*parts, strict=True))
        mixed = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        mixed = mixed.flatten(2).to(query.dtype)
        project, dropout = attn.to_out
        image = dropout(project(mixed[:, : hidden_states.shape[1]]))
        if encoder_hidden_states is None:
            return image
        text = mixed[:, hidden_states.shape[1] :]
        return image, text if attn.context_pre_only else attn.to_add_out(text)


def _heads(
    attn: Any, tokens: Tensor, layers: tuple[str, str, str], norms: tuple[str, str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries, keys and values of tokens, each `[B, N, heads, D / heads]`."""
    query, key, value = (getattr(attn, layer)(tokens).unflatten(-1, (attn.heads, -1)) for layer in layers)
    query_norm, key_norm = (getattr(attn, norm) for norm in norms)
    return query if query_norm is None else query_norm(query), key if key_norm is None else key_norm(key), value


class _AddedGradient(ModelHook):
    """Hook that adds the gradients of the input over the group, each of which is that of one worker's tokens."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self._group = group

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs["hidden_states"] = _AddGradients.apply(kwargs["hidden_states"], self._group)
        return args, kwargs


class _AddGradients(torch.autograd.Function):
    """Identity whose backward pass adds the gradients of the workers of a group."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return tokens.view_as(tokens)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
