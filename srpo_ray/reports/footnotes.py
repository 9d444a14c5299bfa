"""Sentences under tables: what an interval counts, which prompts were scored, and how many tests were made."""

from collections.abc import Iterable

from srpo_ray.evaluation.comparison import Gap, num_tests
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.results import Results


def interval_note(estimates: Iterable[Estimate | None]) -> str:
    """Explain ± in a table: sources of variation that the table's intervals count."""
    counted = {each.counted for each in estimates if each is not None}
    parts = []
    if "seeds and prompts" in counted:
        parts.append("it counts training seeds and prompts together, as crossed random effects")
    if "seeds only" in counted:
        parts.append("where runs have no scores by prompt, it counts training seeds only")
    if "prompts only" in counted:
        parts.append("for a single seed it counts prompts only, and how far another seed moves the number is unknown")
    if not parts:
        return "There is no interval: one run without scores by prompt."
    return f"± is half of the 95% interval of the mean: {'; '.join(parts)}."


def prompts_note(results: Results) -> str:
    """Name the prompts of the arms' scores; empty if runs have no scores by prompt."""
    images = [row.images for arm in results.arms for row in arm.ended if row.images is not None]
    panels = sorted({(each.source, each.num_prompts) for each in images})
    if len(panels) != 1:
        return ""
    ((source, count),) = panels
    about = "chose no setting" if source == "test" else "also chose the settings"
    return f"Scores are on {count} {source} prompts, which {about}."


def tests_note(gaps: Iterable[Gap]) -> str:
    """Count the tests of a table, and explain its marks."""
    count = num_tests(gaps)
    if not count:
        return "No difference is tested, because a single run of each arm does not show how far seeds alone move it."
    tests = "1 test" if count == 1 else f"{count} tests"
    return (
        f"The table makes {tests}: bold where the difference is not zero after Holm's correction for all of them, which"
        " keeps the chance of any false one at 5%, gray where it may be zero."
    )
