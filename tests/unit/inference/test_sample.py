"""Images of a run: against the same models called by hand, however they are distributed or interrupted."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srpo_ray.cli import main
from srpo_ray.config import load_run, to_yaml
from srpo_ray.flow import generator, shifted_sigmas
from srpo_ray.inference import sampler
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.inference.sample import sample_run
from srpo_ray.inference.sampler import Sampler
from srpo_ray.models import contrast_networks
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text_encoders import encode_prompts
from srpo_ray.models.trainable import load_tuned, make_policy
from srpo_ray.runs.trained import read_trained
from tests.helpers.training.trained_run import trained_run

PROMPTS = ["a red circle", "a blue square", "a cat"]
TINY = ["--steps", "2", "--batch-size", "4"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB")).astype(int)


def by_hand(
    run_dir: Path, *, trained: bool, samples: int, texts: Sequence[str] = PROMPTS, model: str = ""
) -> dict[str, np.ndarray]:
    """File name -> image, from the run's model in a plain loop, all images in one batch."""
    run = read_trained(run_dir)
    transformer = load_tuned(run.config, torch.float32, "cpu", run.weights if trained else None)
    policy = make_policy(run.config, transformer, transformer.config, "cpu")
    conditioning = encode_prompts(resolve_path("small_world"), [*texts], 16)
    places = [(prompt, sample) for sample in range(samples) for prompt in range(len(PROMPTS))]
    noise = policy.noise([generator(0, "evaluate", index) for index in range(len(places))])
    with torch.no_grad():
        tokens = policy.rollout(noise, conditioning[[p for p, _ in places]], shifted_sigmas(2, 3.0), 3.5)
        images = (policy.decode(tokens) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    model = model or ("tuned" if trained else "base")
    return {f"{p:05d}_{s}_{model}.png": image.astype(int) for (p, s), image in zip(places, images, strict=True)}


def assert_same_images(folder: Path, expected: dict[str, np.ndarray]) -> None:
    """All of them and no others; rounding to a byte may fall either way, as batches differ."""
    assert {path.name for path in (folder / "images").iterdir()} == set(expected)
    for name, image in expected.items():
        assert np.abs(pixels(folder / "images" / name) - image).max() <= 1, name


@pytest.mark.parametrize("weight", [0, 1])
def test_guidance_of_0_and_1_draws_the_baseline_and_the_tuned_model(run_dir: Path, weight: int) -> None:
    words = ["sample", str(run_dir), *PROMPTS, "--samples-per-prompt", "2", "--out", str(run_dir / "out"), *TINY]
    assert main([*words, "--rl-guidance", str(weight)]) == 0
    assert_same_images(run_dir / "out", by_hand(run_dir, trained=bool(weight), samples=2))


def test_images_of_a_file_are_drawn_from_the_conditioning(run_dir: Path) -> None:
    rows = [{"prompt": f"prompt {index}", "conditioning": text} for index, text in enumerate(PROMPTS[1:])]
    (run_dir / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["sample", str(run_dir), PROMPTS[0], "--prompts", str(run_dir / "p.jsonl"), "--out", str(run_dir / "out")]
    assert main([*words, *TINY]) == 0
    assert_same_images(run_dir / "out", by_hand(run_dir, trained=True, samples=1))
    job = json.loads((run_dir / "out" / "job.json").read_text())
    assert (job["prompts"], job["conditioning"]) == ([PROMPTS[0], "prompt 0", "prompt 1"], PROMPTS)


def test_folder_of_images_of_another_conditioning_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", str(run_dir), "--prompts", str(run_dir / "p.jsonl"), "--out", str(run_dir / "out"), *TINY]
    for row, code in (
        ({"conditioning": "A cat."}, 0),
        ({"conditioning": "A cat."}, 0),
        ({}, 2),
        ({"conditioning": "B"}, 2),
    ):
        (run_dir / "p.jsonl").write_text(json.dumps({"prompt": "a cat", **row}))
        assert main(words) == code
    assert "which has images of other conditioning" in capsys.readouterr().err


def test_baseline_and_tuned_images_differ_and_guidance_extrapolates(run_dir: Path) -> None:
    grids = []
    for weight in (0.0, 1.0, 2.0):
        out = run_dir / f"{weight}.png"
        sample_run(
            open_run(run_dir),
            PROMPTS[:1],
            out,
            options=SamplingOptions(seed=0, num_steps=2),
            rl_guidance=ContrastWeight.constant(weight),
        )
        grids.append(pixels(out))
    distances = [np.abs(grid - grids[0]).mean() for grid in grids]
    assert 0 == distances[0] < distances[1] < distances[2]


def test_few_images_are_one_grid_and_leave_nothing_else(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in run_dir.iterdir()}
    assert main(["sample", str(run_dir), *PROMPTS, *TINY]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir / "samples.png")
    assert {path.name for path in run_dir.iterdir()} - before == {"samples.png"}
    assert pixels(run_dir / "samples.png").shape[1] >= 3 * 192


def test_many_images_are_a_folder_with_contact_sheets(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"{prompt} {index}" for index in range(20) for prompt in PROMPTS))
    assert main(["sample", str(run_dir), "first", "--prompts", str(file), "--steps", "1"]) == 0
    folder = run_dir / "samples"
    assert len(list((folder / "images").iterdir())) == 61
    assert sorted(path.name for path in folder.glob("*.png")) == ["contact_sheet_001.png", "contact_sheet_002.png"]


def test_stopped_command_resumes_where_it_stopped(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = run_dir / "whole", run_dir / "parts"
    words = ["sample", str(run_dir), *PROMPTS, "--samples-per-prompt", "2", *TINY, "--out"]
    assert main([*words, str(whole)]) == 0
    chunks, draw = [], Sampler.draw

    def stop_at_second(self: Sampler, chunk: list[int]) -> list[dict[str, object]]:
        chunks.append(list(chunk))
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return draw(self, chunk)

    monkeypatch.setattr(sampler.Sampler, "draw", stop_at_second)
    assert main([*words, str(parts)]) == 130
    # A line that was cut off in mid-write.
    with (parts / "rows.jsonl").open("a") as file:
        file.write('{"prompt": 2, "sam')
    (parts / "images" / "00001_0_tuned.png").unlink()
    assert main([*words, str(parts)]) == 0
    assert chunks == [[0, 1], [2], [0, 1], [2]], "an image was lost, so its whole batch is drawn again"
    assert main([*words, str(parts)]) == 0
    assert len(chunks) == 4, "nothing was left to draw"
    for path in (whole / "images").iterdir():
        assert np.array_equal(pixels(path), pixels(parts / "images" / path.name))


def test_adapters_need_no_second_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_run(tmp_path / "lora", f"run_root={tmp_path}", "model.lora={rank: 4}")
    assert load_run([tmp_path / "lora" / "config.yaml"]).model.lora
    loaded = []

    def load(*arguments: object) -> object:
        loaded.append(arguments)
        return load_tuned(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(contrast_networks, "load_tuned", load)
    assert main(["sample", str(tmp_path / "lora"), "a cat", "--rl-guidance", "1.5", *TINY]) == 0
    assert len(loaded) == 1


def test_images_have_the_size_that_is_asked_for_else_that_of_the_runs_evaluations(run_dir: Path) -> None:
    words = ["sample", str(run_dir), *PROMPTS[:2], *TINY]
    assert main([*words, "--resolution", "48x80", "--out", str(run_dir / "wide")]) == 0
    assert {pixels(file).shape for file in (run_dir / "wide" / "images").iterdir()} == {(48, 80, 3)}
    config = load_run([run_dir / "config.yaml"], ["evaluation.resolution=[96, 32]"])
    (run_dir / "config.yaml").write_text(to_yaml(config))
    assert main([*words, "--out", str(run_dir / "tall.png")]) == 0
    assert pixels(run_dir / "tall.png").shape[0] > pixels(run_dir / "wide" / "contact_sheet_001.png").shape[0]
    # The same command with another size is another job.
    assert main([*words, "--resolution", "80x48", "--out", str(run_dir / "wide")]) == 2


def test_contrast_with_another_run_subtracts_its_tuned_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rank in (("liked", 4), ("disliked", 2), ("another", 3)):
        trained_run(tmp_path / name, f"run_root={tmp_path}", f"model.lora={{rank: {rank}}}")
    words = ["sample", str(tmp_path / "liked"), "a cat", *TINY, "--contrast-with", str(tmp_path / "disliked"), "--out"]
    folder = str(tmp_path / "of_disliked")
    assert main(["sample", str(tmp_path / "disliked"), "a cat", *TINY, "--out", folder]) == 0
    for weight in ("0", "2"):
        assert main([*words, str(tmp_path / weight), "--rl-guidance", weight]) == 0
    disliked = pixels(tmp_path / "of_disliked" / "images" / "00000_0_tuned.png")
    assert np.array_equal(pixels(tmp_path / "0" / "images" / "00000_0_contrast_0.png"), disliked)
    assert not np.array_equal(pixels(tmp_path / "2" / "images" / "00000_0_contrast_2.png"), disliked)

    assert main(["evaluate", str(tmp_path / "liked"), "--contrast-with", str(tmp_path / "disliked")]) == 2
    assert "--contrast-with: expected --rl-guidance with it, got none" in capsys.readouterr().err

    # Another weight or another run makes another job, and a run of another model cannot be subtracted.
    assert main([*words, str(tmp_path / "2"), "--rl-guidance", "1,2@0.5"]) == 2
    others = [str(tmp_path / "another") if word == str(tmp_path / "disliked") else word for word in words]
    assert main([*others, str(tmp_path / "2"), "--rl-guidance", "2"]) == 2
    config = tmp_path / "disliked" / "config.yaml"
    config.write_text(to_yaml(load_run([config], ["model.max_sequence_length=8"])))
    capsys.readouterr()
    assert main([*words, str(tmp_path / "third"), "--rl-guidance", "2"]) == 2
    message = capsys.readouterr().err
    assert "--contrast-with: expected a run of the same model, got" in message
    assert "with model.max_sequence_length 8" in message
    assert main([*words[:3], *TINY, "--contrast-with", words[1]]) == 2
    assert "--contrast-with: expected another run" in capsys.readouterr().err


def test_contrast_with_a_lora_file_is_that_with_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rank in (("liked", 4), ("disliked", 2)):
        trained_run(tmp_path / name, f"run_root={tmp_path}", f"model.lora={{rank: {rank}, alpha: 5}}")
    assert main(["export", str(tmp_path / "disliked"), "--out", str(tmp_path / "exported")]) == 0
    file = tmp_path / "exported" / "comfyui_lora.safetensors"
    words = ["sample", str(tmp_path / "liked"), "a cat", *TINY, "--rl-guidance", "2", "--contrast-with"]
    images = []
    for name, other in (("of_run", tmp_path / "disliked"), ("of_file", file), ("of_folder", file.parent)):
        assert main([*words, str(other), "--out", str(tmp_path / name)]) == 0
        images.append(pixels(tmp_path / name / "images" / "00000_0_contrast_2.png").astype(int))
    # The file has the matrices in the scale of its own alpha.
    assert max(np.abs(image - images[0]).max() for image in images[1:]) <= 1
    assert json.loads((tmp_path / "of_file" / "job.json").read_text()) != json.loads(
        (tmp_path / "of_run" / "job.json").read_text()
    )

    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    capsys.readouterr()
    assert main([*words, str(tmp_path / "broken.safetensors")]) == 2
    assert "--contrast-with: expected a readable file, got" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "absent.safetensors")]) == 2
    assert "--contrast-with: expected a LoRA file (.safetensors)" in capsys.readouterr().err


