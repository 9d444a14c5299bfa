"""The report of an experiment: arms with their scores and costs, searches, ablations, all runs."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from srpo_ray.evaluation.ranking import metric_names
from srpo_ray.evaluation.results import CALLS, CONTENT_ACCURACY, OWN_WORDS, SECONDS, TRAINED_GAIN, Results, Search
from srpo_ray.reports import comparison, sweep
from srpo_ray.reports.budget import budget_section
from srpo_ray.reports.comparison_tables import ablations_table, arms_table, settings
from srpo_ray.reports.disagreement import disagreement_notice
from srpo_ray.reports.equal_gain import equal_gain_section
from srpo_ray.reports.front import front_section
from srpo_ray.reports.headline import cards, hacking_notice, headline
from srpo_ray.reports.regret import regret_section
from srpo_ray.reports.report import Alert, Cards, Code, Facts, Part, Report, Section, Strong, Table, Text
from srpo_ray.reports.search_effort import end_warning, searches_section
from srpo_ray.reports.search_parts import promotion_section, schedule_section
from srpo_ray.reports.sweep_seeds import ablations_section, seeds_section
from srpo_ray.reports.sweep_table import runs_table
from srpo_ray.reports.verdict import verdict_cards, with_verdict

_MEANINGS = {
    CONTENT_ACCURACY: "mean accuracy of colours, shapes, background, number and positions, from pixels",
    TRAINED_GAIN: "rise of the reward that the run itself was trained to raise (for its control words, or for the plain"
    " prompt), in standard deviations over the baseline's images",
    OWN_WORDS: "the trained reward of the run's positive control words minus that of the negative ones",
    CALLS: "velocity evaluations of one image by the updates so far, those with gradient counted three times",
    SECONDS: "seconds of the updates so far",
    "image/diversity": "mean difference between images of one prompt; a fall means that all seeds look alike",
    "image/drift": "root mean square change of an image's pixels from the base model's image for the same prompt and"
    " noise; 0 for the base model",
    "evaluator/": "score by a held-out evaluator, a model that no run was trained on; higher is better",
    "reward/": "score by a model that runs were trained on, for the evaluation's images and the plain prompt; a run"
    " with control words is trained on their difference instead",
    "truth/utility/": "utility of a simulated person, or the mean of several: 4 times the content accuracy minus the"
    " distance of the style from what the person likes; measured from pixels, so neither words nor a network enter",
    "truth/": "measured from pixels, exactly, because the images' content is known",
    "votes": "log-odds that people prefer an image of the run to one of the base model, from a Bradley-Terry model of"
    " all votes",
    "time/": "seconds that the evaluation took",
    "image/": "statistic of the pixels; neither good nor bad, but a large move shows a new style or a hack",
}


def experiment_report(results: Results, images: Path | None = None, votes: Sequence[Section] = ()) -> Report:
    """Build the report of an experiment.

    A sweep, one searched method, leads with its runs; a comparison of several leads with means over seeds. Missing
    parts, such as metrics, images, repeats or ablations, leave their section out or are named in it.

    Args:
        results: The results.
        images: Grid of images by all arms for the same prompts and noise, as a PNG file; None without one.
        votes: Sections on the votes of people.
    """
    runs, arms, ablations = runs_table(results), arms_table(results), ablations_table(results)
    if results.is_sweep:
        sections, terminal = _sweep(results, runs, ablations), [runs]
    else:
        sections, terminal = _comparison(results, images, runs, ablations), [arms.without_ablations]
        sections = [comparison.methods_section(results, arms.without_ablations), *sections]
    return Report(
        title=results.title,
        headline=with_verdict(results, headline(results) if results.is_sweep else comparison.headline(results)),
        sections=[
            section
            for section in (*sections, *votes, budget_section(results), _glossary(results), _again(results))
            if section is not None
        ],
        subtitle=f"{results.title} · {results.created}",
        summary=_summary(results),
        files={"runs.csv": runs, "arms.csv": arms.all, "results.json": _values(results)},
        terminal=[*terminal, *([ablations] if _has_paired_ablations(results) else [])],
    )


def _values(results: Results) -> dict[str, Any]:
    """The results as plain values, without scores prompt by prompt, which are in the folders of the runs."""
    values = asdict(results)
    for group in (*values["searches"], *values["arms"]):
        for row in group["rows"]:
            del row["images"]
    return values


def _has_paired_ablations(results: Results) -> bool:
    """True if ablations are compared seed by seed; a sweep's single runs are compared with all seeds of its arm."""
    several = any(len(arm.rows) > 1 for arm in results.ablations)
    return several or bool(results.ablations and not results.is_sweep)


