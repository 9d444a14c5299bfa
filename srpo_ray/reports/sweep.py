"""Sections about runs: their table, images, reward hacking, curves, and which parameter mattered."""

from collections.abc import Sequence

from srpo_ray.evaluation.importance import MINIMUM_TRIALS, permutation_p, trials_with, variance_explained
from srpo_ray.evaluation.numbers import param_titles
from srpo_ray.evaluation.ranking import flagged, shared_step, varied_params
from srpo_ray.evaluation.results import TRAINED_GAIN, Results, TrialRow
from srpo_ray.evaluation.reward_hacking import sign_texts
from srpo_ray.evaluation.seeds import holm
from srpo_ray.reports.report import (
    Bar,
    Bars,
    Charts,
    Image,
    Images,
    Part,
    Section,
    Strong,
    Table,
    Text,
)
from srpo_ray.reports.sweep_charts import (
    comparable_scores,
    curve_charts,
    pareto_chart,
    pareto_update,
    slice_charts,
    word_colors,
)


def runs_section(sweep: Results, runs: Table) -> Section:
    """All runs, with the evidence of reward hacking and the reasons of failures."""
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
        for text in sign_texts(row.signs)
    ]
    failures = [Text(Strong(row.name), f" {row.status}", style="marked failure") for row in failed]
    return Section("All runs", [text, runs, *failures, *evidence])


def side_by_side(sweep: Results) -> Section:
    """Images of the baseline and of the best trial, and of a run that hacked its reward."""
    best = sweep.best_row
    image = None if best is None else _gallery(best, "Images of the baseline and of the tuned model, same prompts")
    none = [Text("No images of the best run were kept.")]
    parts: list[Part] = [*none] if image is None else [Text("Same prompts, same starting noise."), Images(image)]
    for row in flagged(sweep):
        hacked = _gallery(row, "Images of the baseline and of a run in which reward hacking was detected")
        if hacked is not None:
            parts.append(Images(hacked, folded=f"Images of a run with detected reward hacking: {row.name}"))
            break
    return Section("Baseline and best, side by side", parts)


def _gallery(row: TrialRow, description: str) -> Image | None:
    if row.gallery is None or not row.gallery.is_file():
        return None
    return Image(row.gallery.read_bytes(), description)


def pareto(sweep: Results) -> Section | None:
    """Trained reward against held-out score, run by run."""
    chart = pareto_chart(sweep)
    if chart is None:
        return None
    counted = (
        " It is counted in standard deviations over the baseline's images, so that runs with different words or rewards"
        " share the axis."
    )
    update = pareto_update(sweep)
    when = (
        ""
        if update is None
        else f" All are compared after update {update}, the last one that all trials share, as some were stopped early."
    )
    text = Text(
        "Each dot is a run. To the right, the reward that the run itself was trained on rose: the difference of its"
        " control words, or the score of the plain prompt where no words are trained."
        f"{counted if sweep.reward == TRAINED_GAIN else ''} Upwards, models that nobody trained on agree. The line"
        " joins the trials that no other beats in both; in the red quarter the trained reward rose and the held-out"
        f" score got worse.{' Lower is better on the vertical axis.' if sweep.mode == 'min' else ''} Ablations are"
        f" faint.{when}"
    )
    charts = Charts([chart], size="wide", legend=word_colors(sweep))
    return Section("Trained reward against held-out score", [text, charts])


def curves(sweep: Results) -> Section | None:
    """Metrics of the trials over updates."""
    charts = curve_charts(sweep)
    orange = " Orange: reward hacking was detected." if flagged(sweep) else ""
    text = Text(f"Strong line: the best trial. Light lines: the other trials. Dashed: the baseline.{orange}")
    return Section("Over updates", [text, Charts(charts)]) if charts else None


def importance(sweep: Results) -> Section | None:
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
        " are grouped into thirds; a parameter with a condition is compared between the trials that have it). Joint"
        " effects are not seen, and shares need not add up to 100%. ",
        Strong("p"),
        ": chance of a share as large if the parameter did nothing (999 permutations of the scores).",
    )
    bars = _shares(trials, paths)
    count = sum(bar.share is not None for bar in bars.bars)
    below = (
        f"{count} test{'s' if count != 1 else ''}: gray where the share may be chance after Holm's correction for all"
        " of them, which keeps the chance of any false one at 5%."
    )
    return Section(title, [text, bars, Text(below)])


def _shares(trials: Sequence[tuple[TrialRow, float]], paths: Sequence[str]) -> Bars:
    scores = [score for _, score in trials]
    params = [{path: row.params[path] for path in paths if path in row.params} for row, _ in trials]
    shares, titles = variance_explained(params, scores), param_titles(paths)
    order = sorted(shares, key=lambda path: -1.0 if (share := shares[path]) is None else share, reverse=True)
    chances = [None if shares[path] is None else permutation_p(*trials_with(path, params, scores)) for path in order]
    bars = []
    for path, chance, significant in zip(order, chances, holm(chances), strict=True):
        share = shares[path]
        if share is None:
            bars.append(Bar(titles[path], None, "cannot be told from these trials", hint=path))
        else:
            bars.append(Bar(titles[path], share, f"{100 * share:.0f}%, p {chance:.3f}", "", path, not significant))
    return Bars(bars)


def slices(sweep: Results) -> Section | None:
    """The objective against each parameter that differs between trials."""
    charts = slice_charts(sweep)
    text = (
        f"{sweep.objective} of each trial after update {shared_step(sweep)}, the last one at which all were evaluated."
        " Dashed: the baseline. Short bars: means of a group."
    )
    return Section("Parameter by parameter", [Text(text), Charts(charts)]) if charts else None