def test_other_model_reads_the_empty_prompt_or_a_mixture_of_both_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rank in (("liked", 4), ("disliked", 2)):
        trained_run(tmp_path / name, f"run_root={tmp_path}", f"model.lora={{rank: {rank}}}")
    words = ["sample", str(tmp_path / "liked"), *PROMPTS, *TINY, "--contrast-with", str(tmp_path / "disliked")]
    alone = [*words, "--rl-guidance", "0", "--out", str(tmp_path / "alone")]
    assert main([*alone, "--contrast-text", "0"]) == 0
    empty = [""] * len(PROMPTS)
    expected = by_hand(tmp_path / "disliked", trained=True, samples=1, texts=empty, model="contrast_0_text_0")
    assert_same_images(tmp_path / "alone", expected)
    job = json.loads((tmp_path / "alone" / "job.json").read_text())
    assert job["models"]["contrast_0_text_0"]["contrast_text"] == 0

    drawn = {}
    for text in ("1", "0", "-0.5"):
        out = tmp_path / f"text_{text}"
        assert main([*words, "--rl-guidance", "2", "--contrast-text", text, "--out", str(out)]) == 0
        drawn[text] = [pixels(image) for image in sorted((out / "images").iterdir())]
    assert "contrast_text" not in (tmp_path / "text_1" / "job.json").read_text()
    for text in ("0", "-0.5"):
        assert all((ours != theirs).any() for ours, theirs in zip(drawn[text], drawn["1"], strict=True))

    # The same folder is that of another job with another text.
    assert main([*alone, "--contrast-text", "-0.5"]) == 2
    assert "contrast_0_text_-0.5" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sample", "evaluate"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--contrast-text", "0"], "--contrast-text: expected --rl-guidance other than 1 with it, got none, so no"),
        (["--rl-guidance", "1", "--contrast-text", "0"], "expected --rl-guidance other than 1 with it, got 1, so"),
        (["--rl-guidance", "2", "--contrast-text", "nan"], "--contrast-text: expected a finite number, got nan; 0"),
        (["--rl-guidance", "2", "--contrast-text", "inf"], "--contrast-text: expected a finite number, got inf;"),
        (["--rl-guidance", "2", "--contrast-text", "x"], "argument --contrast-text: invalid float value: 'x'"),
    ],
)
def test_text_of_the_other_model_that_nothing_reads_or_no_number_is_refused(
    command: str, given: list[str], message: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, str(run_dir), *(["a cat"] if command == "sample" else []), "--out", str(run_dir / "out")]
    try:
        code = main([*words, *given])
    except SystemExit as exit_of_argparse:
        code = exit_of_argparse.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (run_dir / "out").exists()


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_guidance_weight_of_another_form_is_refused(
    command: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, str(run_dir), *(["a cat"] if command == "sample" else [])]
    assert main([*words, "--rl-guidance", "1,2"]) == 2
    assert (
        "--rl-guidance: expected a weight, or weights by noise level as 1,1.5@0.6, got '1,2'" in capsys.readouterr().err
    )
