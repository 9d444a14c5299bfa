"""Data leakage: a run is refused, or a note is given, if it would be judged by what it trains on."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from srpo_ray.config import RunConfig, load_run
from srpo_ray.data.texts import read_texts
from srpo_ray.launch.leakage import check_held_out_weights, check_leakage, leakage_notes
from srpo_ray.launch.preflight import check_inputs, input_notes
from srpo_ray.runs.input_files import weight_hashes
from srpo_ray.small_world.weights import reward_dir
from tests.conftest import SMALL_WORLD

TRAINED = ["a cat", "a dog", "a bird", "a fish"]


def written(folder: Path, **files: Sequence[str]) -> dict[str, Path]:
    """Prompt files by name."""
    for name, lines in files.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return {name: folder / f"{name}.txt" for name in files}


def config_of(
    folder: Path, evaluated: Sequence[str], tested: Sequence[str] = (), trained: Sequence[str] = TRAINED, *more: str
) -> RunConfig:
    files = written(folder, trained=trained, evaluated=evaluated, tested=tested)
    test = [f"evaluation.test.prompts={files['tested']}"] if tested else []
    settings = [f"run_root={folder}", f"data.prompts={files['trained']}", f"evaluation.prompts={files['evaluated']}"]
    return load_run([SMALL_WORLD], [*settings, *test, *more])


def refused(config: RunConfig) -> str:
    with pytest.raises(ValueError, match="expected prompts that") as error:
        check_leakage(config, read_texts(config))
    return str(error.value)


def test_evaluation_on_the_training_prompts_is_refused_with_their_number(tmp_path: Path) -> None:
    said = refused(config_of(tmp_path, TRAINED))
    assert said.startswith("evaluation.prompts: expected prompts that the run does not train on, got 4 of 4 that")
    assert "data.prompts has too ('a cat', 'a dog', ...)" in said


def test_copy_of_the_training_prompts_in_another_spelling_is_refused(tmp_path: Path) -> None:
    said = refused(config_of(tmp_path, ["A  Cat.", "a dog !", "\uff41 bird", "a horse"]))
    assert "got 3 of 4 that data.prompts has too ('A  Cat.'" in said


@pytest.mark.parametrize(("evaluated", "count"), [(["a cat", "a dog", "x", "y"], 2), (["a cat", "x", "y"], 1)])
def test_up_to_a_half_of_shared_prompts_is_noted_and_not_refused(
    tmp_path: Path, evaluated: list[str], count: int
) -> None:
    config = config_of(tmp_path, evaluated)
    check_inputs(config)
    (note,) = [note for note in input_notes(config) if note.startswith("evaluation.prompts")]
    assert f"got {count} of {len(evaluated)} that data.prompts has too" in note


def test_only_the_evaluated_prompts_of_a_file_count(tmp_path: Path) -> None:
    assert not leakage_notes(
        read_texts(config_of(tmp_path, ["x", "y", "a cat"], (), TRAINED, "evaluation.num_prompts=2"))
    )


def test_prompts_that_are_not_trained_on_may_be_evaluated(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "0.png")
    (tmp_path / "images" / "0.txt").write_text("a house")
    config = config_of(tmp_path, TRAINED, (), TRAINED, f"data.images={tmp_path / 'images'}", "data.image_ratio=1")
    check_leakage(config, read_texts(config))
    (tmp_path / "images" / "0.txt").write_text("a cat")
    assert "got 1 of 4 that data.images has too ('a cat')" in leakage_notes(read_texts(config))[0]
    written(tmp_path, evaluated=["a cat"])
    assert "evaluation.prompts: expected prompts that the run does not train on, got 1 of 1" in refused(config)


@pytest.mark.parametrize("other", ["data.prompts", "evaluation.prompts"])
def test_test_prompts_that_are_trained_on_or_validated_on_are_refused_or_noted(tmp_path: Path, other: str) -> None:
    known = TRAINED if other == "data.prompts" else ["v", "w"]
    said = refused(config_of(tmp_path, ["v", "w"], known))
    assert said.startswith("evaluation.test.prompts: expected prompts that")
    assert f"got {len(known)} of {len(known)} that {other} has too" in said
    config = config_of(tmp_path, ["v", "w"], [known[0], "x", "y"])
    check_leakage(config, read_texts(config))
    (note,) = leakage_notes(read_texts(config))
    assert f"evaluation.test.prompts: expected prompts that {'the run' if other[0] == 'd' else 'choose'}" in note
    assert f"got 1 of 3 that {other} has too" in note


def test_noise_that_chose_weights_may_not_judge_them(tmp_path: Path) -> None:
    config = config_of(tmp_path, ["v"], ["t"], TRAINED, "evaluation.seed=7", "evaluation.test.seed=7")
    with pytest.raises(ValueError, match=r"evaluation\.test\.seed: .* got 7 for both"):
        check_leakage(config, read_texts(config))


def with_models(trained: Mapping[str, object], held_out: Mapping[str, object]) -> RunConfig:
    models = [json.dumps({"name": name, **model}) for name, model in (("own", trained), ("judge", held_out))]
    plain = ["algorithm.type=refl", f"rewards.models=[{models[0]}]", f"evaluation.held_out=[{models[1]}]"]
    return load_run([SMALL_WORLD], plain)


def test_copy_of_a_trained_reward_under_another_name_is_no_held_out_model(tmp_path: Path) -> None:
    shutil.copytree(reward_dir("preference"), tmp_path / "copy")
    (tmp_path / "copy" / "open_clip_model.safetensors").rename(tmp_path / "copy" / "model.safetensors")
    (tmp_path / "copy" / "README.md").write_text("another model")
    config = with_models(
        {"type": "open_clip", "path": "small_world:preference"}, {"type": "open_clip", "path": str(tmp_path / "copy")}
    )
    with pytest.raises(ValueError, match=r"got 'judge', whose weights are those of the trained model 'own' \(\S*copy"):
        check_held_out_weights(config)
    other = with_models(
        {"type": "open_clip", "path": "small_world:contrastive"}, {"type": "open_clip", "path": str(tmp_path / "copy")}
    )
    check_held_out_weights(other)


def test_weights_of_another_format_and_type_are_compared_by_content(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt", "c.pt"):
        (tmp_path / name).write_bytes(b"other weights" if name == "c.pt" else b"weights")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "pytorch_model.bin").write_bytes(b"weights")

    def check(held_out: Mapping[str, object]) -> None:
        trained = {"type": "open_clip", "architecture": "A", "path": str(tmp_path / "a.pt")}
        check_held_out_weights(with_models(trained, held_out))

    for same in (
        {"type": "open_clip", "architecture": "A", "path": str(tmp_path / "b.pt"), "scale": 100},
        {"type": "transformers_clip", "path": str(tmp_path / "clip")},
    ):
        with pytest.raises(ValueError, match="whose weights are those of the trained model 'own'"):
            check(same)
    check({"type": "open_clip", "architecture": "A", "path": str(tmp_path / "c.pt")})


def test_two_heads_may_share_a_backbone_and_one_head_may_not_judge_its_copy(tmp_path: Path) -> None:
    for name, content in (("h1", b"head"), ("h2", b"other head"), ("h3", b"head")):
        (tmp_path / f"{name}.pth").write_bytes(content)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"backbone")
    shutil.copytree(tmp_path / "clip", tmp_path / "copy")

    def head(name: str, backbone: str = "clip") -> dict[str, object]:
        return {"type": "aesthetic", "path": str(tmp_path / f"{name}.pth"), "backbone": str(tmp_path / backbone)}

    check_held_out_weights(with_models(head("h1"), head("h2")))
    check_held_out_weights(with_models(head("h1"), {"type": "transformers_clip", "path": str(tmp_path / "clip")}))
    with pytest.raises(ValueError, match="whose weights"):
        check_held_out_weights(with_models(head("h1"), head("h3", "copy")))
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"another backbone")
    check_held_out_weights(with_models(head("h1"), head("h3", "copy")))


def test_class_of_a_user_with_a_copy_of_the_weights_is_no_held_out_model(tmp_path: Path) -> None:
    for name, content in (("a", b"weights"), ("b", b"weights"), ("c", b"others")):
        (tmp_path / f"{name}.pt").write_bytes(content)

    def mine(name: str, **arguments: object) -> dict[str, object]:
        return {"type": "python", "target": "a:B", "arguments": {"file": str(tmp_path / f"{name}.pt"), **arguments}}

    with pytest.raises(ValueError, match=r"weights are those of the trained model 'own' \(a:B and a:B"):
        check_held_out_weights(with_models(mine("a"), mine("b")))
    check_held_out_weights(with_models(mine("a"), mine("c")))
    check_held_out_weights(with_models(mine("a", layer=1), mine("b", layer=2)))


def test_cached_hub_model_has_the_weights_of_its_copy_and_no_arguments_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--org--clip"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("1234")
    assert not weight_hashes("org/clip"), "nothing is downloaded yet"
    snapshot = model / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    (snapshot / "training_args.bin").write_bytes(b"arguments")
    shutil.copytree(snapshot, tmp_path / "copy")
    assert weight_hashes("hf-hub:org/clip") == weight_hashes("org/clip") == weight_hashes(str(tmp_path / "copy"))
    assert len(weight_hashes("org/clip")) == 1
