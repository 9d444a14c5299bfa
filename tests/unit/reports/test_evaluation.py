import csv
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from srpo_ray.evaluation.gallery import save_png, to_images
from srpo_ray.evaluation.paired import PairedEvaluation, significant_cells
from srpo_ray.reports.evaluation import evaluation_report
from srpo_ray.reports.files import write_report
from srpo_ray.reports.grids import ImageFile, contact_pairs, contact_sheets
from srpo_ray.reports.report import Report
from srpo_ray.reports.terminal import terminal_table

PROMPTS = ["a <b>cat</b>", "a dog", "a red circle", "a fish", "a tree"]
BASE = [[0.5, 0.5]] * 5
TUNED = [[0.6, 0.9], [0.5, 0.5], [0.1, 0.6], [0.7, 0.8], [0.55, 0.5]]


def evaluation(models: tuple[str, ...] = ("base", "tuned")) -> PairedEvaluation:
    columns = {"base": BASE, "tuned": TUNED, "rl_guidance_2": [[2 * value for value in row] for row in TUNED]}
    scores = {name: {model: columns[model] for model in models} for name in ("evaluator/held_out", "image/contrast")}
    settings = {"models": {"tuned": {"run": "runs/x", "update": 4}}, "seed": 1, "prompts": "p.txt"}
    return PairedEvaluation(models, PROMPTS, scores, "evaluator/held_out", settings, "today", "srpo-ray evaluate '<x>'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image per prompt, sample and model; its colour says which."""
    for prompt in range(5):
        for sample in range(2):
            for index, model in enumerate(("base", "tuned", "rl_guidance_2")):
                color = torch.tensor([prompt / 5, sample / 2, index / 3])[:, None, None].expand(3, 64, 64)
                save_png(to_images(color[None])[0], image(tmp_path)(prompt, sample, model))
    return tmp_path


def made(folder: Path, found: PairedEvaluation) -> Report:
    files: ImageFile = image(folder)

    def name(prompt: int, sample: int, model: str) -> str:
        return f"images/{files(prompt, sample, model).name}"

    return evaluation_report(found, contact_sheets(folder, found, files), name)


def image(folder: Path):
    return lambda prompt, sample, model: folder / "images" / f"{prompt}_{sample}_{model}.png"


def test_sheets_show_random_pairs_first_then_the_extremes_each_prompt_once() -> None:
    sheets = {name: pairs for name, _, pairs in contact_pairs(evaluation())}
    assert list(sheets) == ["random", "most_improved", "most_worsened"]
    assert sorted(prompt for _, prompt, _ in sheets["random"]) == [0, 1, 2, 3, 4]
    assert [(prompt, sample) for _, prompt, sample in sheets["most_improved"]] == [(0, 1), (3, 1), (2, 1), (4, 0)]
    assert [(round(gap, 6), prompt, sample) for gap, prompt, sample in sheets["most_worsened"]] == [(-0.4, 2, 0)]


def test_sheet_without_a_pair_is_left_out() -> None:
    equal = PairedEvaluation(("a", "b"), PROMPTS, {"evaluator/x": {"a": BASE, "b": BASE}}, "evaluator/x", {}, "", "")
    assert [name for name, _, _ in contact_pairs(equal)] == ["random"]


def test_sheet_has_the_images_of_its_pairs_side_by_side(folder: Path) -> None:
    write_report(folder, made(folder, evaluation()))
    sheet = Image.open(folder / "most_worsened.png")
    # One prompt (index 2, sample 0): base left, tuned right, both enlarged to 128 pixels.
    colors = [color for _, color in sorted(sheet.convert("RGB").getcolors(sheet.width * sheet.height) or [])[-3:]]
    assert {(102, 0, 0), (102, 0, 85)} <= set(colors)
    assert sheet.width == pytest.approx(2 * 128 + 4 + 2 * 12, abs=2)


def test_files_hold_every_image_and_comparison(folder: Path) -> None:
    found = evaluation(("base", "tuned", "rl_guidance_2"))
    write_report(folder, made(folder, found))
    rows = list(csv.DictReader((folder / "rows.csv").open()))
    assert len(rows) == 5 * 2 * 3
    (row,) = [row for row in rows if (row["prompt_index"], row["sample"], row["model"]) == ("2", "1", "tuned")]
    assert (row["prompt"], row["image"]) == ("a red circle", "images/2_1_tuned.png")
    assert float(row["evaluator/held_out"]) == 0.6
    data = json.loads((folder / "evaluation.json").read_text())
    assert (data["num_prompts"], data["reference"]) == (5, "base")
    assert len(data["comparisons"]) == 2 * 2
    first = data["comparisons"][0]
    assert (first["metric"], first["model"]) == ("evaluator/held_out", "tuned")
    assert first["difference"] == pytest.approx(first["mean"] - first["reference_mean"])
    # Prompts win 1, 1/2, 1/2, 1 and 3/4 of their pairs.
    assert first["wins"]["rate"] == pytest.approx(0.75)
    assert first["low"] < first["difference"] < first["high"]


@pytest.mark.parametrize("models", [("base", "tuned"), ("base", "tuned", "rl_guidance_2")])
def test_page_needs_no_other_file_and_shows_every_metric(folder: Path, models: tuple[str, ...]) -> None:
    page = write_report(folder, made(folder, evaluation(models))).read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "://" not in page
    assert "&lt;x&gt;" in page
    assert page.count("data:image/png;base64,") == 3
    for metric in ("evaluator/held_out", "image/contrast"):
        assert f"<b>{metric}</b>" in page
    assert page.count('class="interval"') == len(models) - 1, "scores of models alone are drawn"
    assert "by evaluator/held_out: 75%" in page


def test_terminal_table_fits_and_marks_what_is_significant_among_all_its_numbers() -> None:
    """One model is higher for every prompt, one in 25 of 40, which is one chance in nine by itself."""
    better, slightly = [[0.7 + 0.01 * (index % 3)] for index in range(40)], [[0.6]] * 25 + [[0.4]] * 15
    columns = {"base": [[0.5]] * 40, "tuned": slightly, "rl_guidance_2": better}
    names = tuple(columns)
    found = PairedEvaluation(
        names, ["a"] * 40, {"evaluator/held_out": columns}, "evaluator/held_out", {}, "today", "command"
    )
    console = Console(width=120)
    with console.capture() as captured:
        (table,) = evaluation_report(found, [], lambda _prompt, _sample, _model: "").terminal
        console.print(terminal_table(table))
    text = captured.get()
    assert "…" not in text
    (line,) = [line for line in text.splitlines() if "evaluator/held_out" in line and "rl_guidance_2" in line]
    assert line.count("*") == 2
    (line,) = [line for line in text.splitlines() if "evaluator/held_out" in line and " tuned" in line]
    assert "62%" in line
    assert "*" not in line


def test_a_number_that_many_others_are_tested_beside_must_be_surer() -> None:
    """Wins in 29 of 40 prompts have a p-value of 0.0044: enough for one metric, not for twenty."""
    source = random.Random(0)
    base = [[0.5]] * 40
    noise = {f"image/{index}": {"a": base, "b": [[0.5 + source.gauss(0, 1)] for _ in base]} for index in range(20)}
    wins = {"evaluator/x": {"a": base, "b": [[0.6]] * 29 + [[0.4]] * 11}}
    alone = PairedEvaluation(("a", "b"), ["p"] * 40, wins, "evaluator/x", {}, "", "")
    beside = PairedEvaluation(("a", "b"), ["p"] * 40, wins | noise, "evaluator/x", {}, "", "")
    assert significant_cells(alone.comparisons)[0].wins
    assert not significant_cells(beside.comparisons)[0].wins


def test_rows_have_the_conditioning_only_where_a_model_read_another_text(folder: Path) -> None:
    def rows(conditioning: list[str]) -> list[dict[str, str]]:
        write_report(folder, made(folder, replace(evaluation(), conditioning=conditioning)))
        return list(csv.DictReader((folder / "rows.csv").open()))

    assert "conditioning" not in rows([])[0]
    assert "conditioning" not in rows(PROMPTS)[0]
    texts = ["A fluffy cat.", *PROMPTS[1:]]
    assert [row["conditioning"] for row in rows(texts)] == [text for text in texts for _ in range(2 * 2)]
