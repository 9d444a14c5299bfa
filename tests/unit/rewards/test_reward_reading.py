"""Damaged files of reward models: a result, or an error with the reward, the file and the cure."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from srpo_ray.config.rewards import OpenClipRewardConfig, TransformersClipRewardConfig
from srpo_ray.rewards.models.checkpoint_file import load_strictly, read_state_dict
from srpo_ray.rewards.reading import damaged_file
from srpo_ray.rewards.registry import build_rewards
from srpo_ray.small_world.weights import WEIGHTS, reward_dir

TOKENIZER = WEIGHTS / "flux" / "tokenizer"
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(3).half(), "ids": torch.arange(3)}
TOLD = r"reward 'mine': expected .*{file}.*; download it again$"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same weights as `torch.save` writes them now, as it did before version 1.6, and as safetensors."""
    folder = tmp_path_factory.mktemp("checkpoints")
    published = {"epoch": 3, "state_dict": STATE}
    torch.save(published, folder / "zip.pt")
    torch.save(published, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(STATE, folder / "new.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    file=st.sampled_from(["zip.pt", "legacy.pth", "new.safetensors"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.one_of(st.none(), st.integers(0, 7)),
)
def test_flipped_bit_or_truncation_gives_tensors_or_the_error_message(
    checkpoints: dict[str, bytes], scratch: Path, file: str, place: float, bit: int | None
) -> None:
    content = bytearray(checkpoints[file])
    position = int(place * len(content))
    if bit is None:
        del content[position:]
    else:
        content[position] ^= 1 << bit
    path = scratch / file
    path.write_bytes(content)
    try:
        state = read_state_dict("mine", path)
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"reward 'mine': expected a checkpoint in {path} ")
        assert message.endswith("download it again")
    else:
        assert all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items())


@pytest.mark.parametrize("position", [b"ctorch._utils", b"X\x08\x00\x00\x00a.weight", b"X\x05\x00\x00\x00epoch"])
@pytest.mark.parametrize("byte", range(0, 256, 15))
def test_wrong_byte_in_a_pickle_is_reported_whatever_the_unpickler_raises(
    checkpoints: dict[str, bytes], tmp_path: Path, position: bytes, byte: int
) -> None:
    content = bytearray(checkpoints["legacy.pth"])
    content[content.index(position)] = byte
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"^reward 'mine': expected a checkpoint in .*x\.pt .*download it again$"):
        read_state_dict("mine", tmp_path / "x.pt")


def test_message_does_not_advise_to_run_the_files_code(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"UnpicklingError: Unsupported global: .*pathlib.*download it again$"
    ) as error:
        read_state_dict("mine", tmp_path / "x.pt")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("content", [{1: torch.ones(1)}, {"a": torch.ones(1), "b": None}, torch.ones(1)])
def test_anything_but_tensors_by_name_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"with tensors by name, received a .* download it again$"):
        read_state_dict("mine", tmp_path / "x.pt")


@pytest.mark.parametrize(
    "weight", [torch.ones(1, 2).long(), torch.ones(1, 2).to(torch.cfloat), torch.ones(1, 2).to_sparse()]
)
def test_weights_that_a_copy_would_not_convert_are_refused(weight: torch.Tensor) -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    with pytest.raises(ValueError, match=r"1 of another type \(weight\)"):
        load_strictly("mine", model, {"weight": weight})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP of transformers with all files that such folders have; its weights are in shards."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    width = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {**width, "vocab_size": len(tokenizer), "max_position_embeddings": 9, "eos_token_id": tokenizer.eos_token_id}
    vision = {**width, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=4))
    model.save_pretrained(folder, max_shard_size="3KB")
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


def load_clip(folder: Path) -> None:
    build_rewards([TransformersClipRewardConfig(name="mine", path=str(folder))])


