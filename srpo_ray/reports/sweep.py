"""The report of a sweep: the winner, all runs, reward hacking, and which parameter mattered."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from srpo_ray.evaluation.alarm import alarm_texts
from srpo_ray.evaluation.importance import MINIMUM_TRIALS, permutation_p, variance_explained
from srpo_ray.evaluation.numbers import param_titles
from srpo_ray.evaluation.results import (
    CONTENT_ACCURACY,
    OWN_WORDS,
    TRAINED_GAIN,
    SweepReport,
    TrialRow,
    alarmed,
    metric_names,
    shared_step,
    varied_params,
)
from srpo_ray.reports.headline import cards, hacking_notice, headline
from srpo_ray.reports.report import (
    Alert,
    Bar,
    Bars,
    Cards,
    Charts,
    Code,
    Facts,
    Image,
    Images,
    Part,
    Report,
    Section,
    Strong,
    Table,
    Text,
)
from srpo_ray.reports.sweep_charts import comparable_scores, curve_charts, pareto_chart, slice_charts, word_colors
from srpo_ray.reports.sweep_seeds import ablations_section, seeds_section
from srpo_ray.reports.sweep_table import runs_table

_MEANINGS = {
    CONTENT_ACCURACY: "share of colour, shape and background that are as the prompt says, from pixels",
    TRAINED_GAIN: "rise of the reward that the run itself was trained to raise (for its control words, or for the plain"
    " prompt), in standard deviations over the baseline's images",
    OWN_WORDS: "the trained reward of the run's positive control words minus that of the negative ones",
    "image/diversity": "mean difference between images of one prompt; a fall means that all seeds look alike",
    "panel/": "score by a held-out evaluator, a model that no trial was trained on; higher is better",
    "reward/": "score by a model that trials were trained on, for the evaluation's images and the plain prompt; a run"
    " with control words is trained on their difference instead",
    "truth/": "measured from pixels, exactly, because the images' content is known",
    "image/": "statistic of the pixels; neither good nor bad, but a large move shows a new style or a hack",
}


def sweep_report(sweep: SweepReport) -> Report:
    """Build the report of a sweep.

    Missing parts, such as metrics, images, repeats or ablations, leave their section out or are named in it.
    """
    runs, best = runs_table(sweep), sweep.best_row
    winner = [] if best is None else [Text(Strong(best.name), f": {best.label}", style="lead")]
    warning = [] if (notice := hacking_notice(sweep)) is None else [Alert(notice, warning=True)]
    shown = cards(sweep)
    sections = [
        _runs(sweep, runs),
        _side_by_side(sweep),
        _pareto(sweep),
        _curves(sweep),
        _importance(sweep),
        seeds_section(sweep),
        ablations_section(sweep),
        _slices(sweep),
        _glossary(sweep),
        _again(sweep),
    ]
    return Report(
        title=sweep.title,
        headline=headline(sweep),
        sections=[section for section in sections if section is not None],
        subtitle=f"{sweep.title} · {sweep.created}",
        summary=[*winner, *([Cards(shown)] if shown else []), *warning, *map(Alert, sweep.notes)],
        files={"trials.csv": runs, "trials.json": asdict(sweep)},
        terminal=[runs],
    )


def _runs(sweep: SweepReport, runs: Table) -> Section:
    shared, stopped = shared_step(sweep), any(row.stopped_early for row in sweep.trials)
    by = f" and are ranked by {sweep.objective} after update {shared}, the last one that all trials share"
    early = f"; those that were stopped early come after all that ended{by if shared is not None else ''}"
    text = Text(
        "Values of the last evaluation, made after the updates in column ",
        Strong("update"),
        f". Ranks count trials{early if stopped else ''}; the baseline, repeats with other seeds and ablations stand"
        " where their value puts them. Click a column to sort.",
    )
    failed = [row for row in sweep.rows if row.failed]
    evidence = [
        Text(Strong(row.name), f" {text}", style="marked")
        for row in sweep.rows
        if not row.failed
        for text in alarm_texts(row.alarms)
    ]
    failures = [Text(Strong(row.name), f" {row.status}", style="marked failure") for row in failed]
    return Section("All runs", [text, runs, *failures, *evidence])


def _side_by_side(sweep: SweepReport) -> Section:
    best = sweep.best_row
    image = None if best is None else _gallery(best, "Images of the baseline and of the tuned model, same prompts")
    none = [Text("No images of the best run were kept.")]
    parts: list[Part] = [*none] if image is None else [Text("Same prompts, same starting noise."), Images(image)]
    for row in alarmed(sweep):
        hacked = _gallery(row, "Images of the baseline and of a run in which reward hacking was detected")
        if hacked is not None:
            parts.append(Images(hacked, folded=f"Images of a run with detected reward hacking: {row.name}"))
            break
    return Section("Baseline and best, side by side", parts)


def _gallery(row: TrialRow, description: str) -> Image | None:
    if row.gallery is None or not row.gallery.is_file():
        return None
    return Image(row.gallery.read_bytes(), description)


def _pareto(sweep: SweepReport) -> Section | None:
    chart = pareto_chart(sweep)
    if chart is None:
        return None
    counted = (
        " It is counted in standard deviations over the baseline's images, so that runs with different words or rewards"
        " share the axis."
    )
    text = Text(
        "Each dot is a run. To the right, the reward that the run itself was trained on rose: the difference of its"
        " control words, or the score of the plain prompt where no words are trained."
        f"{counted if sweep.reward == TRAINED_GAIN else ''} Upwards, models that nobody trained on agree. The line"
        " joins the trials that no other beats in both; in the red quarter the trained reward rose and the held-out"
        f" score got worse.{' Lower is better on the vertical axis.' if sweep.mode == 'min' else ''} Ablations are"
        " faint."
    )
    charts = Charts([chart], size="wide", legend=word_colors(sweep))
    return Section("Trained reward against held-out score", [text, charts])


def _curves(sweep: SweepReport) -> Section | None:
    charts = curve_charts(sweep)
    orange = " Orange: reward hacking was detected." if alarmed(sweep) else ""
    text = Text(f"Strong line: the best trial. Light lines: the other trials. Dashed: the baseline.{orange}")
    return Section("Over updates", [text, Charts(charts)]) if charts else None


def _importance(sweep: SweepReport) -> Section | None:
    """Bars, the most important parameter first, and the trials and updates behind them; no bars for few trials."""
    trials, paths = comparable_scores(sweep), varied_params(sweep)
    if not paths:
        return None
    title, count = "Which parameter mattered", len(trials)
    if count < MINIMUM_TRIALS:
        text = (
            f"No shares are shown: {count} trial{'s' if count != 1 else ''} can be compared, and {MINIMUM_TRIALS}"
            " are needed. With 8 trials, one of four parameters that do nothing has a share above 30% in half of all"
            " sweeps."
        )
        return Section(title, [Text(text)])
    text = Text(
        f"Share of the spread of {sweep.objective} between {count} trials after update {shared_step(sweep)}, the last"
        " one that all share, that goes with one parameter's value (correlation ratio, corrected for chance; numbers"
        " are grouped into thirds). Joint effects are not seen, and shares need not add up to 100%. ",
        Strong("p"),
        ": chance of a share as large if the parameter did nothing (999 permutations of the scores); gray from 0.05.",
    )
    return Section(title, [text, _shares(trials, paths)])


def _shares(trials: Sequence[tuple[TrialRow, float]], paths: Sequence[str]) -> Bars:
    scores = [score for _, score in trials]
    params = [{path: row.params.get(path) for path in paths} for row, _ in trials]
    shares, titles = variance_explained(params, scores), param_titles(paths)
    bars = []
    for path in sorted(shares, key=lambda path: -1.0 if (share := shares[path]) is None else share, reverse=True):
        share = shares[path]
        if share is None:
            bars.append(Bar(titles[path], None, "cannot be told from these trials", hint=path))
        else:
            chance = permutation_p([trial[path] for trial in params], scores)
            bars.append(Bar(titles[path], share, f"{100 * share:.0f}%, p {chance:.3f}", "", path, chance >= 0.05))
    return Bars(bars)


def _slices(sweep: SweepReport) -> Section | None:
    charts = slice_charts(sweep)
    text = (
        f"{sweep.objective} of each trial after update {shared_step(sweep)}, the last one at which all were evaluated."
        " Dashed: the baseline. Short bars: means of a group."
    )
    return Section("Parameter by parameter", [Text(text), Charts(charts)]) if charts else None


def _glossary(sweep: SweepReport) -> Section | None:
    meanings: list[tuple[str, Any]] = []
    for name in metric_names(sweep):
        meaning = next((text for start, text in _MEANINGS.items() if name.startswith(start)), "")
        if name.endswith("/relative"):
            meaning = "the same score for the words of evaluation.relative, positive minus negative"
        if name == sweep.objective:
            meaning = f"what trials are ranked by: {meaning or 'a held-out score'}"
        meanings.append((name, meaning))
    return Section("What the metrics mean", [Facts(meanings)]) if meanings else None


def _again(sweep: SweepReport) -> Section:
    facts = Facts([("commit", sweep.commit or "not a git checkout"), ("hardware", sweep.hardware)])
    config = [Text("Config of the best run:"), Code(sweep.best_config_yaml)]
    return Section("Run it again", [facts, Code(sweep.command), *config])
