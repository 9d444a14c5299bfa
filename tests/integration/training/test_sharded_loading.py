"""Weights that two ranks load into their shards: equal to the file's, and never whole on one rank."""

from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from srpo_ray.config import apply, load_run
from srpo_ray.config.model import LoraConfig
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.registry import policy_class
from srpo_ray.models.trainable import check_trained, load_tuned
from srpo_ray.models.weight_files import WeightFiles
from srpo_ray.training import sharded_loading
from srpo_ray.training.engine import Engine
from srpo_ray.training.sharded_loading import load_into_shards, loads_into_shards
from tests.conftest import SMALL_WORLD
from tests.helpers.models.tiny_families import SAVERS
from tests.helpers.models.tiny_pipeline import save_tiny_flux
from tests.helpers.training.ranks import run_ranks
from tests.helpers.training.tiny_flux import batches, call


def load(path: str, lora: bool) -> dict[str, Any]:
    """Load on this rank, and look at what it holds at every tensor of the file and in the end."""
    overrides = {"model.path": path, "training.zero_stage": 3, "training.num_workers": 2, "training.batch_size": 4}
    config = apply(load_run([SMALL_WORLD]), overrides | ({"model.lora": LoraConfig(rank=2)} if lora else {}))
    assert loads_into_shards(config)
    held: list[int] = []
    built: list[Any] = []

    class Watched(WeightFiles):
        def require(self, expected: Any, class_name: str) -> None:
            super().require(expected, class_name)
            built[:] = [place for place in seen.pop().values() if hasattr(place, "ds_tensor")]

        def __iter__(self) -> Any:
            for name, tensor in super().__iter__():
                held.append(sum(place.data.numel() + place.ds_tensor.numel() for place in built))
                yield name, tensor

    seen: list[dict[str, Any]] = []
    original = torch.nn.Module.state_dict

    def state_dict(self: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        found = original(self, *arguments, **options)
        seen.append(found)
        return found

    torch.nn.Module.state_dict, sharded_loading.WeightFiles = state_dict, Watched
    transformer = load_into_shards(config, torch.float32)
    torch.nn.Module.state_dict = original
    trained = {name: each for name, each in transformer.named_parameters() if each.requires_grad}
    shapes = {name: torch.empty(getattr(each, "ds_shape", each.shape)) for name, each in trained.items()}
    check_trained(transformer, shapes)
    weights = whole(transformer)
    engine = Engine(transformer, config.training, torch.float32)
    (batch,) = batches(range(1))
    with torch.no_grad():
        answer = call(engine, batch[0], batch[2])
    return {"held": held, "weights": weights, "answer": answer}


def whole(transformer: Any) -> dict[str, Tensor]:
    found = {}
    for name, parameter in transformer.named_parameters():
        if hasattr(parameter, "ds_tensor"):
            with deepspeed.zero.GatheredParameters([parameter]):
                found[name.replace("base_layer.", "")] = parameter.data.clone()
    return found


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_two_ranks_load_the_files_weights_into_halves(tmp_path: Path, lora: bool) -> None:
    path = save_tiny_flux(tmp_path / "flux")
    file = load_file(tmp_path / "flux/transformer/diffusion_pytorch_model.safetensors")
    found = run_ranks(load, 2, tmp_path, path, lora)
    assert found["weights"].keys() == file.keys()
    assert all(torch.equal(found["weights"][name], value) for name, value in file.items())
    total = sum(value.numel() for value in file.values())
    assert len(found["held"]) == len(file)
    # A shard of an odd number of elements is padded.
    assert max(found["held"]) <= total // 2 + len(file)
    (batch,) = batches(range(1))
    with torch.no_grad():
        expected = call(load_transformer(path, torch.float32), batch[0], batch[2])
    assert torch.allclose(found["answer"], expected, atol=1e-6)


def load_from_lora(path: str, file: str) -> dict[str, dict[str, Tensor]]:
    """Weights that this rank's shards have of both kinds of starts, whole."""
    settings = {"model.path": path, "training.zero_stage": 3, "training.num_workers": 2, "training.batch_size": 4}
    found = {}
    for mode in ("continue", "merge"):
        lora = LoraConfig(rank=2, start_from=file, start_mode=mode)
        config = apply(load_run([SMALL_WORLD]), settings | {"model.lora": lora})
        transformer = load_into_shards(config, torch.float32)
        adapters = {name: each.detach() for name, each in transformer.named_parameters() if each.requires_grad}
        found[mode] = whole(transformer) | adapters
    return found


def test_two_ranks_load_a_lora_into_their_shards_as_one_process_into_whole_weights(tmp_path: Path) -> None:
    path = save_tiny_flux(tmp_path / "flux")
    lora = LoraConfig(rank=2)
    network = load_tuned(
        apply(load_run([SMALL_WORLD]), {"model.path": path, "model.lora": lora}), torch.float32, "cpu", None
    )
    trained = {name: each.shape for name, each in network.named_parameters() if each.requires_grad}
    source = torch.Generator().manual_seed(0)
    file = tmp_path / "lora.safetensors"
    tensors = {name.replace(".default.", "."): torch.randn(shape, generator=source) for name, shape in trained.items()}
    save_file({f"transformer.{name}": value for name, value in tensors.items()}, file)
    found = run_ranks(load_from_lora, 2, tmp_path, path, str(file))
    for mode in ("continue", "merge"):
        lora = LoraConfig(rank=2, start_from=str(file), start_mode=mode)
        config = apply(load_run([SMALL_WORLD]), {"model.path": path, "model.lora": lora})
        expected = load_tuned(config, torch.float32, "cpu", None).named_parameters()
        weights = {name.replace("base_layer.", ""): value for name, value in expected}
        assert found[mode].keys() == weights.keys()
        assert all(torch.equal(found[mode][name], value) for name, value in weights.items())
    base = load_transformer(path, torch.float32).get_parameter("transformer_blocks.0.attn.to_q.weight")
    name = "transformer_blocks.0.attn.to_q"
    assert torch.equal(found["continue"][f"{name}.lora_B.default.weight"], tensors[f"{name}.lora_B.weight"])
    assert not torch.equal(found["merge"][f"{name}.weight"], base)


NEWER = {"flux2": 48, "z_image": 16, "qwen_image": 16}
"""Family -> channels of its text features."""


def velocity_of(path: str, transformer: Any, network: Any, width: int) -> Tensor:
    """Velocity of two samples whose texts have different lengths."""
    vae = load_vae(path, torch.float32)
    policy = policy_class(path)(network, vae, transformer.config, resolution=64, dtype=torch.float32)
    source = torch.Generator().manual_seed(0)
    text = torch.randn(2, 8, width, generator=source)
    if family_of(path).masked_text:
        mask = torch.ones(2, 8, 1)
        mask[1, 5:] = 0
        text = torch.cat([text, mask], dim=-1)
    tokens = torch.randn(2, *policy.token_shape, generator=source)
    with torch.no_grad():
        return policy.velocity(tokens, torch.tensor([0.7, 0.4]), Conditioning(text, torch.zeros(2, 1)), 1.0)


def load_families(paths: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Whole weights, this rank's share of them, and a velocity of each family."""
    found = {}
    for name, path in paths.items():
        settings = {"model.path": path, "training.zero_stage": 3, "training.num_workers": 2, "training.batch_size": 4}
        config = apply(load_run([SMALL_WORLD]), settings | {"model.max_sequence_length": 256})
        transformer = load_into_shards(config, torch.float32)
        held = sum(each.data.numel() + each.ds_tensor.numel() for each in transformer.parameters())
        weights = whole(transformer)
        engine = Engine(transformer, config.training, torch.float32)
        found[name] = {
            "held": held,
            "weights": weights,
            "velocity": velocity_of(path, transformer, engine, NEWER[name]),
        }
    return found


def test_two_ranks_load_each_newer_family_into_halves_and_compute_its_velocity(tmp_path: Path) -> None:
    paths = {name: str(SAVERS[name](tmp_path / name)) for name in NEWER}
    found = run_ranks(load_families, 2, tmp_path, paths)
    for name, path in paths.items():
        file = load_file(Path(path) / "transformer/diffusion_pytorch_model.safetensors")
        weights = found[name]["weights"]
        assert weights.keys() == file.keys(), name
        assert all(torch.equal(weights[key], value) for key, value in file.items()), name
        total = sum(value.numel() for value in file.values())
        # A shard of an odd number of elements is padded.
        assert total // 2 <= found[name]["held"] <= total // 2 + len(file), name
        plain = load_transformer(path, torch.float32).eval()
        expected = velocity_of(path, plain, plain, NEWER[name])
        torch.testing.assert_close(found[name]["velocity"], expected, rtol=0, atol=1e-5)
        assert expected.abs().max() > 1e-2
