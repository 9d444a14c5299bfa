"""`srpo-ray evaluate`: against the evaluator that runs are evaluated by while they train."""

import csv
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from srpo_ray.cli import main
from srpo_ray.config import load_run, to_yaml
from srpo_ray.data.prompts import load_prompts
from srpo_ray.evaluation.evaluator import Evaluator, combine
from srpo_ray.flow import shifted_sigmas
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text_encoders import encode_prompts
from srpo_ray.models.trainable import load_tuned, make_policy
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.trained import read_trained
from srpo_ray.small_world.categories import tasks_of
from tests.helpers.rewards.bright_judge import LUMA, bright_answer, brightness_of, preference
from tests.helpers.rewards.http_server import Reply, chat_answer, http_server


def evaluator_scores(run_dir: Path, *, trained: bool) -> dict[str, list[float]]:
    """Every metric of every image by the evaluator of training, in batches of its own, sample by sample."""
    run = read_trained(run_dir)
    config = run.config
    prompts = load_prompts("small_world:validation")[:5]
    conditioning = encode_prompts(resolve_path("small_world"), prompts, 16)
    transformer = load_tuned(config, torch.float32, "cpu", run.weights if trained else None)
    policy = make_policy(config, transformer, transformer.config, "cpu")
    sigmas = shifted_sigmas(config.evaluation.num_steps, 3.0)
    evaluator = Evaluator(
        config.evaluation,
        prompts,
        conditioning,
        size=config.model.size,
        sigmas=sigmas,
        truth=True,
        trained_words=config.trained_words,
    )
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    weights = {model.name: model.weight for model in config.rewards.models}
    return combine([evaluator.evaluate(policy, rewards, weights)], 5).scores


def test_numbers_are_those_of_the_runs_own_evaluator(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run_dir)]) == 0
    out = run_dir / "evaluation"
    printed = capsys.readouterr().out
    assert str(out / "evaluation.html") in printed
    rows = list(csv.DictReader((out / "rows.csv").open()))
    comparisons = {item["metric"]: item for item in json.loads((out / "evaluation.json").read_text())["comparisons"]}
    expected = {name: evaluator_scores(run_dir, trained=name == "tuned") for name in ("base", "tuned")}
    assert set(comparisons) == set(expected["tuned"])
    for model, scores in expected.items():
        found = {(int(row["sample"]), int(row["prompt_index"])): row for row in rows if row["model"] == model}
        for metric, values in scores.items():
            assert [float(found[place][metric]) for place in sorted(found)] == pytest.approx(values, rel=2e-3, abs=2e-4)
    for metric, item in comparisons.items():
        assert item["mean"] == pytest.approx(fmean(expected["tuned"][metric]), rel=1e-3, abs=1e-4)
        assert item["reference_mean"] == pytest.approx(fmean(expected["base"][metric]), rel=1e-3, abs=1e-4)
        assert metric in printed


def test_guided_models_and_another_run_are_compared_on_the_same_noise(run_dir: Path, tmp_path: Path) -> None:
    # The other run has the same weights, so tuned against tuned is a tie in every pair.
    shutil.copytree(run_dir, tmp_path / "runs" / "other")
    words = ["evaluate", str(run_dir), "--num-prompts", "2", "--samples-per-prompt", "1", "--rl-guidance", "0", "2"]
    other = str(tmp_path / "runs" / "other")
    assert main([*words, "--against", other, "--out", str(tmp_path / "out")]) == 0
    data = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert data["reference"] == "other"
    found = {item["model"]: item for item in data["comparisons"] if item["metric"] == "evaluator/held_out"}
    assert set(found) == {"tuned", "base", "rl_guidance_2"}
    assert (found["tuned"]["difference"], found["tuned"]["wins"]["rate"]) == (0, 0.5)
    assert found["base"]["difference"] != 0
    assert {item["metric"] for item in data["comparisons"]} >= {"truth/content_accuracy", "image/contrast"}
    assert not any(item["metric"] == "image/diversity" for item in data["comparisons"]), "one image has none"

    # At every weight, a contrast of equal models is the model.
    words = [*words[:-3], "--rl-guidance", "2", "--contrast-with", other]
    assert main([*words, "--against", other, "--out", str(tmp_path / "contrast")]) == 0
    data = json.loads((tmp_path / "contrast" / "evaluation.json").read_text())
    found = {item["model"]: item for item in data["comparisons"] if item["metric"] == "evaluator/held_out"}
    assert set(found) == {"tuned", "contrast_2"}
    assert found["contrast_2"]["difference"] == pytest.approx(0, abs=1e-5)


