"""The result of a sweep in a sentence, a few numbers and, where it applies, a warning."""

from srpo_ray.evaluation.comparison import gain, level
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.numbers import deviations, gain_text, number, signed
from srpo_ray.evaluation.ranking import flagged
from srpo_ray.evaluation.results import CONTENT_ACCURACY, TRAINED_GAIN, Results
from srpo_ray.reports.report import Card

_MOST_EXAMPLES = 4


def repeated(sweep: Results, metric: str) -> Estimate | None:
    """Gain of a metric over the baseline in the runs of the searched arm with fresh seeds; None without any.

    The chosen trial itself is left out: it was chosen for its value, so its own seed was a lucky one.
    """
    return gain(sweep, sweep.arm(sweep.reference).ended, metric)


def headline(sweep: Results) -> str:
    """The winner and its gain over the baseline, in one sentence."""
    best = sweep.best_row
    if best is None or best.value(sweep.objective) is None:
        return f"No trial finished with a value of {sweep.objective}."
    again = repeated(sweep, sweep.objective)
    if again is not None:
        seeds = f"{again.num_seeds} fresh seed{'s' if again.num_seeds > 1 else ''}"
        return f"{best.name} won. With {seeds} it moves {sweep.objective} by {gain_text(again)} from the baseline."
    improvement, value = sweep.improvement(best), number(best.value(sweep.objective))
    if improvement is None:
        return f"{best.name} won with {sweep.objective} {value}; there is no baseline to compare with."
    if improvement <= 0:
        worse = number(-improvement)
        return f"No trial beat the baseline. The closest was {best.name}, {worse} worse."
    return (
        f"{best.name} won: {number(improvement)} better than the baseline on {sweep.objective}, by the run that was"
        " chosen for it."
    )


def cards(sweep: Results) -> list[Card]:
    """The numbers to show first."""
    found = [_metric_card(sweep, sweep.objective, "Held-out score")]
    repeats = sweep.arm(sweep.reference).ended
    seeds, again = level(repeats, sweep.objective), repeated(sweep, sweep.objective)
    if seeds is not None:
        change = "" if again is None else f" ({gain_text(again)})"
        note = f"mean of {seeds.num_seeds} fresh seed{'s' if seeds.num_seeds > 1 else ''}{change}"
        tested = any(row.images is not None and row.images.source == "test" for row in repeats)
        found.append(Card("The same, test prompts" if tested else "The same, other seeds", number(seeds.mean), note))
    found.append(_metric_card(sweep, CONTENT_ACCURACY, "Content accuracy"))
    found.append(_reward_card(sweep))
    return [card for card in found if card is not None]


def _metric_card(sweep: Results, metric: str, title: str) -> Card | None:
    best = sweep.best_row
    if best is None or best.value(metric) is None:
        return None
    value, change = best.value(metric), sweep.change(best, metric)
    note = metric if value is None or change is None else f"baseline {number(value - change)} ({signed(change)})"
    return Card(title, number(best.value(metric)), note)


def _reward_card(sweep: Results) -> Card | None:
    """The reward that the best trial itself was trained on."""
    best = sweep.best_row
    if best is None or sweep.reward != TRAINED_GAIN or best.value(TRAINED_GAIN) is None:
        return _metric_card(sweep, sweep.reward, f"Trained reward, {sweep.reward}")
    note = "rise over the baseline, in standard deviations over its images"
    return Card("Trained reward", f"{deviations(best.value(TRAINED_GAIN))} sd", note)


def hacking_notice(sweep: Results) -> str | None:
    """A plain warning that names the runs, or None where no reward hacking was detected."""
    rows = flagged(sweep)
    if not rows:
        return None
    examples = []
    for row in rows[:_MOST_EXAMPLES]:
        metrics = ", ".join(dict.fromkeys(sign.metric for sign in row.signs))
        examples.append(f"{row.name} (from update {row.signs[0].update}: {metrics})")
    more = f" and {len(rows) - _MOST_EXAMPLES} more" if len(rows) > _MOST_EXAMPLES else ""
    runs = "one run" if len(rows) == 1 else f"{len(rows)} runs"
    return (
        f"Reward hacking detected in {runs}: {', '.join(examples)}{more}. Such a run may have learned to please its"
        " reward model and not to make better images; the evidence stands below the table."
    )
