import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.models.content_hash import parts_identity
from srpo_ray.models.prompt_length import cut_prompts
from srpo_ray.small_world.weights import flux_dir

PROMPTS = ["a red circle", "ein grüner Kreis", "红色的圆", "a blue square on a gray background"]


def cache_of(folder: Path, path: Path = flux_dir(), length: int = 16, dtype: torch.dtype = torch.float32) -> TextCache:  # noqa: B008
    return TextCache(str(path), length, dtype, folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_bitwise_those_of_the_diffusers_pipeline(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = cache_of(tmp_path, dtype=dtype)
    cache.load_encoder("cpu")(PROMPTS)
    features = cache_of(tmp_path, dtype=dtype).features([PROMPTS[2], *PROMPTS])
    found = features[[1, 2, 0, 4]]
    pipeline: Any = FluxPipeline.from_pretrained(flux_dir(), transformer=None, vae=None, torch_dtype=dtype)
    with torch.no_grad():
        embeds, pooled, _ = pipeline.encode_prompt(PROMPTS, max_sequence_length=16)
    assert found.prompt_embeds.dtype == dtype
    assert torch.equal(found.prompt_embeds, embeds)
    assert torch.equal(found.pooled_prompt_embeds, pooled)


def test_only_new_prompts_are_encoded_and_nothing_is_written_again(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    assert cache.missing([*PROMPTS, PROMPTS[0]]) == PROMPTS
    cache.load_encoder("cpu")(PROMPTS[:2])
    files = {path: path.stat().st_mtime_ns for path in cache.store.folder.iterdir()}
    assert cache.missing(PROMPTS[:2]) == []
    assert cache.missing(PROMPTS) == PROMPTS[2:]
    cache.load_encoder("cpu")(PROMPTS[2:])
    assert cache.missing(PROMPTS) == []
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_shard_is_encoded_again_to_the_same_bits(tmp_path: Path, damage: str) -> None:
    cache = cache_of(tmp_path)
    encode = cache.load_encoder("cpu")
    encode(PROMPTS[:3])
    before = cache.features(PROMPTS[:3])[[0, 1, 2]]
    (shard,) = cache.store.folder.iterdir()
    encode(PROMPTS[3:])
    content = bytearray(shard.read_bytes())
    content[-7] ^= 16
    shard.write_bytes(content if damage == "flip" else content[:-7])
    with pytest.warns(UserWarning, match=f"{shard.name} was damaged"):
        missing = cache.missing(PROMPTS)
    assert missing == PROMPTS[:3]
    encode(missing)
    after = cache.features(PROMPTS[:3])[[0, 1, 2]]
    assert torch.equal(after.prompt_embeds, before.prompt_embeds)
    assert torch.equal(after.pooled_prompt_embeds, before.pooled_prompt_embeds)


def test_another_encoder_length_or_data_type_has_a_separate_cache_and_a_moved_one_has_not(tmp_path: Path) -> None:
    moved, tuned = tmp_path / "moved", tmp_path / "tuned"
    shutil.copytree(flux_dir(), moved)
    shutil.copytree(flux_dir(), tuned)
    weights = tuned / "text_encoder_2" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 1.001 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    folders = [
        cache.store.folder
        for cache in (
            cache_of(tmp_path),
            cache_of(tmp_path, tuned),
            cache_of(tmp_path, length=8),
            cache_of(tmp_path, dtype=torch.bfloat16),
        )
    ]
    assert len(set(folders)) == 4
    assert cache_of(tmp_path, moved).store.folder == folders[0]


def test_identity_of_a_large_file_changes_with_its_content(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    large = tmp_path / "vae" / "model.safetensors"
    found = []
    for seed in (0, 1, 0):
        numbers = torch.randint(256, (2**23,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        large.write_bytes(numbers.numpy().tobytes())
        found.append(parts_identity(str(tmp_path), ["vae"]))
    assert found[0] == found[2] != found[1]


def test_prompts_that_an_encoder_truncates_are_found() -> None:
    # In the small world every known word is one token; T5 adds an end and CLIP a start and an end, and takes 32.
    fitting, for_clip, too_long = ("red " * 15).strip(), ("red " * 16).strip(), ("red " * 31).strip()
    found = cut_prompts(str(flux_dir()), [fitting, for_clip, "a circle", too_long], 16)
    assert [(cut.encoder, cut.limit, cut.texts) for cut in found] == [
        ("T5", 16, [for_clip, too_long]),
        ("CLIP", 32, [too_long]),
    ]
    assert found[0].note.startswith("2 prompts are longer than 16 T5 tokens and truncated: 'red red")
    assert found[1].note.startswith("1 prompt is longer than 32 CLIP tokens and truncated: 'red red")
    assert cut_prompts(str(flux_dir()), [fitting], 16) == []