def load_open_clip(folder: Path) -> None:
    build_rewards([OpenClipRewardConfig(name="mine", path=str(folder))])


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def wrong_byte(content: bytes) -> bytes:
    """The first character of the tenth word becomes one that no UTF-8 text has."""
    place = content.index(b'"', 100)
    return content[:place] + b"\xff" + content[place + 1 :]


def wrong_opcode(content: bytes) -> bytes:
    """A byte of the pickle that is not an opcode."""
    return content.replace(b"ctorch._utils", b"\xfftorch._utils", 1)


def emptied(_: bytes) -> bytes:
    return b""


def replaced(_: bytes) -> bytes:
    return b"[1]"


DAMAGES = [cut, wrong_byte, emptied, replaced]
CLIP_FILES = ["config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"]
CLIP_FILES += ["preprocessor_config.json", "model-00001-of-*.safetensors"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", CLIP_FILES)
def test_damaged_file_of_a_clip_folder_is_named(
    clip: Path, tmp_path: Path, file: str, damage: Callable[[bytes], bytes]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(clip, folder)
    load_clip(folder)
    (path,) = folder.glob(file)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=TOLD.format(file=path)):
        load_clip(folder)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "file", ["open_clip_config.json", "tokenizer.json", "tokenizer_config.json", "open_clip_model.safetensors"]
)
def test_damaged_file_of_an_open_clip_folder_is_named(
    tmp_path: Path, file: str, damage: Callable[[bytes], bytes]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reward_dir("preference"), folder)
    load_open_clip(folder)
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    with pytest.raises(ValueError, match=TOLD.format(file=folder / file)):
        load_open_clip(folder)


@pytest.mark.parametrize("damage", [cut, wrong_opcode, emptied, replaced])
def test_damaged_pickle_in_a_models_folder_is_named(
    clip: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    for load, source, name in (
        (load_clip, clip, "pytorch_model.bin"),
        (load_open_clip, Path(reward_dir("preference")), "open_clip_pytorch_model.bin"),
    ):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        weights = {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}
        for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
            path.unlink()
        torch.save(weights, folder / name)
        load(folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
        with pytest.raises(ValueError, match=TOLD.format(file=folder / name)):
            load(folder)


def test_pickled_code_in_a_models_folder_is_not_run(clip: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "run",))

    folder = tmp_path / "model"
    shutil.copytree(clip, folder, ignore=shutil.ignore_patterns("model*"))
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=TOLD.format(file="pytorch_model.bin")):
        load_clip(folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"dtype": "float3r"}, {"projection_dim": "x"}])
def test_json_config_of_no_clip_model_is_refused(clip: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(clip, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change | {"model_type": "clip"}))
    with pytest.raises(ValueError, match=r"^reward 'mine': expected .* CLIP model .*download it again$"):
        load_clip(folder)


@pytest.mark.parametrize("change", [{"image_mean": [0.5] * 4}, {"image_std": [0.5, 0.0, 0.5]}, {"image_mean": "abc"}])
def test_image_processor_without_three_usable_numbers_is_refused(
    clip: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(clip, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(change))
    with pytest.raises(ValueError, match=r"^reward 'mine': expected a readable image processor .*preprocessor_config"):
        load_clip(folder)


@pytest.mark.parametrize(
    ("missing", "told"), [("tokenizer.json", "received one with"), ("tokenizer_config.json", "pad")]
)
def test_open_clip_folder_without_its_tokenizer_is_refused(tmp_path: Path, missing: str, told: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reward_dir("preference"), folder)
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=f"^reward 'mine': expected a tokenizer .*{told}.*download it again$"):
        load_open_clip(folder)


def test_whole_folder_and_missing_one_have_no_damaged_file(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(clip, folder)
    # Files that trainers leave beside a model.
    torch.save(Path("x"), folder / "training_args.bin")
    (folder / "modules.json").write_text("[]")
    assert damaged_file(str(folder)) is None
    assert damaged_file(str(tmp_path / "none")) is None
