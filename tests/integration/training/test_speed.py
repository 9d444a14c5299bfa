"""Options that may change the speed of the transformer and nothing else."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from srpo_ray.config.training import TrainingConfig
from srpo_ray.models.attention import compile_blocks, set_attention
from srpo_ray.models.families import FLUX
from srpo_ray.models.loading import load_transformer
from srpo_ray.training import engine as engine_module
from srpo_ray.training.engine import Engine
from tests.helpers.models.tiny_sd3 import save_tiny_sd3
from tests.helpers.training.ranks import run_ranks
from tests.helpers.training.tiny_flux import batches, call, losses, relative_error, tiny_transformer


def outputs_and_gradients(compiled: bool, checkpointed: bool) -> dict[str, Any]:
    """A sharded rollout, a gathered one and one backward pass."""
    network = tiny_transformer().train()
    if checkpointed:
        network.enable_gradient_checkpointing()
    if compiled:
        # All of the compiler but the making of kernels, which takes minutes on a CPU.
        compile_blocks(network, FLUX.blocks, backend="aot_eager")
    whole_config = engine_module.zero_config

    def sharded_config(*arguments: Any) -> dict[str, Any]:
        # ZeRO would keep parameters as small as these whole, and so not hook their layers in earnest.
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        return {**whole_config(*arguments), "zero_optimization": zero}

    with patch.object(engine_module, "zero_config", sharded_config):
        engine = Engine(network, TrainingConfig(batch_size=4), torch.float32)
    first, second, sigma = batches(range(1))[0]
    with torch.no_grad():
        sharded = call(engine, first, sigma)
        with engine.gathered():
            gathered = call(engine, first, sigma)
    engine.backward(losses(engine, first, second, sigma))
    return {"sharded": sharded, "gathered": gathered, "gradients": engine.gradients()}


@pytest.mark.long
def test_compiled_blocks_give_the_same_outputs_and_gradients_under_zero3(tmp_path: Path) -> None:
    eager = run_ranks(outputs_and_gradients, 1, tmp_path, False, False)
    compiled = run_ranks(outputs_and_gradients, 1, tmp_path, True, True)
    for name in ("sharded", "gathered"):
        torch.testing.assert_close(compiled[name], eager[name], rtol=1e-4, atol=1e-5)
    assert relative_error(compiled["gradients"], eager["gradients"]) < 1e-4


def test_compiling_names_every_block_and_leaves_the_state_dict_as_it_is() -> None:
    network = tiny_transformer()
    names = list(network.state_dict())
    compile_blocks(network, FLUX.blocks)
    assert list(network.state_dict()) == names
    compiled = [name for name, module in network.named_modules() if module._compiled_call_impl is not None]
    assert compiled == ["transformer_blocks.0", "single_transformer_blocks.0"]


def test_kernel_for_a_transformer_that_cannot_change_its_attention_is_refused(tmp_path: Path) -> None:
    transformer = load_transformer(str(save_tiny_sd3(tmp_path / "sd3")), torch.float32)
    with pytest.raises(ValueError, match=r"expected native for a SD3Transformer2DModel, .* got 'cudnn'; remove it"):
        set_attention(transformer, "cudnn")
