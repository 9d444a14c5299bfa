"""The report of an evaluation: models on the same prompts and noise, compared in pairs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from srpo_ray.evaluation.categories import CategoryScores, compare_categories
from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.evaluation.paired import Cells, Comparison, PairedEvaluation, WinRate, significant_cells
from srpo_ray.evaluation.seeds import holm
from srpo_ray.reports.categories import CATEGORIES_TEXT, ByCategory, category_table
from srpo_ray.reports.charts import Interval, Intervals
from srpo_ray.reports.evaluation_parts import ImageName, counted, rows_table, settings_facts
from srpo_ray.reports.report import (
    Cell,
    Charts,
    Code,
    Column,
    Image,
    Images,
    Report,
    Row,
    Section,
    Strong,
    Table,
    Text,
)


def evaluation_report(
    evaluation: PairedEvaluation,
    sheets: Sequence[tuple[str, Image]],
    image_name: ImageName,
    categories: Sequence[CategoryScores] = (),
) -> Report:
    """Build the report of an evaluation.

    Args:
        evaluation: The results.
        sheets: Titles and images of the contact sheets.
        image_name: (prompt, sample, model) -> the file of that image, as `rows.csv` names it.
        categories: Metrics by categories of the prompts.
    """
    reference, *models = evaluation.models
    compared = evaluation.comparisons
    tested = list(zip(compared, significant_cells(compared), strict=True))
    wins = evaluation.comparison(evaluation.objective, models[0]).wins
    decision = "wins against" if wins.low > 0.5 else "loses to" if wins.high < 0.5 else "is not clearly told from"
    numbers = numbers_table(evaluation, tested)
    by_category = [(scores.metric, compare_categories(scores)) for scores in categories]
    tables = [category_table(*each) for each in by_category]
    return Report(
        title=f"{models[0]} against {reference}",
        headline=f"{models[0]} {decision} {reference} by {evaluation.objective}: {win_text(wins)}",
        sections=[
            Section("Win rates", [_wins_text(reference), _wins_chart(compared, models)]),
            *([Section("By category", [CATEGORIES_TEXT, *tables])] if tables else []),
            *(_sheet(evaluation, title, image, first=not index) for index, (title, image) in enumerate(sheets)),
            Section("All numbers", [_numbers_text(reference), numbers, _tests_text(tested)]),
            Section("How it was made", [settings_facts(evaluation), Code(evaluation.command)]),
        ],
        subtitle=f"{counted(evaluation)} · {evaluation.created}",
        page="evaluation.html",
        terminal=[numbers, *tables],
        files={
            "evaluation.json": _as_dict(evaluation, tested, by_category),
            "rows.csv": rows_table(evaluation, image_name),
        },
    )


def _wins_text(reference: str) -> Text:
    return Text(
        "Share of pairs of the same prompt and noise in which the value is higher than that of ",
        Strong(reference),
        "; a tie counts half. The line is the 95% interval over prompts, dashed is one half.",
    )


def _tests_text(tested: Sequence[tuple[Comparison, Cells]]) -> Text:
    count = sum((found.p_value is not None) + 1 for found, _ in tested)
    return Text(
        "± is half of the 95% interval of the difference: it counts prompts only (Student's t), and how far another"
        f" training seed moves the number is unknown. The table makes {count} tests: bold where the difference is not"
        " zero, or the win rate not one half, after Holm's correction for all of them, which keeps the chance of any"
        " false one at 5%. Intervals and the headline are not corrected."
    )


def _numbers_text(reference: str) -> Text:
    return Text(
        f"Means over all images, and the difference from {reference} with its 95% interval. Win rates of ",
        Strong("image/"),
        " and ",
        Strong("truth/"),
        " count higher values, which are not always better.",
    )


def _wins_chart(compared: Sequence[Comparison], models: Sequence[str]) -> Charts:
    """Win rates by the scores of models; statistics of pixels are no better or worse, so only the table has them."""
    rows = [
        Interval(
            f"{found.metric}, {found.model}" if len(models) > 1 else found.metric,
            found.wins.rate,
            found.wins.low,
            found.wins.high,
            win_text(found.wins),
            models.index(found.model),
        )
        for found in compared
        if found.metric.startswith(("evaluator/", "reward/"))
    ]
    legend = {model: index for index, model in enumerate(models)} if len(models) > 1 else {}
    chart = Intervals("", "Win rates with 95% intervals", rows, mark=0.5, share=True)
    return Charts([chart], size="wide", legend=legend)


def _sheet(evaluation: PairedEvaluation, title: str, image: Image, first: bool) -> Section:
    reference, model = evaluation.models[:2]
    change = f"The number before a prompt is the change of {evaluation.objective} from {reference} to {model}."
    return Section(title, [*([Text(change)] if first else []), Images(image)])


def numbers_table(evaluation: PairedEvaluation, tested: Sequence[tuple[Comparison, Cells]]) -> Table:
    """Means, paired differences and win rates; `clear` where Holm's correction keeps a number."""
    reference, *models = evaluation.models
    several = ["model"] * (len(models) > 1)
    columns = [
        Column("metric", numeric=False),
        Column("reference_mean", reference, number),
        Column("model", numeric=False),
        Column("mean", "mean" if several else models[0], number),
        Column("difference", "difference ± 95%", signed, noted=True),
        Column("win_rate", "win rate (95%)", _percent, noted=True),
    ]
    rows = [
        Row(_cells(found, significant), "reference" if found.metric == evaluation.objective else "")
        for found, significant in tested
    ]
    title = f"{' and '.join(models)} against {reference} on {counted(evaluation)}"
    shown = ["metric", "reference_mean", *several, "mean", "difference", "win_rate"]
    return Table(columns, rows, head="metric", title=title, page=shown, terminal=shown)


def _cells(found: Comparison, significant: Cells) -> dict[str, Any]:
    interval = "" if found.half_width is None else f"± {number(found.half_width)}"
    wins = found.wins
    return {
        "metric": found.metric,
        "reference_mean": found.reference_mean,
        "model": found.model,
        "mean": found.mean,
        "difference": Cell(found.difference, interval, "clear" if significant.difference else "unclear"),
        "win_rate": Cell(wins.rate, _interval(wins), "clear" if significant.wins else "unclear"),
    }


def win_text(wins: WinRate) -> str:
    """`92% (88-95)`."""
    return f"{_percent(wins.rate)} {_interval(wins)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _interval(wins: WinRate) -> str:
    return f"({100 * wins.low:.0f}-{100 * wins.high:.0f})"


def _as_dict(
    evaluation: PairedEvaluation, tested: Sequence[tuple[Comparison, Cells]], by_category: Sequence[ByCategory]
) -> dict[str, Any]:
    """All but the single scores, which are in `rows.csv`."""
    return {
        "created": evaluation.created,
        "command": evaluation.command,
        "num_prompts": len(evaluation.prompts),
        "objective": evaluation.objective,
        "reference": evaluation.models[0],
        "settings": evaluation.settings,
        "comparisons": [
            {
                **asdict(found),
                "difference": found.difference,
                "difference_significant": significant.difference,
                "win_rate_significant": significant.wins,
                "low": None if found.half_width is None else found.difference - found.half_width,
                "high": None if found.half_width is None else found.difference + found.half_width,
            }
            for found, significant in tested
        ],
        "categories": [
            {**asdict(found), "metric": metric, "difference": found.difference, "difference_significant": significant}
            for metric, rows in by_category
            for found, significant in zip(rows, holm([row.p_value for row in rows]), strict=True)
        ],
    }