def test_prompts_of_a_file_have_no_truth(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("ein Hund\n一只猫\n")
    out = tmp_path / "out"
    assert main(["evaluate", str(run_dir), "--prompts", str(tmp_path / "p.txt"), "--out", str(out)]) == 0
    data = json.loads((out / "evaluation.json").read_text())
    assert data["num_prompts"] == 2
    assert not any(item["metric"].startswith("truth/") for item in data["comparisons"])
    assert "一只猫" in (out / "rows.csv").read_text(encoding="utf-8")


def test_images_are_drawn_from_the_conditioning_and_scored_by_prompt_and_own_words(
    run_dir: Path, tmp_path: Path
) -> None:
    drawn = ["a red circle on a gray background", "a small blue square on a white background"]
    rows = [
        {"prompt": "a green star", "conditioning": drawn[0], "positive_words": "vivid", "negative_words": ["pale"]},
        {"prompt": "a white cross", "conditioning": drawn[1]},
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "drawn.txt").write_text("\n".join(drawn))
    for name in ("own.jsonl", "drawn.txt"):
        options = ["--prompts", str(tmp_path / name), "--samples-per-prompt", "1", "--out", str(tmp_path / name[:-4])]
        assert main(["evaluate", str(run_dir), *options]) == 0
    found = list(csv.DictReader((tmp_path / "own.j" / "rows.csv").open()))
    assert "conditioning" not in next(csv.DictReader((tmp_path / "drawn" / "rows.csv").open()))
    config = read_trained(run_dir).config
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    sets = [(("vivid",), ("pale",)), (("detailed", "textured"), ("flat", "simple"))]
    for row in found:
        index = int(row["prompt_index"])
        assert (row["prompt"], row["conditioning"]) == (rows[index]["prompt"], drawn[index])
        images = [Image.open(tmp_path / folder / row["image"]).convert("RGB") for folder in ("own.j", "drawn")]
        assert ImageChops.difference(*images).getbbox() is None
        pixels = torch.tensor(np.asarray(images[0])).permute(2, 0, 1)[None] / 255
        prompt = rows[index]["prompt"]
        plain = rewards.measure(pixels, [TextQuery.plain(str(prompt))])
        relative = rewards.measure(pixels, [TextQuery.relative(str(prompt), *sets[index])])
        total = relative["preference"] + 0.5 * relative["contrastive"]
        # The file has images rounded to a byte.
        assert float(row["evaluator/held_out"]) == pytest.approx(plain["held_out"].item(), rel=2e-2)
        assert float(row["reward/total/trained"]) == pytest.approx(total.item(), rel=2e-2, abs=5e-3)


def test_words_of_a_file_are_refused_or_noted_if_scores_cannot_read_them(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": "a cat", "positive_words": "vivid"}')
    folder = RunFolder(run_dir)
    words = ["evaluate", str(run_dir), "--prompts", str(tmp_path / "own.jsonl"), "--samples-per-prompt", "1"]
    lacking = ["word_sets.half={positive: [], negative: []}", "algorithm.control_words=half"]
    plain = ["algorithm.query=plain", "algorithm.branches=[denoise]"]
    own = folder.config.read_text()
    folder.config.write_text(to_yaml(load_run([folder.config], lacking)))
    assert main(words) == 2
    assert "--prompts: expected negative_words for every prompt" in capsys.readouterr().err
    folder.config.write_text(own)
    folder.config.write_text(to_yaml(load_run([folder.config], plain)))
    assert main(words) == 0
    assert f"--prompts: control words of 1 of 1 prompts of {tmp_path / 'own.jsonl'}" in caplog.text


def test_judge_compares_each_image_with_the_one_of_the_reference(run_dir: Path, tmp_path: Path) -> None:
    folder, bias = RunFolder(run_dir), 1.0
    with http_server(lambda body: bright_answer(body, bias)) as server:
        judge = {"type": "judge", "name": "judge", "url": server.url, "model": "tiny", "image_size": 64}
        held_out = json.dumps([{**judge, "comparison": "choice"}])
        folder.config.write_text(to_yaml(load_run([folder.config], [f"evaluation.held_out={held_out}"])))
        words = ["--num-prompts", "3", "--samples-per-prompt", "1", "--rl-guidance", "2", "--out"]
        assert main(["evaluate", str(run_dir), *words, str(tmp_path / "out")]) == 0

    rows = {(row["prompt_index"], row["model"]): row for row in csv.DictReader((tmp_path / "out" / "rows.csv").open())}
    assert {row["evaluator/judge/preference"] for (_, model), row in rows.items() if model == "base"} == {"0.5"}
    for (prompt, model), row in rows.items():
        ours, theirs = (float(each["image/brightness"]) for each in (row, rows[prompt, "base"]))
        expected = (preference(ours, theirs, bias) + 1 - preference(theirs, ours, bias)) / 2
        assert float(row["evaluator/judge/preference"]) == pytest.approx(expected, abs=2e-3), model
    data = json.loads((tmp_path / "out" / "evaluation.json").read_text())["comparisons"]
    found = {item["model"]: item for item in data if item["metric"] == "evaluator/judge/preference"}
    won = [float(rows[str(prompt), "rl_guidance_2"]["evaluator/judge/preference"]) > 0.5 for prompt in range(3)]
    assert found["rl_guidance_2"]["wins"]["rate"] == pytest.approx(sum(won) / 3)


GENEVAL: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a photo of a cow"},
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {"tag": "counting", "include": [{"class": "cup", "count": 2}], "prompt": "a photo of two cups"},
    {"tag": "counting", "include": [{"class": "fork", "count": 3}], "prompt": "a photo of three forks"},
    {
        "tag": "colors",
        "include": [{"class": "car", "count": 1, "color": "red"}],
        "prompt": "a photo of a red car",
    },
    {
        "tag": "colors",
        "include": [{"class": "bus", "count": 1, "color": "green"}],
        "prompt": "a photo of a green bus",
    },
]
"""Lines in the format of GenEval's metadata."""


def known_answer(question: str, brightness: float) -> str:
    """The stand-in judge's answer to a question of GenEval about an image of this brightness."""
    digit = int(brightness * 1e4) % 10
    if "How many" in question:
        return "two" if digit < 5 else "three"
    if "color" in question:
        return "red" if digit < 6 else "green"
    return "yes" if digit < 7 else "no"


def answer_question(body: Any) -> Reply:
    question = next(part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")
    return Reply(chat_answer({known_answer(question, brightness_of(body)[0]): 0.7, "other": 0.3}))


def is_correct(line: dict[str, Any], brightness: float) -> bool:
    """Count by the metadata, without the project's questions."""
    (item,) = line["include"]
    if item["count"] > 1:
        return known_answer("How many", brightness) == {2: "two", 3: "three"}[item["count"]]
    color = item.get("color")
    return known_answer("", brightness) == "yes" and color in (None, known_answer("color", brightness))


def test_accuracy_by_task_of_geneval_is_that_of_the_known_answers(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata, out = tmp_path / "metadata.jsonl", tmp_path / "out"
    metadata.write_text("".join(json.dumps(line) + "\n" for line in GENEVAL))
    count, questions = str(len(GENEVAL)), tmp_path / "questions.jsonl"
    words = ["prompts", str(metadata), "--set", "geneval", "--to", str(tmp_path), "--train", "0", "--test", count]
    assert main([*words, "--questions", str(questions)]) == 0
    with http_server(answer_question) as server:
        judge = {"type": "questions", "name": "geneval", "questions": str(questions), "score": "correct"}
        judge |= {"url": server.url, "model": "stand-in", "image_size": 64}
        (tmp_path / "judge.yaml").write_text(json.dumps({"evaluation": {"held_out": [judge]}}))
        evaluate = ["evaluate", str(run_dir), "--held-out", str(tmp_path / "judge.yaml"), "--out", str(out)]
        assert main([*evaluate, "--prompts", str(tmp_path / "test.txt"), "--samples-per-prompt", "4"]) == 0

    correct: dict[tuple[str, str], list[bool]] = {}
    by_prompt = {line["prompt"]: line for line in GENEVAL}
    rows = list(csv.DictReader((out / "rows.csv").open()))
    for row in rows:
        pixels = np.asarray(Image.open(out / row["image"]).convert("RGB")).mean(axis=(0, 1))
        line = by_prompt[row["prompt"]]
        correct.setdefault((row["model"], line["tag"]), []).append(is_correct(line, float(pixels @ LUMA) / 255))
    assert len(rows) == 2 * 4 * len(GENEVAL)
    found = {item["category"]: item for item in json.loads((out / "evaluation.json").read_text())["categories"]}
    assert set(found) == {"single_object", "counting", "colors", "overall"}
    accuracy = {key: fmean(values) for key, values in correct.items()}
    for model, key in (("base", "reference_mean"), ("tuned", "mean")):
        for tag in ("single_object", "counting", "colors"):
            assert found[tag][key] == pytest.approx(accuracy[model, tag]), (model, tag)
        expected = fmean(accuracy[model, tag] for tag in ("single_object", "counting", "colors"))
        assert found["overall"][key] == pytest.approx(expected)
    assert {item["metric"] for item in found.values()} == {"evaluator/geneval"}
    assert found["overall"]["half_width"] > 0
    assert len({round(value, 6) for value in accuracy.values()}) > 2, "the answers differ"
    printed = capsys.readouterr().out
    assert "evaluator/geneval by category" in printed
    assert "By category" in (out / "evaluation.html").read_text()


def test_small_world_has_the_tasks_of_geneval_by_its_truth(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", str(run_dir), "--num-prompts", "5", "--samples-per-prompt", "2", "--out", str(out)]) == 0
    data = json.loads((out / "evaluation.json").read_text())["categories"]
    rows = list(csv.DictReader((out / "rows.csv").open()))
    tasks = {item["category"]: item for item in data if item["metric"] == "truth/geneval"}
    # An image whose measured parts are all right is correct in every task, so the tasks have at least its rate.
    for task, item in tasks.items():
        if task != "overall":
            chosen = [row for row in rows if row["model"] == "tuned" and task in tasks_of(row["prompt"])]
            parts = ("color", "shape", "count", "position")
            perfect = [all(float(row[f"truth/{part}_accuracy"]) == 1 for part in parts) for row in chosen]
            assert fmean(perfect) <= item["mean"] <= 1
            assert item["num_prompts"] == len({row["prompt"] for row in chosen})
    means = [item["mean"] for task, item in tasks.items() if task != "overall"]
    assert tasks["overall"]["mean"] == pytest.approx(fmean(means))


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_two_actors_find_the_images_and_numbers_of_one_process(run_dir: Path) -> None:
    words = ["evaluate", str(run_dir), "--out"]
    assert main([*words, str(run_dir / "alone")]) == 0
    assert main([*words, str(run_dir / "ray"), "--num-workers", "2"]) == 0
    alone, distributed = (list(csv.DictReader((run_dir / name / "rows.csv").open())) for name in ("alone", "ray"))
    assert len(alone) == len(distributed) == 5 * 2 * 2
    for one, other in zip(alone, distributed, strict=True):
        assert (one["prompt"], one["image"]) == (other["prompt"], other["image"])
        images = [Image.open(run_dir / name / one["image"]).convert("RGB") for name in ("alone", "ray")]
        # Processes compute with other numbers of threads, so rounding to a byte may fall either way.
        extrema: Any = ImageChops.difference(*images).getextrema()
        assert max(high for _, high in extrema) <= 1
        for metric in list(one)[5:]:
            assert float(other[metric]) == pytest.approx(float(one[metric]), rel=2e-3, abs=2e-4), metric


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_reward_that_fails_on_a_worker_is_one_message(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(run_dir)
    broken = {"type": "python", "name": "held_out", "target": "tests.helpers.training.faulty_rewards:Nothing"}
    folder.config.write_text(to_yaml(load_run([folder.config], [f"evaluation.held_out=[{json.dumps(broken)}]"])))
    assert main(["evaluate", str(run_dir), "--num-workers", "2"]) == 2
    error = capsys.readouterr().err
    assert "expected an importable package.module:Class" in error
    assert "Traceback" not in error


def bad_inputs(run_dir: Path, folder: Path) -> dict[str, tuple[list[str], str]]:
    evaluate, sample = ["evaluate", str(run_dir)], ["sample", str(run_dir), "a cat"]
    (folder / "empty.txt").write_text("")
    (folder / "no_run").mkdir()
    large = RunFolder(shutil.copytree(run_dir, folder / "large"))
    large.config.write_text(to_yaml(load_run([large.config], ["model.resolution=128"])))
    (folder / "layer.yaml").write_text("name: x\nevaluation: {held_out: [], interval: 3}\n")
    ocr = {"type": "ocr", "name": "text", "url": "http://nowhere", "model": "m"}
    (folder / "ocr.yaml").write_text(json.dumps({"evaluation": {"held_out": [ocr]}}))
    (folder / "used").mkdir()
    (folder / "used" / "job.json").write_text(json.dumps({"seed": 5, "prompts": ["x"]}))
    (folder / "broken").mkdir()
    (folder / "broken" / "job.json").write_text("{")
    many = ["--samples-per-prompt", "17"]
    return {
        "no run": (["evaluate", str(folder / "no_run")], "expected the folder of a trained run"),
        "no prompt file": ([*evaluate, "--prompts", str(folder / "none.txt")], "--prompts: expected a readable"),
        "empty prompt file": ([*evaluate, "--prompts", str(folder / "empty.txt")], "--prompts: expected at least one"),
        "no prompt": (["sample", str(run_dir)], "got no prompt"),
        "unwritable folder": ([*evaluate, "--out", "/proc/evaluation"], "--out: expected a writable folder"),
        "unwritable grid": ([*sample, "--out", "/proc/x/a.png"], "--out: expected a writable file"),
        "another evaluation": ([*evaluate, "--out", str(folder / "used")], "which has images of other"),
        "broken folder": ([*evaluate, "--out", str(folder / "broken")], "--out: expected a writable folder"),
        "negative samples": ([*evaluate, "--samples-per-prompt", "-1"], "--samples-per-prompt: expected a number of"),
        "no steps": ([*sample, "--steps", "0"], "--steps: expected a number of at least 1, got 0"),
        "negative guidance": ([*sample, "--guidance-scale", "-1"], "--guidance-scale: expected a number of at least 0"),
        "negative weight": ([*evaluate, "--rl-guidance", "1.5", "-2"], "--rl-guidance: expected weights of at least 0"),
        "no number": ([*sample, "--rl-guidance", "nan"], "--rl-guidance: expected weights of at least 0"),
        "weight twice": ([*evaluate, "--rl-guidance", "2", "2.0"], "--rl-guidance: expected different weights"),
        "no workers": ([*evaluate, "--num-workers", "0"], "--num-workers: expected a number of at least 1"),
        "no prompts": ([*evaluate, "--num-prompts", "0"], "--num-prompts: expected a number of at least 1"),
        "too large a grid": ([*sample, *many, "--out", str(folder / "g.png")], "--out: expected a folder for 17"),
        "against itself": ([*evaluate, "--against", str(run_dir)], "--against: expected the folder of another run"),
        "against another model": (
            [*evaluate, "--against", str(folder / "large")],
            "with 128; give one size to both",
        ),
        "no evaluators": (
            [*evaluate, "--held-out", str(folder / "layer.yaml")],
            "--held-out: expected a file with evaluation.held_out, and beside it only preprocessing and relative, got",
        ),
        "prompt of no reward": (
            [*evaluate, "--held-out", str(folder / "ocr.yaml")],
            "--prompts, reward 'text': expected",
        ),
        "no size": ([*sample, "--resolution", "72"], "choose a size near it (64 and 80)"),
        "truth of another size": ([*evaluate, "--resolution", "96x64"], "--resolution: expected 64 with small_world:"),
    }


CASES = [
    "no run",
    "no prompt file",
    "empty prompt file",
    "no prompt",
    "unwritable folder",
    "unwritable grid",
    "another evaluation",
    "broken folder",
    "negative samples",
    "no steps",
    "negative guidance",
    "negative weight",
    "no number",
    "weight twice",
    "no workers",
    "no prompts",
    "too large a grid",
    "against itself",
    "against another model",
    "no evaluators",
    "prompt of no reward",
    "no size",
    "truth of another size",
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message_and_exit_code_2(
    case: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = bad_inputs(run_dir, tmp_path)[case]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("srpo-ray: ")
    assert message in error
    assert "Traceback" not in error
