"""LoRA files that a run cannot start from, found by their headers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from srpo_ray.cli import main
from srpo_ray.config import RunConfig, apply, to_yaml
from srpo_ray.config.load import ConfigError
from srpo_ray.models.lora_start import check_lora_start, check_target_modules
from srpo_ray.models.trainable import load_tuned
from tests.unit.models.test_lora_start import KOHYA, matrices, own_layers, run_from, save_diffusers, weight_shapes

ATTENTION = "transformer.transformer_blocks.0.attn.to_q"


@pytest.fixture
def flux_file(tiny: Callable[[str], Path], tmp_path: Path, tiny_run: RunConfig) -> Path:
    """A file for the layers that get adapters by default."""
    path = tiny("flux")
    values = matrices(weight_shapes(path, own_layers(path, tiny_run)))
    return save_diffusers(tmp_path / "flux.safetensors", values, None)


def save(file: Path, tensors: dict[str, tuple[int, ...]]) -> Path:
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, file)
    return file


@pytest.mark.parametrize("name", ["sd3", "flux2_klein", "z_image", "qwen_image"])
@pytest.mark.parametrize("mode", ["continue", "merge"])
def test_file_of_another_family_is_refused_with_its_first_names_and_their_number(
    tiny: Callable[[str], Path], flux_file: Path, name: str, mode: str, tiny_run: RunConfig
) -> None:
    run = run_from(tiny_run, tiny(name), flux_file, mode)
    with pytest.raises(ValueError, match=r"expected .*(match none|unmatched) \d+ \(\S+|\d+ \(\S+, .* match none"):
        check_lora_start(run.model)


def test_file_of_kohya_for_another_family_is_refused(
    tiny: Callable[[str], Path], tmp_path: Path, tiny_run: RunConfig
) -> None:
    name = next(iter(KOHYA["z_image"]))
    file = save(tmp_path / "x.safetensors", {f"{name}.lora_down.weight": (2, 32), f"{name}.lora_up.weight": (32, 2)})
    for other in ("flux", "sd3"):
        run = run_from(tiny_run, tiny(other), file, "merge")
        with pytest.raises(ValueError, match=rf"expected .* got '.*x.safetensors'.* \({name}"):
            check_lora_start(run.model)


def test_rank_of_continued_adapters_must_be_the_runs(
    tiny: Callable[[str], Path], flux_file: Path, tiny_run: RunConfig
) -> None:
    run = run_from(tiny_run, tiny("flux"), flux_file, "continue", rank=4)
    with pytest.raises(ValueError, match=r"expected adapters of model.lora.rank=4 to continue, got .* of rank 2; set"):
        check_lora_start(run.model)
    with pytest.raises(ValueError, match=r"expected adapters of model.lora.rank=4"):
        load_tuned(run, torch.float32, "cpu", None)
    check_lora_start(run_from(tiny_run, tiny("flux"), flux_file, "merge", rank=4).model)


def test_layers_of_continued_adapters_must_be_the_runs(
    tiny: Callable[[str], Path], flux_file: Path, tiny_run: RunConfig
) -> None:
    run = run_from(tiny_run, tiny("flux"), flux_file, "continue", target_modules=["attn.to_q", "proj_out"])
    with pytest.raises(ValueError, match=r"unmatched \d+ \(.*to_k.*\), missing \d+ \(.*proj_out.*start_mode to merge"):
        check_lora_start(run.model)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"text_encoder.x.lora_A.weight": (2, 4), "text_encoder.x.lora_B.weight": (4, 2)},
            "others are 2 \\(text_encoder.x",
        ),
        ({f"{ATTENTION}.lora_A.weight": (2, 32)}, "these are unpaired: 1"),
        ({f"{ATTENTION}.lora_A.weight": (2, 8), f"{ATTENTION}.lora_B.weight": (8, 2)}, "attn.to_q\\) match none"),
        ({f"{ATTENTION}.lora_magnitude_vector": (32, 1)}, "expected LoRA adapters, got DoRA"),
        ({f"{ATTENTION}.lokr_w1": (4, 4)}, "expected LoRA adapters, got LoKr"),
    ],
)
def test_file_that_is_no_lora_of_linear_layers_is_refused(
    tiny: Callable[[str], Path],
    tmp_path: Path,
    tiny_run: RunConfig,
    tensors: dict[str, tuple[int, ...]],
    message: str,
) -> None:
    run = run_from(tiny_run, tiny("flux"), save(tmp_path / "x.safetensors", tensors), "merge")
    with pytest.raises(ValueError, match=message):
        check_lora_start(run.model)


def test_place_without_one_file_is_refused(tiny: Callable[[str], Path], tmp_path: Path, tiny_run: RunConfig) -> None:
    def refused(path: Path) -> Any:
        return pytest.raises(ValueError, match=rf"expected a LoRA file .* got '{path}', "), run_from(
            tiny_run, tiny("flux"), path, "merge"
        )

    expected, run = refused(tmp_path / "missing")
    with expected:
        check_lora_start(run.model)
    for name in "ab":
        save(tmp_path / f"{name}.safetensors", {"x": (1,)})
    expected, run = refused(tmp_path)
    with expected as found:
        check_lora_start(run.model)
    assert "2 .safetensors files there" in str(found.value)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"expected a readable file, got .*broken.safetensors"):
        check_lora_start(run_from(tiny_run, tiny("flux"), broken, "merge").model)


def test_mode_without_a_file_is_refused(tiny_run: RunConfig) -> None:
    with pytest.raises((ConfigError, ValueError), match=r"expected start_from with start_mode=merge, got none"):
        apply(tiny_run, {"model.lora": {"start_mode": "merge"}})


@pytest.mark.parametrize("start", [{}, {"start_from": "lora.safetensors", "start_mode": "merge"}])
def test_target_that_matches_no_layer_is_refused_before_a_run_starts(
    tiny_run: RunConfig, tmp_path: Path, start: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    lora = {"rank": 2, "target_modules": ["attn.to_q", "attn.to_query"], **start}
    config = apply(tiny_run, {"model.lora": lora, "run_root": str(tmp_path / "runs")})
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config))
    assert main(["train", str(file)]) == 2
    message = "model.lora.target_modules: expected ends of the names of linear layers, got 'attn.to_query', which"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs" / config.name).exists()
    check_target_modules(apply(config, {"model.lora.target_modules": ["attn.to_q"]}).model)
