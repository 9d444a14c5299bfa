"""Models on the same noise, for people and programs: terminal table, JSON, CSV, contact sheets, self-contained page."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich import box
from rich.table import Table

from srpo_ray.evaluation.gallery import method_grid, read_pictures, save_png
from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.evaluation.paired import Comparison, PairedEvaluation, WinRate, significant_cells
from srpo_ray.files import write_text
from srpo_ray.flow import generator
from srpo_ray.reports import svg
from srpo_ray.reports.html import embedded, render
from srpo_ray.reports.sweep_table import jsonable

PictureOf = Callable[[int, int, str], Path]
"""(prompt, sample, model) -> its picture file."""

_SHEET_PROMPTS = 12
_ROW_HEIGHT, _CHARACTER_WIDTH = 24.0, 6.6


def evaluation_table(evaluation: PairedEvaluation) -> Table:
    """Means, paired differences and win rates for the terminal; `*` where Holm's correction keeps a difference."""
    reference, *models = evaluation.models
    title = f"{' and '.join(models)} against {reference} on {_counted(evaluation)}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column(reference, justify="right", no_wrap=True)
    if len(models) > 1:
        table.add_column("model", no_wrap=True)
    for name in (models[0] if len(models) == 1 else "mean", "difference ± 95%", "win rate (95%)"):
        table.add_column(name, justify="right", no_wrap=True)
    comparisons = evaluation.comparisons
    for found, significant in zip(comparisons, significant_cells(comparisons), strict=True):
        style = "bold" if found.metric == evaluation.objective else ""
        model = [found.model] * (len(models) > 1)
        cells = [found.metric, number(found.reference_mean), *model, number(found.mean)]
        texts = difference_text(found) + _star(significant.difference), win_text(found.wins) + _star(significant.wins)
        table.add_row(*cells, *texts, style=style)
    return table


def difference_text(found: Comparison) -> str:
    """`+0.0312 ± 0.0021`; no interval for a single prompt."""
    interval = "" if found.half_width is None else f" ± {number(found.half_width)}"
    return f"{signed(found.difference)}{interval}"


def _star(significant: bool) -> str:
    return " *" if significant else "  "


def win_text(wins: WinRate) -> str:
    """`92% (88-95)`."""
    return f"{100 * wins.rate:.0f}% ({100 * wins.low:.0f}-{100 * wins.high:.0f})"


