"""Plan of HPSv3, against the published sizes, arithmetic by hand and the reward itself."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLConfig

from srpo_ray.config import load_run
from srpo_ray.config.rewards import HPSv3RewardConfig
from srpo_ray.planning.hardware import GIB, Hardware
from srpo_ray.planning.hpsv3_size import hpsv3_cost
from srpo_ray.planning.plan import make_plan
from srpo_ray.planning.reward_models import RewardSize, reward_sizes
from srpo_ray.rewards.models.hpsv3 import HPSv3Model
from tests.conftest import ROOT

TINY_TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
}
TINY_VISION = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2}


def hpsv3_size(images: int, texts: int, *, gradient: bool = True) -> RewardSize:
    models = [HPSv3RewardConfig(name="v3")]
    sizes, unknown = reward_sizes(models, images, texts=texts, gradient=gradient, gpu=True)
    assert not unknown
    return sizes[0]


def test_hpsv3_has_the_published_parameters_and_no_cache_of_texts() -> None:
    size = hpsv3_size(1, 1, gradient=False)
    # Qwen2-VL-7B-Instruct has 8,291,375,616 parameters. HPSv3 has no output layer, fewer rows of the vocabulary, and a
    # head in float32.
    tables, head = 2 * 152_064 * 3584, (3584 + 1) * 1024 + (1024 + 1) * 16 + (16 + 1) * 2
    assert size.weights == 2 * (8_291_375_616 - tables + 151_658 * 3584) + 4 * head
    assert (size.image_size, size.texts, size.cost.saved) == (448, 0, 0)


def test_hpsv3_costs_a_pass_of_the_language_model_for_each_text() -> None:
    one, two, both = hpsv3_size(1, 1), hpsv3_size(1, 2), hpsv3_size(2, 1)
    # 28 layers on 256 + 640 tokens: linear layers of 6.525 G parameters, and attention of width 3584.
    language = 2 * 896 * 6.525e9 + 28 * 4 * 896**2 * 3584
    assert two.cost.forward_flops - one.cost.forward_flops == pytest.approx(language, rel=0.01)
    assert both.cost.forward_flops == pytest.approx(2 * one.cost.forward_flops, rel=1e-3)
    assert both.cost.saved == pytest.approx(2 * one.cost.saved, rel=1e-3)


def test_traced_hpsv3_has_the_flops_and_activations_of_the_reward_itself() -> None:
    config = Qwen2VLConfig(text_config=TINY_TEXT, vision_config=TINY_VISION, image_token_id=5)
    torch.manual_seed(0)
    tokens = torch.randint(10, 60, (2, 4 + 12))
    tokens[:, :4], tokens[:, -1] = 5, 7
    mask = torch.ones_like(tokens)
    # Padding, so that attention has a mask.
    mask[0, -1], tokens[0, -2:] = 0, torch.tensor([7, 8])
    model = HPSv3Model(config, 7).requires_grad_(False).eval()
    pixels = torch.rand(1, 3, 56, 56, requires_grad=True)
    rows = torch.zeros(2, dtype=torch.long)
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        scores = model(pixels, rows, tokens, mask)
    assert scores.shape == (2, 2)
    with torch.device("meta"):
        shapes = HPSv3Model(config, 7).requires_grad_(False).eval()
    planned = hpsv3_cost(shapes, 1, 2, gradient=True, gpu=False, image_size=56, text_tokens=12)
    assert planned.forward_flops == counter.get_total_flops()
    assert planned.saved == pytest.approx(sum(kept.values()), rel=0.1)


def test_packaged_config_counts_hpsv3_and_fits_an_l40s_of_its_own() -> None:
    layers = [ROOT / "configs" / name for name in ("recipes/flux_lora_48gb.yaml", "rewards/hpsv3.yaml")]
    plan = make_plan(load_run(layers, ["rewards.pool.num_gpus=1", "evaluation.held_out=[]"]), Hardware(gpu="L40S"))
    assert not plan.notes
    reward = plan.gpus[1]
    assert {part.name: part.bytes for part in reward.always} == {"hpsv3, weights": hpsv3_size(1, 1).weights}
    # The relative query has two texts.
    assert reward.phases[0].parts[0].bytes == hpsv3_size(2, 2).cost.peak
    assert 35 * GIB < reward.peak < 44.4 * GIB


def test_query_of_two_texts_costs_a_replica_more_than_the_plain_one() -> None:
    layers = [ROOT / "configs" / name for name in ("recipes/flux_lora_48gb.yaml", "rewards/hpsv3.yaml")]
    plain = ["algorithm.query=plain", "algorithm.branches=[denoise]"]
    work = [
        make_plan(load_run(layers, ["algorithm.branches=[denoise]", *changes]), Hardware(gpu="L40S")).replica_work.flops
        for changes in ([], plain)
    ]
    assert 1.85 < work[0] / work[1] < 2


def test_backbone_without_a_known_config_is_named_and_not_counted() -> None:
    unknown = HPSv3RewardConfig(name="v3", backbone="someone/else")
    assert reward_sizes([unknown], 1, gradient=True, gpu=True) == ([], ["v3"])
