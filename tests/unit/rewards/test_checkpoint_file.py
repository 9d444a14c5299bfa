"""Bare checkpoint files of published rewards: read completely, or refused with the cause."""

import hashlib
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from srpo_ray.config.rewards import OpenClipRewardConfig
from srpo_ray.rewards.models.checkpoint_file import find_checkpoint
from srpo_ray.rewards.models.open_clip import OpenClipReward
from srpo_ray.rewards.query import TextQuery
from tests.helpers.rewards.tiny_clip import save_tiny_clip

TINY = "srpo-ray-test-tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, whose architecture open_clip knows by name."""
    folder = save_tiny_clip(tmp_path_factory.mktemp("clip") / "model", image_size=16, seed=0)
    architectures = tmp_path_factory.mktemp("architectures")
    model = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (architectures / f"{TINY}.json").write_text(json.dumps(model))
    open_clip.add_model_config(architectures)
    return folder


@pytest.fixture
def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "open_clip_model.safetensors")


def load(path: Path | str, **more: Any) -> OpenClipReward:
    return OpenClipReward.load(OpenClipRewardConfig(name="hps", path=str(path), **{"architecture": TINY, **more}))


def score(reward: OpenClipReward) -> Tensor:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return reward.score(images, [TextQuery.plain("a cat")] * 2)


def test_half_precision_state_dict_as_hpsv2_publishes_it_gives_the_folders_scores(
    folder: Path, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    halves = {f"module.{name}": tensor.half() for name, tensor in weights.items()}
    torch.save({"epoch": 3, "state_dict": halves}, tmp_path / "hps.pt")
    save_file({name: tensor.half() for name, tensor in weights.items()}, tmp_path / "hps.safetensors")
    save_file({name: tensor.half().float() for name, tensor in weights.items()}, tmp_path / "float32.safetensors")
    # The architecture's own mean and deviation are CLIP's, so the folder's model gets them too.
    expected = OpenClipReward.load(OpenClipRewardConfig(name="folder", path=str(folder)))
    read = load(tmp_path / "hps.pt")
    expected._mean, expected._std = read._mean, read._std
    assert read._mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    torch.testing.assert_close(score(read), score(expected), rtol=5e-3, atol=1e-3)
    assert torch.equal(score(load(tmp_path / "hps.safetensors")), score(read))
    assert torch.equal(score(load(tmp_path / "float32.safetensors")), score(read))


def test_hash_is_checked(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "hps.safetensors"
    save_file(weights, path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    load(path, sha256=right)
    with pytest.raises(ValueError, match=f"with sha256 {'0' * 64}, received {right}; download it again"):
        load(path, sha256="0" * 64)
    with pytest.raises(ValueError, match="only with architecture"):
        OpenClipRewardConfig(name="x", path="folder", sha256=right)


def test_weights_that_do_not_match_are_named_and_counted(weights: dict[str, Tensor], tmp_path: Path) -> None:
    names = sorted(weights)
    wrong = {name: tensor for name, tensor in weights.items() if name not in names[:5]}
    wrong |= {"head.weight": torch.zeros(2), names[6]: torch.zeros(1)}
    save_file(wrong, tmp_path / "hps.safetensors")
    with pytest.raises(ValueError, match="expected the ") as error:
        load(tmp_path / "hps.safetensors")
    message = str(error.value)
    assert f"expected the {len(weights)} weights" in message
    assert f"5 missing ({', '.join(names[:3])}, ...)" in message
    assert "1 unknown (head.weight)" in message
    assert f"1 of another shape ({names[6]})" in message


def test_missing_and_invalid_files_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 no archive")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("cut.safetensors", "cut.pt"):
        with pytest.raises(ValueError, match="that can be read, received"):
            load(tmp_path / name)
    with pytest.raises(ValueError, match="tensors by name, received a list"):
        load(tmp_path / "list.pt")
    with pytest.raises(ValueError, match="received no file; check `path`"):
        load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=f"received 'srpo-ray-test-tin'; did you mean {TINY}"):
        load(tmp_path / "whole.safetensors", architecture="srpo-ray-test-tin")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("run",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="that can be read, received UnpicklingError"):
        load(tmp_path / "evil.pt")


def test_file_of_the_hub_is_asked_for_by_repository_and_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        if "gated" in repository:
            raise OSError("401")
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = find_checkpoint("hps", "hf-hub:xswu/HPSv2/HPS_v2.1_compressed.pt")
    assert asked == [("xswu/HPSv2", "HPS_v2.1_compressed.pt")]
    assert found == tmp_path / "HPS_v2.1_compressed.pt"
    with pytest.raises(ValueError, match="accept the licence of a gated model and log in"):
        find_checkpoint("hps", "hf-hub:gated/model/x.pt")


def test_stock_vit_h_14_has_as_many_weights_as_hpsv2_has() -> None:
    config = open_clip.get_model_config("ViT-H-14")
    assert config is not None
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    state = model.state_dict()
    assert len(state) == 686
    assert sum(tensor.numel() for tensor in state.values()) == 986_109_441
