"""Export of a run for other programs: images of the export against images of the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from srpo_ray.cli import main
from srpo_ray.config import load_run, to_yaml
from srpo_ray.data.texts import read_texts
from srpo_ray.inference.export import COMFYUI_LORA, DIFFUSERS_LORA, export_run
from srpo_ray.models.trainable import load_tuned
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.runs.inputs import text_hashes
from srpo_ray.small_world.weights import WEIGHTS
from tests.conftest import SMALL_WORLD
from tests.helpers.training.trained_run import trained_run

BASE = WEIGHTS / "flux"


def images(pipeline: FluxPipeline) -> Tensor:
    """Two images from fixed noise."""
    pipeline.set_progress_bar_config(disable=True)
    source = torch.Generator().manual_seed(3)
    output: Any = pipeline(
        ["a red circle", "a blue square"],
        height=64,
        width=64,
        num_inference_steps=3,
        max_sequence_length=16,
        generator=source,
        output_type="pt",
    )
    return output.images


def pipeline_with(transformer: Any) -> FluxPipeline:
    return FluxPipeline.from_pretrained(BASE, transformer=transformer)


def base_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(BASE, subfolder="transformer")  # pyright: ignore[reportReturnType]


def test_exported_lora_draws_the_runs_images_in_diffusers_and_by_comfyuis_rule(tmp_path: Path) -> None:
    config, weights = trained_run(tmp_path / "run", "model.lora={rank: 4, alpha: 8}")
    out = tmp_path / "out"
    written = export_run(tmp_path / "run", out)
    assert {path.name for path in written} == {DIFFUSERS_LORA, COMFYUI_LORA, "README.md", "config.yaml"}
    expected = images(pipeline_with(load_tuned(config, torch.float32, "cpu", weights)))
    baseline = images(pipeline_with(base_transformer()))
    assert (expected - baseline).abs().max() > 0.05

    pipeline = pipeline_with(base_transformer())
    pipeline.load_lora_weights(str(out), weight_name=DIFFUSERS_LORA)
    torch.testing.assert_close(images(pipeline), expected, rtol=0, atol=1e-5)

    # ComfyUI patches each weight with lora_B @ lora_A * alpha / rank.
    merged = base_transformer()
    tensors = load_file(out / COMFYUI_LORA)
    parameters = dict(merged.named_parameters())
    layers = {name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha")}
    assert len(tensors) == 3 * len(layers)
    with torch.no_grad():
        for layer in layers:
            down, up, alpha = (tensors[f"{layer}.{part}"] for part in ("lora_A.weight", "lora_B.weight", "alpha"))
            parameters[f"{layer.removeprefix('transformer.')}.weight"].add_(up @ down * alpha / len(down))
    torch.testing.assert_close(images(pipeline_with(merged)), expected, rtol=0, atol=1e-5)


def test_exported_transformer_draws_the_runs_images(tmp_path: Path) -> None:
    config, weights = trained_run(tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out")
    read = FluxTransformer2DModel.from_pretrained(tmp_path / "out", subfolder="transformer")
    expected = images(pipeline_with(load_tuned(config, torch.float32, "cpu", weights)))
    assert torch.equal(images(pipeline_with(read)), expected)


def test_card_shows_how_to_load_and_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_run(tmp_path / "run", "model.lora={rank: 4}", "name=mine", "algorithm.control_words=vivid")
    for update, score in ((0, 0.25), (7, 0.375)):
        row = {"update": update, "num_prompts": 1, "scores": {"evaluator/held_out": [score]}}
        append_row(RunFolder(tmp_path / "run").test_scores, row)
    assert main(["export", str(tmp_path / "run"), "--dtype", "bfloat16"]) == 0
    assert str(tmp_path / "run" / "export" / DIFFUSERS_LORA) in capsys.readouterr().out
    card = (tmp_path / "run" / "export" / "README.md").read_text()
    assert "# mine\n" in card
    assert "7 updates of 8 prompts" in card
    assert "Steered by vivid, colorful against muted, pale. `config.yaml`" in card
    assert "| evaluator/held_out | 0.5000 | 0.7500 | +0.2500 |" in card
    assert "time/evaluate" not in card
    # The score on prompts that chose nothing comes first.
    assert card.index("| evaluator/held_out | 0.2500 | 0.3750 | +0.1250 |") < card.index("| 0.5000 |")
    assert f'weight_name="{DIFFUSERS_LORA}"' in card
    with safe_open(tmp_path / "run" / "export" / COMFYUI_LORA, "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys() if not name.endswith(".alpha")}  # noqa: SIM118
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize(
    ("words", "steered"),
    [
        ("{positive: [Real], negative: [Flat]}", "Steered by Real against Flat, and by words of the prompts' own."),
        ("{positive: [], negative: [Flat]}", "Steered by words of the prompts' own."),
    ],
)
def test_card_says_that_prompts_had_words_of_their_own(tmp_path: Path, words: str, steered: str) -> None:
    trained_run(tmp_path / "run", f"word_sets.own={words}", "algorithm.control_words=own", "model.lora={rank: 4}")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat", "positive_words": "Sharp"}')
    config = load_run([SMALL_WORLD], [f"data.prompts={tmp_path / 'p.jsonl'}"])
    RunFolder(tmp_path / "run").inputs.write_text(json.dumps(text_hashes(config, read_texts(config))))
    export_run(tmp_path / "run", tmp_path / "out")
    assert f"{steered} `config.yaml`" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["evaluation.rl_guidance=1.5"], "`evaluation.rl_guidance=1.5` in contrast with the base model;"),
        (
            ["evaluation.rl_guidance=1,1.5@0.6", "evaluation.contrast_with=runs/other"],
            "`evaluation.rl_guidance=1,1.5@0.6` in contrast with `other`;",
        ),
        ([], None),
        (["evaluation.rl_guidance=1"], None),
    ],
)
def test_card_says_that_images_were_sampled_in_contrast(
    tmp_path: Path, overrides: list[str], expected: str | None
) -> None:
    trained_run(tmp_path / "run", "model.lora={rank: 4}", *overrides)
    export_run(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("in contrast with" in card) is (expected is not None)
    if expected:
        assert f"Images after training were sampled with {expected} the files alone draw others.\n" in card


def test_export_is_repeated_in_its_folder_and_not_mixed_with_that_of_another_run(tmp_path: Path) -> None:
    trained_run(tmp_path / "adapters", "model.lora={rank: 4}")
    trained_run(tmp_path / "whole")
    gallery = RunFolder(tmp_path / "whole").gallery
    gallery.parent.mkdir(exist_ok=True)
    gallery.write_bytes(b"image")
    written = export_run(tmp_path / "whole", tmp_path / "out")
    assert export_run(tmp_path / "whole", tmp_path / "out") == written
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    with pytest.raises(ValueError, match=r"--out: .*out with before_after\.png, transformer of another export"):
        export_run(tmp_path / "adapters", tmp_path / "out")
    gallery.unlink()
    with pytest.raises(ValueError, match=r"out with before_after\.png of another export"):
        export_run(tmp_path / "whole", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before
    # A pipeline of diffusers is no export: adapters may lie beside it.
    (tmp_path / "pipeline" / "transformer").mkdir(parents=True)
    assert export_run(tmp_path / "adapters", tmp_path / "pipeline")


def test_run_without_a_checkpoint_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    folder.config.write_text(to_yaml(load_run([SMALL_WORLD])))
    assert main(["export", str(folder.path)]) == 2
    assert "expected the folder of a trained run" in capsys.readouterr().err
    folder.finished.write_text('{"best_update": 0}')
    assert main(["export", str(folder.path)]) == 2
    assert "expected a run that improved on the base model" in capsys.readouterr().err
