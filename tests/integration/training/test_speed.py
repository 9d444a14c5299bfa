"""Options that may change the speed of the transformer and nothing else."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters

from srpo_ray.config.model import LoraConfig
from srpo_ray.config.training import TrainingConfig
from srpo_ray.models.attention import compile_blocks, set_attention
from srpo_ray.models.families import FLUX
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.trainable import add_adapters
from srpo_ray.training import engine as engine_module
from srpo_ray.training.engine import Engine
from tests.helpers.models.tiny_sd3 import save_tiny_sd3
from tests.helpers.training.ranks import run_ranks
from tests.helpers.training.tiny_flux import batches, call, each_loss, relative_error, tiny_transformer


def two_updates(settings: dict[str, Any], *, compiled: bool) -> dict[str, Any]:
    """Two updates with gathered rollouts, the second without any compilation: output and gradients of the second."""
    network: Any = tiny_transformer().train()
    if not settings.get("gather_blocks"):
        add_adapters(network, LoraConfig(rank=2), seed=0)
    else:
        network.enable_gradient_checkpointing()
    if compiled:
        # All of the compiler but the making of kernels, which takes minutes on a CPU.
        compile_blocks(network, FLUX.blocks, backend="aot_eager")
    training = TrainingConfig(batch_size=4, losses_in_flight=1, **settings)
    engine = Engine(network, training, torch.float32, blocks=FLUX.blocks)
    found: dict[str, Any] = {}
    for step, (first, second, sigma) in enumerate(batches(range(2))):
        with dynamo.patch(error_on_recompile=step > 0):
            with torch.no_grad(), engine.gathered():
                found["rollout"] = call(engine, first, sigma)
            for loss in each_loss(engine, first, second, sigma):
                engine.backward(loss)
        found["gradients"] = engine.gradients()
        engine.step()
    return found


def compiled_and_eager(settings: dict[str, Any]) -> dict[str, Any]:
    whole_config = engine_module.zero_config

    def every_weight_sharded(*arguments: Any) -> dict[str, Any]:
        made = whole_config(*arguments)
        if made["zero_optimization"]["stage"] == 3:
            # ZeRO would keep parameters as small as these whole.
            made["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return made

    with patch.object(engine_module, "zero_config", every_weight_sharded):
        return {
            "compiled": two_updates(settings, compiled=True),
            "graphs": counters["stats"]["unique_graphs"],
            "breaks": dict(counters["graph_break"]),
            "eager": two_updates(settings, compiled=False),
        }


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"zero_stage": 2}, id="adapters, stage 2"),
        pytest.param({"gather_blocks": True}, id="all weights, whole blocks", marks=pytest.mark.long),
    ],
)
def test_engine_trains_compiled_blocks_as_eager_ones_and_compiles_in_the_first_update_only(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    found = run_ranks(compiled_and_eager, 1, tmp_path, settings)
    torch.testing.assert_close(found["compiled"]["rollout"], found["eager"]["rollout"], rtol=1e-4, atol=1e-5)
    assert relative_error(found["compiled"]["gradients"], found["eager"]["gradients"]) < 1e-4
    # Two classes of blocks, one block of each, with and without gradient.
    assert found["graphs"] == 4
    assert not found["breaks"]


def test_kernel_for_a_transformer_that_cannot_change_its_attention_is_refused(tmp_path: Path) -> None:
    transformer = load_transformer(str(save_tiny_sd3(tmp_path / "sd3")), torch.float32)
    with pytest.raises(ValueError, match=r"expected native for a SD3Transformer2DModel, .* got 'cudnn'; remove it"):
        set_attention(transformer, "cudnn")
