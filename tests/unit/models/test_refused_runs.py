"""Runs with a wrong model, size, LoRA or environment: `srpo-ray train` ends with one message before anything starts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import save_file

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.models.distilled import check_likelihood
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.models.tiny_families import LENGTHS, save_tiny_flux2_klein

MAPO = ("algorithm.type=preference", "algorithm.loss=mapo", "data.pairs=small_world:pairs")
KLEIN = f"model.max_sequence_length={LENGTHS['flux2_klein']}"


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Function that runs `srpo-ray train` with overrides, and returns its only message."""

    def run(*overrides: str) -> str:
        assert main(["train", str(SMALL_WORLD), *TINY, f"run_root={tmp_path / 'runs'}", *overrides]) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert printed.err.count("srpo-ray: ") == 1
        assert not ray.is_initialized()
        assert not (tmp_path / "runs").exists()
        return printed.err

    return run


def test_unknown_family_is_named_with_the_known_ones(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "kolors"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "KolorsPipeline"}))
    message = refused(f"model.path={folder}")
    assert "got 'KolorsPipeline'" in message
    known = ("FluxPipeline", "StableDiffusion3Pipeline", "Flux2KleinPipeline", "Flux2Pipeline", "ZImagePipeline")
    assert all(name in message for name in (*known, "QwenImagePipeline"))
    assert "choose another model" in message


def test_distilled_model_with_guidance_is_refused_with_the_keys_to_set(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    path = save_tiny_flux2_klein(tmp_path / "klein", distilled=True)
    message = refused(f"model.path={path}", KLEIN, "rollout.guidance_scale=4", "evaluation.guidance_scale=1")
    assert "expected a guidance scale of 1" in message
    assert "got rollout.guidance_scale=4" in message
    assert "set rollout.guidance_scale=1" in message


def test_mapo_with_guided_velocities_of_a_guidance_distilled_model_is_refused(refused: Callable[..., str]) -> None:
    message = refused(*MAPO, "algorithm.guidance_scale=3.5")
    assert "expected algorithm.guidance_scale=1 with algorithm.loss=mapo and small_world, got 3.5" in message
    assert "set algorithm.guidance_scale=1, or choose a loss with a reference" in message


@pytest.mark.parametrize(
    "overrides",
    [MAPO, (*MAPO, "algorithm.loss=dpo", "algorithm.guidance_scale=3.5")],
    ids=["guidance 1", "another loss"],
)
def test_mapo_without_guidance_and_other_losses_are_accepted(overrides: tuple[str, ...]) -> None:
    check_likelihood(load_run([SMALL_WORLD], overrides))


def test_mapo_with_guidance_of_a_model_without_its_input_is_accepted(tmp_path: Path) -> None:
    path = save_tiny_flux2_klein(tmp_path / "klein", distilled=False)
    check_likelihood(load_run([SMALL_WORLD], [*MAPO, f"model.path={path}", KLEIN, "algorithm.guidance_scale=3.5"]))


@pytest.mark.parametrize(
    ("overrides", "expected", "got", "cure"),
    [
        (["model.resolution=100"], "multiple of 16", "100", "96"),
        (["model.resolution=[64, 72]"], "multiple of 16", "72", "64"),
        (["evaluation.resolution=90"], "multiple of 16", "90", "96"),
        (["training.num_workers=3"], "multiple of num_workers", "batch_size=4", "set training.batch_size=6"),
        (["training.micro_batch_size=3"], "to divide a worker's share of 4", "3", "choose a divisor"),
        (["algorithm={type: dance_grpo, group_size: 12, images_per_pass: 5}"], "divisor", "5", "group_size"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_a_size_that_does(
    refused: Callable[..., str], overrides: list[str], expected: str, got: str, cure: str
) -> None:
    message = refused(*overrides)
    assert expected in message
    assert got in message.partition("got")[2]
    assert cure in message


@pytest.mark.parametrize("mode", ["continue", "merge"])
def test_lora_of_another_family_is_refused_with_its_first_names_and_their_number(
    refused: Callable[..., str], tmp_path: Path, mode: str
) -> None:
    layers = [f"transformer.layers.{index}.attention.to_q" for index in range(7)]
    file = tmp_path / "z_image.safetensors"
    ends = {"lora_A": (4, 8), "lora_B": (8, 4)}
    save_file({f"{layer}.{end}.weight": torch.ones(shape) for layer in layers for end, shape in ends.items()}, file)
    message = refused(f"model.lora={{rank: 4, start_from: {file}, start_mode: {mode}}}")
    assert "7 (layers.0.attention.to_q" in message
    assert "layers.6" not in message
    assert "z_image.safetensors" in message


def test_environment_that_cannot_be_used_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    environment = f"{{python: {tmp_path}/no_python}}"
    own.write_text(
        "rewards:\n  models:\n"
        f"    - {{name: own, type: python, target: 'package.module:Reward', environment: {environment}}}\n"
    )
    message = refused(str(own))
    assert "rewards.models, reward 'own': expected the interpreter of a Python environment" in message
    assert "no_python" in message
    assert "correct `environment.python`" in message


def test_message_about_packages_that_pip_cannot_install_names_the_reward(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(packages: list[str]) -> Path:
        raise ValueError(f"expected packages that pip can install, got {packages}, and pip failed; correct them")

    monkeypatch.setattr("srpo_ray.rewards.environment.process.provide_environment", fails)
    own = tmp_path / "own.yaml"
    own.write_text(
        "rewards:\n  models:\n"
        "    - {name: own, type: python, target: 'a:B', environment: {packages: [no-such-package==1]}}\n"
    )
    message = refused(str(own))
    assert "rewards.models, reward 'own': expected packages that pip can install" in message
