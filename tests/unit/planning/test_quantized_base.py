"""Planned memory of a quantised base model, against formulas for FLUX.1-dev by hand."""

import pytest

from srpo_ray.config import load_run
from srpo_ray.config.model import BaseType, LoraConfig, ModelConfig
from srpo_ray.config.training import TrainingConfig
from srpo_ray.planning.advice import candidates
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.plan import make_plan
from srpo_ray.planning.shapes import parameters
from srpo_ray.planning.zero_shares import share
from tests.conftest import ROOT

RECIPES = ROOT / "configs" / "recipes"
ALL = 11_901_408_256 + 89_653_248 + 64
"""Parameters of FLUX.1-dev and of its adapters of rank 32."""
WIDTH = 3072
IN_BLOCKS = (19 * 36 + 38 * 15) * WIDTH**2
"""Weights of linear layers in the blocks: 19 with 36 square matrices of that width, and 38 with 15."""
LAYERS = 19 * 14 + 38 * 6
ROWS = 19 * 2 * (6 + 4 + 4 + 1) * WIDTH + 38 * (3 + 3 + 4 + 1) * WIDTH
"""Outputs of these layers: modulation, attention and feed-forward layers."""


@pytest.mark.parametrize(
    ("base", "quantized"),
    [
        (None, 2 * IN_BLOCKS),
        ("int8", IN_BLOCKS + 4 * ROWS),
        ("fp8", IN_BLOCKS + 4 * ROWS),
        ("nf4", IN_BLOCKS // 2 + IN_BLOCKS // 64 + IN_BLOCKS // 64 // 256 * 4 + 4 * 273 * LAYERS),
    ],
)
def test_weights_of_the_blocks_take_the_bytes_of_their_type(base: BaseType | None, quantized: int) -> None:
    model = ModelConfig(path="black-forest-labs/FLUX.1-dev", dtype="bfloat16", base=base, lora=LoraConfig(rank=32))
    weights = share(parameters(model), TrainingConfig(), 2).weights
    assert weights == 2 * (ALL - IN_BLOCKS) + quantized


def test_recipe_for_24_gb_dequantises_one_layer_at_a_time() -> None:
    config = load_run([RECIPES / "flux_lora_24gb.yaml", RECIPES / "rewards_same_gpu.yaml"])
    plan = make_plan(config, Hardware(gpu="RTX4090"))
    parts = {part.name: part.bytes for phase in plan.gpus[0].phases for part in phase.parts}
    # The largest layer is a modulation of 6 square matrices.
    assert parts["one layer, dequantised"] == 2 * 6 * WIDTH**2
    assert plan.fits
    assert not plan.traffic


def test_advice_for_adapters_is_a_quantised_base_that_saves_two_thirds_of_the_weights() -> None:
    config = load_run([RECIPES / "flux_lora_48gb.yaml", RECIPES / "rewards_own_node.yaml"])
    changes = [change for change, _ in candidates(config)]
    assert {"model.base": "nf4"} in changes
    assert {"model.base": "nf4"} not in [
        change for change, _ in candidates(load_run([RECIPES / "flux_full_8x80gb.yaml"]))
    ]


@pytest.mark.parametrize(("overrides", "whole"), [((), False), (("training.shard_group_size=4",), True)])
def test_several_workers_at_stage_3_load_their_shards_only(overrides: tuple[str, ...], whole: bool) -> None:
    files = [RECIPES / "flux_full_8x80gb.yaml", RECIPES / "rewards_own_node.yaml"]
    trainer = make_plan(
        load_run(files, ["training.num_workers=32", "training.micro_batch_size=1", *overrides]), Hardware()
    ).gpus[0]
    (loading,) = [phase for phase in trainer.phases if phase.name == "loading"]
    assert bool(loading.parts) == whole
