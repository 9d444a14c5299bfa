"""Published configs of the newer families: sizes and shapes against those of the weight files.

Totals and shapes are those of the weight files, as public inventories of these files list them.
"""

import pytest

from srpo_ray.config.model import ModelConfig
from srpo_ray.planning.cost import velocity_cost
from srpo_ray.planning.published_families import FAMILY_PIPELINES
from srpo_ray.planning.shapes import build_transformer, parameters, planned_family, text_encoder_bytes, vae_bytes

QWEN3_4B, QWEN3_8B, MISTRAL_SMALL, QWEN25_VL_7B = 4_022_468_096, 8_190_735_360, 24_011_361_280, 8_292_166_656
QWEN3_VL_4B = 4_437_815_808
QWEN3_VL_8B = 8_767_123_696
FLUX2_VAE = 84_046_115
SIZES = {
    # Transformer, its tensors, text encoder, autoencoder.
    "black-forest-labs/FLUX.2-klein-base-4B": (3_875_544_576, 169, QWEN3_4B, FLUX2_VAE),
    "black-forest-labs/FLUX.2-klein-base-9B": (9_078_581_248, 233, QWEN3_8B, FLUX2_VAE),
    "black-forest-labs/FLUX.2-dev": (32_223_281_152, None, MISTRAL_SMALL, FLUX2_VAE),
    # ComfyUI's file has 453 tensors: it stacks query, key and value of the 34 blocks.
    "Tongyi-MAI/Z-Image-Turbo": (6_154_908_736, 453 + 2 * 34, QWEN3_4B, 83_819_683),
    "Qwen/Qwen-Image": (20_430_401_088, None, QWEN25_VL_7B, 126_892_531),
    "krea/Krea-2-Raw": (12_820_073_036, 430, QWEN3_VL_4B, 126_892_531),
    "Qwen/Qwen-Image-2.1": (7_115_124_736, 297, QWEN3_VL_8B, 337_740_404),
}
KREA2_BYTES = 26_283_332_608
"""Size of the transformer's file, for Raw and Turbo: its blocks are in bfloat16, the rest in float32."""
SHAPES = {
    "black-forest-labs/FLUX.2-dev": {
        "single_transformer_blocks.47.attn.to_qkv_mlp_proj.weight": (55296, 6144),
        "single_transformer_blocks.47.attn.to_out.weight": (6144, 24576),
        "transformer_blocks.7.ff.linear_in.weight": (36864, 6144),
        "double_stream_modulation_img.linear.weight": (36864, 6144),
        "single_stream_modulation.linear.weight": (18432, 6144),
    },
    "Tongyi-MAI/Z-Image": {
        # A third of ComfyUI's `attention.qkv.weight`, 11520 x 3840.
        "layers.29.attention.to_q.weight": (3840, 3840),
        "context_refiner.1.feed_forward.w1.weight": (10240, 3840),
        "cap_embedder.1.weight": (3840, 2560),
        "all_x_embedder.2-1.weight": (3840, 64),
    },
    "Qwen/Qwen-Image-2512": {
        "transformer_blocks.59.img_mlp.net.0.proj.weight": (12288, 3072),
        "transformer_blocks.59.txt_mod.1.weight": (18432, 3072),
        "txt_in.weight": (3072, 3584),
        "proj_out.weight": (64, 3072),
    },
    "Qwen/Qwen-Image-2.1-Turbo": {
        "transformer_blocks.31.attn.to_out.0.weight": (4096, 4096),
        # Halves of ComfyUI's `img_mlp.gate_up.weight`, 24576 x 4096.
        "transformer_blocks.31.img_mlp.gate_layer.weight": (12288, 4096),
        "transformer_blocks.31.img_mlp.proj.weight": (12288, 4096),
        "modulation.1.weight": (16384, 4096),
        "norm_out.linear.weight": (4096, 4096),
    },
}


def model(path: str) -> ModelConfig:
    return ModelConfig(path=path, dtype="bfloat16", resolution=1024, max_sequence_length=512)


@pytest.mark.parametrize("path", SIZES)
def test_model_has_the_number_of_weights_of_its_files(path: str) -> None:
    transformer, tensors, encoder, vae = SIZES[path]
    found = parameters(model(path))
    assert sum(tensor.numel for tensor in found) == transformer
    assert tensors in (None, len(found))
    assert text_encoder_bytes(model(path)) / 2 == encoder
    assert vae_bytes(model(path)) / 2 == vae


def test_krea_2_fills_its_file_up_to_the_header() -> None:
    size = 0
    for name, value in build_transformer(model("krea/Krea-2-Raw")).named_parameters():
        in_block = name.startswith(("transformer_blocks.", "text_fusion."))
        is_matrix = name.endswith(".weight") and value.ndim == 2
        size += value.numel() * (2 if in_block and is_matrix else 4)
    # A header has about 100 bytes for each of 430 tensors.
    assert 430 * 80 < KREA2_BYTES - size < 430 * 120


@pytest.mark.parametrize("path", SHAPES)
def test_layers_have_the_names_and_shapes_of_the_weight_files(path: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in build_transformer(model(path)).named_parameters()}
    assert {name: shapes.get(name) for name in SHAPES[path]} == SHAPES[path]


def test_families_are_told_apart_by_their_transformers() -> None:
    found = {path: planned_family(model(path)).pipeline for path in FAMILY_PIPELINES}
    assert {path for path, pipeline in found.items() if pipeline == "Flux2Pipeline"} == {"black-forest-labs/FLUX.2-dev"}
    assert {path for path, pipeline in found.items() if pipeline == "Flux2KleinPipeline"} == {
        path for path in found if "klein" in path
    }


def test_classifier_free_guidance_doubles_the_work_of_klein() -> None:
    klein = model("black-forest-labs/FLUX.2-klein-base-4B")
    plain, guided = (velocity_cost(klein, 1, scale, gradient=False, gpu=True).forward_flops for scale in (1.0, 4.0))
    assert guided == pytest.approx(2 * plain, rel=1e-3)


@pytest.mark.parametrize("samples", [1, 2])
def test_work_of_qwen_image_2_1_is_that_of_its_layers_for_full_texts(samples: int) -> None:
    text, image, width, layers = 512, 64 * 64, 4096, 32
    tokens = text + image
    blocks = layers * 2 * tokens * (4 * width * width + 3 * width * 3 * width)
    # Two products of each attention: text with text, and the image with all tokens.
    attention = layers * 4 * width * (text * text + image * tokens)
    ends = 2 * (text * 2 * width * width + image * 64 * width + tokens * 64 * width)
    # Time embedding, modulation and the scale of the last norm, for each sample and for the time 0.
    times = 2 * (samples + 1) * (256 * width + width * width + 4 * width * width + width * width)
    found = velocity_cost(model("Qwen/Qwen-Image-2.1"), samples, 1.0, gradient=False, gpu=True).forward_flops
    assert found == samples * (blocks + attention + ends) + times
