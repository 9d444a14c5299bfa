"""The report of an evaluation of one model, without another to compare it with."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from srpo_ray.evaluation.categories import OVERALL, CategoryMean, CategoryScores, category_means
from srpo_ray.evaluation.numbers import number
from srpo_ray.evaluation.paired import ModelMean, PairedEvaluation
from srpo_ray.reports.evaluation_parts import ImageName, counted, rows_table, settings_facts
from srpo_ray.reports.report import Cell, Code, Column, Image, Images, Report, Row, Section, Table, Text

_INTERVALS = Text(
    "± is half of the 95% interval of a mean over prompts (Student's t; the images of a prompt are averaged first). A"
    " higher value of image/ and truth/ metrics is not always better."
)
_BY_CATEGORY = Text(
    "± is half of the 95% interval of a mean over prompts of this kind (Student's t; the images of a prompt are"
    f" averaged first). {OVERALL} is the mean over categories with equal weights."
)


def model_report(
    evaluation: PairedEvaluation,
    sheets: Sequence[tuple[str, Image]],
    image_name: ImageName,
    categories: Sequence[CategoryScores] = (),
) -> Report:
    """Build the report of an evaluation of one model.

    Args:
        evaluation: The results; they have one model.
        sheets: Titles and images of the contact sheets.
        image_name: (prompt, sample, model) -> the file of that image, as `rows.csv` names it.
        categories: Metrics by categories of the prompts.
    """
    (model,) = evaluation.models
    means = evaluation.means
    (objective,) = (row for row in means if row.metric == evaluation.objective)
    by_category = {scores.metric: category_means(scores) for scores in categories}
    tables = [_category_table(*each) for each in by_category.items()]
    numbers = _numbers_table(evaluation, means)
    return Report(
        title=f"Evaluation of {model}",
        headline=f"{evaluation.objective} of {model}: {number(objective.mean)} {_interval(objective)}".rstrip(),
        sections=[
            *([Section("By category", [_BY_CATEGORY, *tables])] if tables else []),
            *(_sheet(evaluation, title, image, first=not index) for index, (title, image) in enumerate(sheets)),
            Section("All numbers", [_INTERVALS, numbers]),
            Section("How it was made", [settings_facts(evaluation), Code(evaluation.command)]),
        ],
        subtitle=f"{counted(evaluation)} · {evaluation.created}",
        page="evaluation.html",
        terminal=[numbers, *tables],
        files={
            "evaluation.json": _as_dict(evaluation, means, by_category),
            "rows.csv": rows_table(evaluation, image_name),
        },
    )


def _sheet(evaluation: PairedEvaluation, title: str, image: Image, first: bool) -> Section:
    text = Text(f"The number before a prompt is {evaluation.objective}.")
    return Section(title, [*([text] if first else []), Images(image)])


def _numbers_table(evaluation: PairedEvaluation, means: Sequence[ModelMean]) -> Table:
    columns = [Column("metric", numeric=False), Column("mean", "mean ± 95%", number, noted=True)]
    rows = [
        Row({"metric": row.metric, "mean": _cell(row)}, "reference" if row.metric == evaluation.objective else "")
        for row in means
    ]
    shown = ["metric", "mean"]
    title = f"{evaluation.models[0]} on {counted(evaluation)}"
    return Table(columns, rows, head="metric", title=title, page=shown, terminal=shown)


def _category_table(metric: str, found: Sequence[CategoryMean]) -> Table:
    columns = [
        Column("category", numeric=False),
        Column("prompts"),
        Column("mean", "mean ± 95%", number, noted=True),
    ]
    rows = [
        Row(
            {"category": row.category, "prompts": row.num_prompts, "mean": _cell(row)},
            "reference" if row.category == OVERALL else "",
        )
        for row in found
    ]
    shown = ["category", "prompts", "mean"]
    return Table(columns, rows, head="category", title=f"{metric} by category", page=shown, terminal=shown)


def _cell(row: ModelMean | CategoryMean) -> Cell:
    return Cell(row.mean, _interval(row))


def _interval(row: ModelMean | CategoryMean) -> str:
    return "" if row.half_width is None else f"± {number(row.half_width)}"


def _as_dict(
    evaluation: PairedEvaluation, means: Sequence[ModelMean], by_category: Mapping[str, Sequence[CategoryMean]]
) -> dict[str, Any]:
    """All but the single scores, which are in `rows.csv`."""
    return {
        "created": evaluation.created,
        "command": evaluation.command,
        "num_prompts": len(evaluation.prompts),
        "objective": evaluation.objective,
        "model": evaluation.models[0],
        "settings": evaluation.settings,
        "means": [asdict(row) for row in means],
        "categories": [{**asdict(row), "metric": metric} for metric, rows in by_category.items() for row in rows],
    }
