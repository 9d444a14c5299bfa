"""Other model of the contrast in evaluations: what is refused before Ray starts, and what a resume compares."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from srpo_ray.cli import main
from srpo_ray.config import load_run, to_yaml
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.model import LoraConfig
from srpo_ray.launch.preflight import open_run_folder
from srpo_ray.models.fitted_lora import padded_adapters
from srpo_ray.models.lora_files import LoraLayer
from srpo_ray.planning.devices import trainer_memory
from srpo_ray.planning.shapes import parameters
from srpo_ray.planning.zero_shares import trained_elements
from srpo_ray.runs.folder import append_row
from srpo_ray.runs.other_model import check_other_model
from srpo_ray.small_world.weights import flux_dir
from tests.conftest import SMALL_WORLD
from tests.helpers.training.contrasted_runs import LORA, damage, finished_run, run_with

LAYER = "transformer_blocks.0.attn.to_q"


def edited(other: Path, *changes: str) -> None:
    """Change the config of a run after its training."""
    (other / "config.yaml").write_text(to_yaml(load_run([other / "config.yaml"], changes)))


def another_vae(other: Path) -> None:
    copy = other.parent / "flux"
    shutil.copytree(flux_dir(), copy)
    (copy / "vae" / "more.safetensors").write_bytes(b"x")
    edited(other, f"model.path={copy}")


def with_older_checkpoint(other: Path) -> None:
    """Damage the newest of two checkpoints."""
    checkpoints = other / "checkpoints"
    shutil.copytree(checkpoints / "update_000007", checkpoints / "update_000006")
    (checkpoints / "update_000007" / "weights-00000.safetensors").write_bytes(b"")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (shutil.rmtree, r"expected the folder of a finished run.* got \S*other, which does not exist"),
    "an unfinished run": (
        lambda other: (other / "finished.json").unlink(),
        r"expected the folder of a finished run, with config\.yaml, finished\.json and a checkpoint, or a LoRA, got"
        r" \S*other, which lacks one of them",
    ),
    "no checkpoint": (
        lambda other: shutil.rmtree(other / "checkpoints"),
        r"expected the folder of a finished run.* got \S*other, which lacks one of them",
    ),
    "the baseline": (
        lambda other: (other / "finished.json").write_text('{"best_update": 0}'),
        "expected a run with a tuned model, got .* whose best evaluation is that of the baseline",
    ),
    "damaged weights": (damage, r"checkpoint \S*update_000007: .* it is damaged"),
    "damaged newest weights": (with_older_checkpoint, r"checkpoint \S*update_000007: "),
    "another text length": (
        lambda other: edited(other, "model.max_sequence_length=8"),
        r"expected a run of the same model, got \S*other with model\.max_sequence_length 8 where this run has 16;"
        r" choose runs with equal values$",
    ),
    "another content of the model": (
        another_vae,
        r"expected a run of the same model, got \S*other with model\.path '\S*flux' where this run has 'small_world'",
    ),
    "another base": (
        lambda other: edited(other, "model.base=int8"),
        r"expected a run of .* with model\.base 'int8' where this run has None",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_run_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    other, (change, message) = finished_run(tmp_path / "other", LORA), REFUSED[case]
    check_other_model(run_with(other))
    change(other)
    with pytest.raises(ValueError, match=f"^evaluation.contrast_with: {message}"):
        check_other_model(run_with(other))


MISFITS = {
    "its own folder": (LORA, "name=other", "expected another run, got .*other, the folder of this one"),
    "a whole model": ("seed=0", LORA, r"expected a run with model\.lora, as this one, got .*which tuned the whole"),
    "a higher rank": (
        "model.lora={rank: 5}",
        LORA,
        r"of at most model\.lora\.rank=4, got rank 5; set model\.lora\.rank=5, or use `srpo-ray",
    ),
    "more layers": (
        LORA,
        "model.lora={rank: 4, target_modules: [attn.to_q]}",
        r"that model\.lora\.target_modules adapts, .*attn\.to_q.* got others, .*"
        r"add these layers to target_modules if the model has them, or use `srpo-ray evaluate",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_do_not_fit_the_trained_parameters_are_refused(tmp_path: Path, case: str) -> None:
    theirs, ours, message = MISFITS[case]
    other = finished_run(tmp_path / "other", theirs)
    with pytest.raises(ValueError, match=f"^evaluation.contrast_with: .*{message}"):
        check_other_model(run_with(other, *((ours, LORA) if "name" in ours else (ours,))))


def test_train_refuses_it_before_ray_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(SMALL_WORLD), f"run_root={tmp_path}", LORA, "evaluation.rl_guidance=2"]
    assert main([*words, f"evaluation.contrast_with={tmp_path / 'absent'}"]) == 2
    assert "evaluation.contrast_with: expected the folder of a finished run" in capsys.readouterr().err
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    assert main([*words, f"evaluation.contrast_with={tmp_path / 'broken.safetensors'}"]) == 2
    assert "evaluation.contrast_with: expected a readable file, got" in capsys.readouterr().err
    assert main([*words, f"evaluation.contrast_with={tmp_path / 'absent.safetensors'}"]) == 2
    assert "evaluation.contrast_with: expected a LoRA file (.safetensors)" in capsys.readouterr().err
    assert not (tmp_path / "small_world").exists()


def test_merged_lora_must_be_the_same(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for name in ("x", "y"):
        tensors = {"lora_A": torch.full((1, 128), 0.1), "lora_B": torch.full((128, 1), ord(name) / 100)}
        named = {f"transformer.{LAYER}.{part}.weight": value for part, value in tensors.items()}
        save_file(named, tmp_path / f"{name}.safetensors")
    merged = f"model.lora={{rank: 4, start_mode: merge, start_from: {file}}}"
    other = finished_run(tmp_path / "other", merged)
    check_other_model(run_with(other, merged))
    with pytest.raises(
        ValueError, match=r"with merged model\.lora\.start_from '\S*x.safetensors' where this run has None"
    ):
        check_other_model(run_with(other))
    with pytest.raises(ValueError, match=r"merged model\.lora\.start_from"):
        check_other_model(run_with(other, merged.replace("x.safetensors", "y.safetensors")))
    # The adapters of a file belong to the published model.
    with pytest.raises(ValueError, match="expected a run that merges the same LoRA"):
        check_other_model(run_with(file, merged))
    check_other_model(run_with(file))


def test_adapters_of_another_model_are_refused() -> None:
    layers = {"a": LoraLayer(torch.ones(2, 3), torch.ones(5, 2), 1.0)}
    shapes = {"a.lora_A.default.weight": (2, 4), "a.lora_B.default.weight": (5, 2)}
    with pytest.raises(
        ValueError, match=r"expected adapters of this run's model, with a\.lora_A.* \(2, 4\), got \(2, 3\)"
    ):
        padded_adapters(layers, LoraConfig(rank=2), shapes)


def test_command_that_takes_adapters_of_one_rank_is_not_advised_for_those_of_several() -> None:
    """`srpo-ray evaluate --contrast-with` refuses such a file."""
    layers = {name: LoraLayer(torch.ones(rank, 3), torch.ones(5, rank), 1.0) for name, rank in (("a", 1), ("b", 4))}
    shapes = {f"{name}.lora_A.default.weight": (2, 3) for name in layers}
    with pytest.raises(ValueError, match=r"got rank 4; set model\.lora\.rank=4$"):
        padded_adapters(layers, LoraConfig(rank=2), shapes)
    with pytest.raises(ValueError, match=r"add these layers to target_modules if the model has them$"):
        padded_adapters({**layers, "c": layers["a"]}, LoraConfig(rank=4), shapes)


def test_zeros_up_to_a_higher_rank_change_no_product() -> None:
    source = torch.Generator().manual_seed(0)
    layer = LoraLayer(torch.randn(2, 3, generator=source), torch.randn(5, 2, generator=source), 0.7)
    names = {"a.lora_A.default.weight": (4, 3), "a.lora_B.default.weight": (5, 4)}
    more = {"b.lora_A.default.weight": (4, 3), "b.lora_B.default.weight": (3, 4)}
    found = padded_adapters({"a": layer}, LoraConfig(rank=4, alpha=3), names | more)
    assert {name: tuple(value.shape) for name, value in found.items()} == names | more
    down, up = (found[name] for name in names)
    torch.testing.assert_close(0.75 * up @ down, 0.7 * layer.up @ layer.down)
    assert not any(found[name].any() for name in more)


@pytest.mark.parametrize("weight", [None, "1", "1,1@0.5"])
def test_key_without_a_contrast_is_refused(weight: str | None) -> None:
    given = [f"evaluation.rl_guidance={weight}"] if weight else []
    with pytest.raises(ValueError, match=r"expected rl_guidance other than 1 with contrast_with=runs/x, got (none|1)"):
        load_run([SMALL_WORLD], [LORA, *given, "evaluation.contrast_with=runs/x"])


def test_full_fine_tuning_needs_no_reference_weights_with_another_run() -> None:
    given = ["evaluation.rl_guidance=2", "evaluation.contrast_with=runs/x"]
    assert load_run([SMALL_WORLD], given).kept_roles == {"contrast"}


def test_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(
        load_run([SMALL_WORLD], [LORA, "evaluation.rl_guidance=2", "evaluation.contrast_with=x"])
    )
    assert config.evaluation.contrast_with == str(tmp_path / "x")
    tested = config.evaluation.tested
    assert tested
    assert tested.contrast_with == str(tmp_path / "x")


@pytest.mark.parametrize("kind", ["run", "file"])
def test_run_is_not_resumed_with_another_content(tmp_path: Path, kind: str) -> None:
    other = finished_run(tmp_path / "other", LORA)
    file = tmp_path / "exported" / "pytorch_lora_weights.safetensors"
    assert main(["export", str(other), "--out", str(file.parent)]) == 0
    config = with_absolute_paths(run_with(other if kind == "run" else file))
    folder = open_run_folder(config, tmp_path / "mine")
    append_row(folder.updates, {"update": 1})
    open_run_folder(config, folder.path)
    shutil.rmtree(other)
    finished_run(other, LORA, seed=1)
    assert main(["export", str(other), "--out", str(file.parent)]) == 0
    place = (
        r"other \(trained weights\)" if kind == "run" else r"weights\.safetensors \(pytorch_lora_weights\.safetensors\)"
    )
    with pytest.raises(ValueError, match=rf"evaluation\.contrast_with: \S*{place}: expected the content that"):
        open_run_folder(config, folder.path)


def test_plan_counts_the_copy_of_the_trained_weights(tmp_path: Path) -> None:
    for overrides in ((LORA,), ("seed=0",)):
        config = run_with(tmp_path / "other", *overrides, "model.dtype=bfloat16")
        parts = {part.name: part.bytes for part in trainer_memory(config, (224,)).always}
        size = trained_elements(parameters(config.model))
        assert parts["weights of evaluation.contrast_with"] == pytest.approx(2 * size, abs=4)


def test_finished_run_is_read_with_the_settings_of_a_command(tmp_path: Path) -> None:
    """`sample` of a run contrasts by its own options, whatever the evaluations of the run did."""
    run_dir = finished_run(
        tmp_path / "mine", LORA, "evaluation.rl_guidance=2", f"evaluation.contrast_with={tmp_path / 'x'}"
    )
    out = tmp_path / "out"
    assert main(["sample", str(run_dir), "a cat", "--steps", "1", "--out", str(out)]) == 0
    assert list(json.loads((out / "job.json").read_text())["models"]) == ["tuned"]
