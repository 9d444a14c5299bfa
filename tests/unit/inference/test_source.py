"""Models that commands open from a config: checked as at the start of a run, and told apart by their files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from srpo_ray.inference.job import SamplingOptions
from srpo_ray.inference.source import open_source, sampling_config, weight_of
from srpo_ray.models.contrast import BASE, TUNED
from tests.conftest import SMALL_WORLD
from tests.helpers.models.tiny_families import save_tiny_flux2_klein

LORA = ["model.lora.rank=2", "model.lora.target_modules=[attn.to_q]"]


def save_lora(file: Path, seed: int) -> str:
    """Adapters of the query layers of the small world's transformer."""
    torch.manual_seed(seed)
    from srpo_ray.models.loading import load_transformer

    weights = load_transformer("small_world", torch.float32).state_dict()
    layers = {
        name.removesuffix(".weight"): value for name, value in weights.items() if name.endswith("attn.to_q.weight")
    }
    tensors = {}
    for name, value in layers.items():
        tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(2, value.shape[1])
        tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(value.shape[0], 2)
    save_file(tensors, file)
    return str(file)


def test_config_is_read_from_the_working_folder_and_named_by_its_run_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("a red circle\n")
    source = open_source([str(SMALL_WORLD), "run_root=runs", "name=mine", "evaluation.prompts=p.txt"])
    assert source.folder.path == tmp_path / "runs" / "mine_untrained"
    assert source.config.evaluation.prompts == str(tmp_path / "p.txt")
    assert not (tmp_path / "runs").exists()
    assert (source.has_tuned, weight_of(source, None)) == (False, BASE)


def test_model_of_a_config_is_checked_as_that_of_a_run(tmp_path: Path) -> None:
    klein = str(save_tiny_flux2_klein(tmp_path / "klein", distilled=True))
    words = [str(SMALL_WORLD), f"model.path={klein}"]
    with pytest.raises(ValueError, match=r"model.max_sequence_length: expected more than .* tokens .* got 16;"):
        open_source([*words, "model.max_sequence_length=16"])
    source = open_source([*words, "model.max_sequence_length=96", "evaluation.guidance_scale=3.5"])
    with pytest.raises(ValueError, match=r"guidance scale of 1, .* got evaluation.guidance_scale=3.5; set evaluation"):
        sampling_config(source, SamplingOptions())
    assert sampling_config(source, SamplingOptions(guidance_scale=1)).evaluation.guidance_scale == 1


def test_lora_of_a_config_is_identified_by_its_content(tmp_path: Path) -> None:
    words = [str(SMALL_WORLD), *LORA, f"run_root={tmp_path}"]
    files = [save_lora(tmp_path / name, seed) for name, seed in (("a.safetensors", 0), ("b.safetensors", 1))]
    continued = [open_source([*words, f"model.lora.start_from={file}"]) for file in (*files, files[0])]
    assert all(source.has_tuned and weight_of(source, None) == TUNED for source in continued)
    assert continued[0].identity == continued[2].identity != continued[1].identity
    assert None not in [source.identity for source in continued]
    assert continued[0].model == continued[1].model, "the base model is the same"
    merge = "model.lora.start_mode=merge"
    merged = [open_source([*words, merge, f"model.lora.start_from={file}"]) for file in files]
    assert [source.has_tuned for source in merged] == [False, False]
    assert merged[0].model != merged[1].model
    assert [source.identity for source in merged] == [None, None]