def write_evaluation(folder: Path, evaluation: PairedEvaluation, picture_of: PictureOf) -> Path:
    """Write `evaluation.json`, `rows.csv`, contact sheets and `evaluation.html`, and return the path of the page.

    Args:
        folder: Where to write.
        evaluation: What was found.
        picture_of: Where the pictures are.
    """
    write_text(folder / "evaluation.json", json.dumps(as_dict(evaluation), indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "rows.csv", as_csv(evaluation, picture_of))
    sheets = []
    for name, title, pairs in contact_pairs(evaluation):
        path = save_png(contact_sheet(evaluation, pairs, picture_of), folder / f"{name}.png")
        sheets.append((title, embedded(path)))
    return write_text(folder / "evaluation.html", render("evaluation.html", **_page(evaluation, sheets)))


def as_dict(evaluation: PairedEvaluation) -> dict[str, Any]:
    """All but the single scores, which are in `rows.csv`."""
    compared = evaluation.comparisons
    comparisons = [
        {
            **asdict(found),
            "difference": found.difference,
            "difference_significant": significant.difference,
            "win_rate_significant": significant.wins,
            "low": None if found.half_width is None else found.difference - found.half_width,
            "high": None if found.half_width is None else found.difference + found.half_width,
        }
        for found, significant in zip(compared, significant_cells(compared), strict=True)
    ]
    values = {
        "created": evaluation.created,
        "command": evaluation.command,
        "num_prompts": len(evaluation.prompts),
        "objective": evaluation.objective,
        "reference": evaluation.models[0],
        "settings": evaluation.settings,
        "comparisons": comparisons,
    }
    return jsonable(values)


def as_csv(evaluation: PairedEvaluation, picture_of: PictureOf) -> str:
    """One line per prompt, sample and model: what was drawn, where it is, and every metric."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["prompt_index", "prompt", "sample", "model", "picture", *evaluation.scores])
    for index, prompt in enumerate(evaluation.prompts):
        for sample in range(evaluation.num_samples):
            for model in evaluation.models:
                values = [columns[model][index][sample] for columns in evaluation.scores.values()]
                picture = picture_of(index, sample, model)
                place = f"{picture.parent.name}/{picture.name}"
                writer.writerow([index, prompt, sample, model, place, *values])
    return file.getvalue()


def contact_pairs(evaluation: PairedEvaluation) -> Iterator[tuple[str, str, list[tuple[float, int, int]]]]:
    """(file name, title, pairs) of each contact sheet; one pair per prompt in a sheet.

    The random ones come first, since the others are the extremes of the objective and show no typical pair. A sheet
    without pairs is left out.
    """
    gaps = evaluation.gaps(evaluation.models[1])
    order = torch.randperm(len(evaluation.prompts), generator=generator(0, "contact sheet")).tolist()
    first = {prompt: (gap, prompt, sample) for gap, prompt, sample in gaps if sample == 0}
    sheets = {
        "random": [first[prompt] for prompt in order],
        "most_improved": [pair for pair in gaps if pair[0] > 0],
        "most_worsened": [pair for pair in reversed(gaps) if pair[0] < 0],
    }
    titles = {
        "random": "Prompts chosen at random",
        "most_improved": f"Most improved by {evaluation.objective}",
        "most_worsened": f"Most worsened by {evaluation.objective}",
    }
    for name, pairs in sheets.items():
        by_prompt: dict[int, tuple[float, int, int]] = {}
        for pair in pairs:
            by_prompt.setdefault(pair[1], pair)
        if by_prompt:
            yield name, titles[name], list(by_prompt.values())[:_SHEET_PROMPTS]


def contact_sheet(
    evaluation: PairedEvaluation, pairs: Sequence[tuple[float, int, int]], picture_of: PictureOf
) -> Image.Image:
    """All models' pictures of some pairs, with the change of the objective before the prompt."""
    columns = {
        model: read_pictures([picture_of(prompt, sample, model) for _, prompt, sample in pairs])
        for model in evaluation.models
    }
    captions = [f"{signed(gap)}  {evaluation.prompts[prompt]}" for gap, prompt, _ in pairs]
    return method_grid(columns, captions, abreast=max(1, 6 // len(evaluation.models)))


def win_figure(evaluation: PairedEvaluation) -> str:
    """Win rates by the scores of models as points with their 95% intervals, one half marked."""
    # What statistics of pixels count is no better or worse, so it stands in the table alone.
    found = [each for each in evaluation.comparisons if each.metric.startswith(("panel/", "reward/"))]
    models = evaluation.models[1:]
    names = [_label(each, several=len(models) > 1) for each in found]
    left = 14 + _CHARACTER_WIDTH * max(len(name) for name in names)
    x = svg.Axis(0, 1, left, left + 420)
    bottom = 12 + _ROW_HEIGHT * len(found)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(svg.line(x(tick), 6, x(tick), bottom, "base-line" if tick == 0.5 else "grid"))
        parts.append(svg.text(x(tick), bottom + 16, f"{100 * tick:.0f}%", "tick", "middle"))
    for index, (each, name) in enumerate(zip(found, names, strict=True)):
        y = 12 + _ROW_HEIGHT * (index + 0.5)
        parts.append(svg.text(left - 10, y + 4, name, "", "end"))
        parts.append(svg.line(x(each.wins.low), y, x(each.wins.high), y, "interval"))
        parts.append(svg.dot(x(each.wins.rate), y, 5, f"c{models.index(each.model) % 8}", win_text(each.wins)))
    return svg.drawing(left + 440, bottom + 24, parts, "Win rates with 95% intervals")


def _setting_text(value: object) -> str:
    """A setting for people: `tuned (run runs/x; step 40)`, `a, b`."""
    if isinstance(value, Mapping):
        nested = [(name, _setting_text(item), isinstance(item, Mapping)) for name, item in value.items()]
        return "; ".join(f"{name} ({text})" if several else f"{name} {text}" for name, text, several in nested)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _label(found: Comparison, several: bool) -> str:
    return f"{found.metric}, {found.model}" if several else found.metric


def _counted(evaluation: PairedEvaluation) -> str:
    prompts, samples = len(evaluation.prompts), evaluation.num_samples
    return f"{prompts} prompt{'s' * (prompts > 1)} x {samples} sample{'s' * (samples > 1)}"


def _page(evaluation: PairedEvaluation, sheets: Sequence[tuple[str, str]]) -> dict[str, Any]:
    reference, *models = evaluation.models
    headline, compared = evaluation.comparison(evaluation.objective, models[0]), evaluation.comparisons
    tested = zip(compared, significant_cells(compared), strict=True)
    cells = {(found.metric, found.model): (found, significant) for found, significant in tested}
    wins = headline.wins
    verdict = "wins against" if wins.low > 0.5 else "loses to" if wins.high < 0.5 else "is not clearly told from"
    return {
        "title": f"{models[0]} against {reference}",
        "headline": f"{models[0]} {verdict} {reference} by {evaluation.objective}: {win_text(wins)}",
        "counted": _counted(evaluation),
        "evaluation": evaluation,
        "reference": reference,
        "models": models,
        "lines": [(metric, [cells[metric, model] for model in models]) for metric in evaluation.scores],
        "num_tests": 2 * len(compared),
        "figure": win_figure(evaluation),
        "sheets": sheets,
        "settings": [(name, _setting_text(value)) for name, value in evaluation.settings.items()],
    }
