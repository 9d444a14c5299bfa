"""A tiny decoder replaces the VAE in training passes alone."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.config import apply, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.model import ModelConfig
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.latents import pack
from srpo_ray.models.loading import load_vae
from srpo_ray.models.tiny_decoder import check_decoder, load_decoder
from srpo_ray.planning.cost import decoder_cost, without_decoder
from srpo_ray.planning.shapes import vae_bytes
from srpo_ray.runs.inputs import changed_inputs, input_hashes
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.training.tiny_decoder import VAE, save_tiny

RUN = load_run([SMALL_WORLD], TINY)


def policy_of(model: ModelConfig) -> FluxPolicy:
    unused: Any = SimpleNamespace
    vae = load_vae("small_world", torch.float32)
    policy = FluxPolicy(unused, vae, {}, resolution=model.size, dtype=torch.float32)
    policy.training_decoder = load_decoder(model, torch.float32, "cpu")
    return policy


def latents_of(policy: FluxPolicy) -> Tensor:
    return torch.randn(2, VAE["latent_channels"], *policy.latent_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("changes", [{}, {"vae_checkpointing": True}, {"vae_channels_last": True}])
def test_training_images_and_gradients_are_those_of_the_autoencoder_itself(
    changes: dict[str, bool], tmp_path: Path
) -> None:
    tiny = save_tiny(tmp_path, scaling_factor=0.5, shift_factor=0.25)
    policy = policy_of(ModelConfig.model_validate({"decoder": str(tmp_path), **changes}))
    latents = latents_of(policy)
    theirs = latents.clone().requires_grad_()
    expected = (tiny.decode(theirs / 0.5 + 0.25, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
    expected.square().sum().backward()
    assert theirs.grad is not None

    tokens = pack(latents).requires_grad_()
    images = policy.decode_for_training(tokens)
    images.square().sum().backward()

    torch.testing.assert_close(images, expected)
    assert tokens.grad is not None
    assert tokens.grad.abs().max() > 0
    torch.testing.assert_close(tokens.grad, pack(theirs.grad))


def test_images_of_evaluations_and_encodings_are_those_of_the_vae_bit_for_bit(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    plain, with_tiny = policy_of(ModelConfig()), policy_of(ModelConfig(decoder=str(tmp_path)))
    tokens = pack(latents_of(plain))
    images = plain.decode(tokens)
    assert torch.equal(with_tiny.decode(tokens), images)
    assert torch.equal(with_tiny.encode(images), plain.encode(images))
    assert torch.equal(plain.decode_for_training(tokens), images)
    assert not torch.equal(with_tiny.decode_for_training(tokens), images)


def test_other_latents_another_class_and_a_missing_folder_are_refused_with_the_cure(tmp_path: Path) -> None:
    save_tiny(tmp_path / "narrow", channels=VAE["latent_channels"] + 1)
    with pytest.raises(
        ValueError, match=r"expected \d+ latent channels.*got \d+ latent channels.*remove model.decoder"
    ):
        check_decoder(ModelConfig(decoder=str(tmp_path / "narrow")))
    with pytest.raises(ValueError, match=r"got '.*nowhere' \(FileNotFoundError.*remove model.decoder"):
        check_decoder(ModelConfig(decoder=str(tmp_path / "nowhere")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ValueError, match="expected an AutoencoderTiny, got 'AutoencoderKL'"):
        check_decoder(ModelConfig(decoder=str(tmp_path / "other")))


def test_the_start_of_a_run_refuses_a_decoder_of_other_latents(tmp_path: Path) -> None:
    save_tiny(tmp_path, channels=VAE["latent_channels"] + 1)
    with pytest.raises(ValueError, match=r"model\.decoder: expected"):
        check_inputs(apply(RUN, {"model.decoder": str(tmp_path)}))


def test_a_changed_decoder_changes_the_inputs_of_a_run_and_its_path_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_absolute_paths(RUN)
    save_tiny(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(apply(run, {"model.decoder": "tiny"}))
    assert config.model.decoder == str(tmp_path / "tiny")
    before = input_hashes(config)
    save_tiny(tmp_path / "tiny", scaling_factor=0.5)
    changed = changed_inputs(before, input_hashes(config))
    assert [key for key, _ in changed] == ["model.decoder"]


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match=r"model\.decoder: expected readable weights"):
        load_decoder(ModelConfig(decoder=str(tmp_path)), torch.float32, "cpu")


def test_the_plan_counts_the_tiny_decoder_from_its_config_and_the_vae_for_evaluations(tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "tiny")
    (tmp_path / "config").mkdir()
    shutil.copy(tmp_path / "tiny" / "config.json", tmp_path / "config")
    model = ModelConfig(decoder=str(tmp_path / "config"))
    plain = ModelConfig()

    def cost(model: ModelConfig) -> Any:
        return decoder_cost(model, 2, (32,), gradient=True, gpu=False)

    assert cost(model).saved < cost(plain).saved
    assert cost(model).peak < cost(plain).peak
    assert cost(without_decoder(model)) == cost(plain)
    assert vae_bytes(model) - vae_bytes(plain) == 4 * sum(each.numel() for each in tiny.parameters())