def _summary(results: Results) -> list[Part]:
    best, parts = results.best_row, list[Part]()
    if results.is_sweep and best is not None:
        parts.append(Text(Strong(best.name), f": {best.label}", style="lead"))
    elif results.searches:
        text = (
            "Searched values were chosen by one run each on another seed; then every arm was trained with fresh seeds."
        )
        parts.append(Text(text, style="lead"))
    if shown := [*verdict_cards(results), *(cards(results) if results.is_sweep else [])]:
        parts.append(Cards(shown))
    for notice in (disagreement_notice(results), hacking_notice(results), end_warning(results)):
        if notice is not None:
            parts.append(Alert(notice, warning=True))
    return [*parts, *map(Alert, results.notes)]


def _sweep(results: Results, runs: Table, ablations: Table) -> Sequence[Section | None]:
    paired = _has_paired_ablations(results)
    return [
        sweep.runs_section(results, runs),
        sweep.side_by_side(results),
        front_section(results),
        sweep.pareto(results),
        sweep.curves(results),
        *_parts(results, results.searches[0]),
        *(() if results.searches[0].rounds else [sweep.importance(results)]),
        seeds_section(results),
        comparison.ablations_section(results, ablations) if paired else ablations_section(results),
        equal_gain_section(results),
        *(() if results.searches[0].rounds else [sweep.slices(results)]),
        searches_section(results),
    ]


def _parts(results: Results, search: Search) -> list[Section | None]:
    """Sections on rungs and rounds. The values of a population change, so none of them explains a final score."""
    return [promotion_section(results, search), schedule_section(results, search)]


def _comparison(results: Results, images: Path | None, runs: Table, ablations: Table) -> Sequence[Section | None]:
    return [
        comparison.images_section(images),
        comparison.reward(results),
        regret_section(results),
        comparison.costs(results),
        equal_gain_section(results),
        comparison.ablations_section(results, ablations),
        searches_section(results),
        *(section for search in results.searches for section in _search(results, search)),
        sweep.runs_section(results, runs),
    ]


def _search(results: Results, search: Search) -> list[Section]:
    """Pareto front of one arm's trials, and charts of those that were drawn from a space."""
    found = results.of(search)
    sections = [front_section(found)]
    if search.drawn:
        sections += [sweep.pareto(found), sweep.curves(found), *_parts(found, search)]
        sections += [] if search.rounds else [sweep.importance(found), sweep.slices(found)]
    named = [section for section in sections if section is not None]
    return [
        replace(section, title=f"{search.arm}: {section.title[:1].lower()}{section.title[1:]}") for section in named
    ]


def _glossary(results: Results) -> Section | None:
    meanings: list[tuple[str, str]] = []
    for name in metric_names(results):
        meaning = next((text for start, text in _MEANINGS.items() if name.startswith(start)), "")
        if name.endswith("/relative"):
            meaning = "the same score for the words of evaluation.relative, positive minus negative"
        if name == results.objective:
            meaning = f"what trials are chosen by and arms are compared by: {meaning or 'a held-out score'}"
        meanings.append((name, meaning))
    return Section("What the metrics mean", [Facts(meanings)]) if meanings else None


def _again(results: Results) -> Section:
    facts = Facts([("commit", results.commit or "not a git checkout"), ("hardware", results.hardware)])
    shown = [] if results.is_sweep else [arm for arm in results.methods if arm.changes]
    arms = [Text(Strong(arm.name), f": {settings(arm.changes)}") for arm in shown]
    best = results.best_config_yaml
    config = [Text("Config of the best arm:"), Code(best)] if best else []
    return Section("Run it again", [facts, Code(results.command), *arms, *config])
