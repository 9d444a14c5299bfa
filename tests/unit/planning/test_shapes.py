"""The real models without their weights, against what is published of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from srpo_ray.config import RunConfig
from srpo_ray.config.model import LoraConfig, ModelConfig
from srpo_ray.config.rewards import OpenClipRewardConfig, PythonRewardConfig, TransformersClipRewardConfig
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.trainable import load_tuned
from srpo_ray.planning.cost import forward_flops, gradient_flops, velocity_cost
from srpo_ray.planning.reward_models import reward_sizes
from srpo_ray.planning.shapes import parameters, part_config, text_encoder_bytes, vae_bytes
from srpo_ray.planning.zero_shares import trained_elements
from tests.helpers.models.tiny_sd3 import save_tiny_sd3

FLUX = ModelConfig(path="black-forest-labs/FLUX.1-dev", dtype="bfloat16", resolution=720, max_sequence_length=512)


def test_flux_dev_has_its_published_number_of_parameters() -> None:
    tensors = parameters(FLUX)
    assert sum(tensor.numel for tensor in tensors) == trained_elements(tensors) == 11_901_408_320
    assert len(tensors) == 1160
    assert vae_bytes(FLUX) / 2 == pytest.approx(83.82e6, rel=1e-4)
    # T5-XXL's encoder and the text half of CLIP-L.
    assert text_encoder_bytes(FLUX) / 2 == 4_762_310_656 + 123_060_480


def test_published_config_is_that_of_diffusers_own_class() -> None:
    defaults = dict(FluxTransformer2DModel(num_layers=1, num_single_layers=1, num_attention_heads=1).config)
    config = part_config(FLUX.path, "transformer")
    own = {"num_layers", "num_single_layers", "num_attention_heads", "guidance_embeds"}
    assert {key: defaults[key] for key in set(config) - own - {"_class_name", "axes_dims_rope"}} == {
        key: config[key] for key in set(config) - own - {"_class_name", "axes_dims_rope"}
    }
    assert sum(config["axes_dims_rope"]) == config["attention_head_dim"]


def test_adapters_are_counted_as_they_are_put_on() -> None:
    rank, width, feed_forward = 32, 3072, 12288
    # Query, key, value and output of a block: a pair of matrices of width x rank each.
    attention, mlp = 4 * rank * (width + width), 2 * rank * (width + feed_forward)
    double = 2 * (attention + mlp)
    single = 3 * rank * (width + width)
    tensors = parameters(FLUX.model_copy(update={"lora": LoraConfig(rank=rank)}))
    assert trained_elements(tensors) == 19 * double + 38 * single


def test_small_worlds_adapters_are_those_of_the_loaded_model(tiny_run: RunConfig) -> None:
    model = tiny_run.model.model_copy(update={"lora": LoraConfig(rank=4)})
    loaded = load_tuned(tiny_run.model_copy(update={"model": model}), torch.float32, "cpu", None)
    found = [(value.numel(), value.requires_grad) for value in loaded.parameters()]
    assert [(tensor.numel, tensor.trainable) for tensor in parameters(model)] == found


@pytest.mark.parametrize(("resolution", "published"), [(256, 10.35), (512, 21.5), (720, 37.3), (1024, 74.4)])
def test_forward_flops_of_flux_are_the_published_ones(resolution: int, published: float) -> None:
    model = FLUX.model_copy(update={"resolution": resolution})
    assert forward_flops(model) / 1e12 == pytest.approx(published, rel=0.02)


def test_gradient_step_costs_three_forward_passes_and_four_with_recomputation() -> None:
    once = forward_flops(FLUX)
    # Attention's backward pass is 2.5 times its forward pass, not 2, as it computes its matrix anew.
    assert gradient_flops(FLUX) / once == pytest.approx(3, rel=0.05)
    recomputed = FLUX.model_copy(update={"gradient_checkpointing": True})
    assert gradient_flops(recomputed) / once == pytest.approx(4, rel=0.05)
    adapters = FLUX.model_copy(update={"lora": LoraConfig(rank=4)})
    assert gradient_flops(adapters) / once == pytest.approx(2, rel=0.1)


def test_flops_of_the_small_world_are_those_that_torch_counts(tiny_run: RunConfig) -> None:
    network: Any = load_transformer("small_world", torch.float32)
    model = tiny_run.model
    tokens = model.size.num_tokens
    width, depth = 128, {"double": 2, "single": 4}
    sequence = tokens + model.max_sequence_length
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(
            hidden_states=torch.zeros(1, tokens, 64),
            timestep=torch.ones(1),
            guidance=torch.ones(1),
            pooled_projections=torch.zeros(1, 64),
            encoder_hidden_states=torch.zeros(1, model.max_sequence_length, 64),
            txt_ids=torch.zeros(model.max_sequence_length, 3),
            img_ids=torch.zeros(tokens, 3),
        )
    # torch's counter does not know the CPU's kernel of attention, so that part is added by hand.
    counted = counter.get_total_flops()
    attention = sum(depth.values()) * 4 * sequence**2 * width
    assert forward_flops(model) in (counted, counted + attention)


def test_classifier_free_guidance_costs_a_second_prediction_of_every_sample(tmp_path: Path) -> None:
    sd3, flux = ModelConfig(path=str(save_tiny_sd3(tmp_path)), max_sequence_length=16), ModelConfig()

    def flops(model: ModelConfig, samples: int, guidance_scale: float) -> float:
        return velocity_cost(model, samples, guidance_scale, gradient=False, gpu=False).forward_flops

    assert flops(sd3, 3, 4.5) == flops(sd3, 6, 1.0) == pytest.approx(2 * flops(sd3, 3, 1.0))
    assert flops(flux, 3, 4.5) == flops(flux, 3, 1.0)


def test_reward_models_have_their_published_sizes() -> None:
    models = [
        OpenClipRewardConfig(name="hps", architecture="ViT-H-14", path="hf-hub:xswu/HPSv2/HPS_v2.1_compressed.pt"),
        OpenClipRewardConfig(name="clip", path="hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        TransformersClipRewardConfig(name="pickscore", path="yuvalkirstain/PickScore_v1"),
        PythonRewardConfig(name="mine", target="nowhere:Mine"),
    ]
    sizes, unknown = reward_sizes(models, 2, gradient=True, gpu=True)
    assert unknown == ["mine"]
    # PickScore in transformers' format has the same weights under other names.
    assert {size.weights for size in sizes} == {4 * 986_109_441}
    assert {size.image_size for size in sizes} == {224}
    # A vision transformer of 632 M parameters on 257 patches, twice for two images, 2 FLOPs per multiplication.
    assert sizes[0].cost.forward_flops == pytest.approx(2 * 2 * 257 * 630e6, rel=0.05)


def test_reward_in_bfloat16_has_half_the_bytes_of_its_image_encoder() -> None:
    path = "hf-hub:xswu/HPSv2/HPS_v2.1_compressed.pt"
    exact, rounded = (
        reward_sizes(
            [OpenClipRewardConfig(name="hps", architecture="ViT-H-14", path=path, dtype=dtype)],
            2,
            gradient=True,
            gpu=True,
        )[0][0]
        for dtype in ("float32", "bfloat16")
    )
    # Of 986 M parameters, 632 M are those of the image encoder.
    assert exact.weights - rounded.weights == 2 * 632_076_800
    assert exact.texts == rounded.texts
    assert 0.45 < rounded.cost.peak / exact.cost.peak < 0.55
    assert rounded.cost.forward_flops == exact.cost.forward_flops


def test_path_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.path: expected a folder or hub id with transformer/config.json"):
        parameters(ModelConfig(path="/nowhere/at/all"))
