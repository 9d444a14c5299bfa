"""Tables of the laboratory's experiments on preferences."""

from collections.abc import Iterator
from pathlib import Path

from laboratory_cells import METHOD, OBJECTIVES, SHAPES, gap_texts, head, method_cells, rates_table, row
from laboratory_claims import DIVERSITY
from laboratory_results import displacement
from study_results import CONTENT, DETAIL, HELD_OUT, MEAN, PEOPLE, SATURATION, read_results

from srpo_ray.config.base import folder_name
from srpo_ray.evaluation.comparison import gain, gap_table, tested_together
from srpo_ray.evaluation.numbers import param_text
from srpo_ray.evaluation.results import Results
from srpo_ray.search.folder import load_experiment_folder

EFFECTS = {
    HELD_OUT: "held-out",
    f"{PEOPLE}vivid": "vivid person",
    MEAN: "mean utility",
    SATURATION: "saturation",
    DETAIL: "detail",
    CONTENT: "content",
    DIVERSITY: "diversity",
}


def print_preferences(name: str, folder: Path) -> None:
    """Print the tables of an experiment on preferences."""
    results = read_results(folder)
    tables = {
        "at the end": effects_table(results, folder),
        f"against {results.reference}": differences_table(results),
        "learning rates": rates_table(folder),
        "preferred images": displacement_table(folder),
    }
    for title, (first, line, *rows) in tables.items():
        if rows:
            print(f"\n## {name}: {title}\n", first, line, *rows, sep="\n")


def effects_table(results: Results, folder: Path) -> Iterator[str]:
    """Make rows in Markdown: gains of every arm at its end, bold after Holm's correction over the table, and needs."""
    effects = effects_of(results)
    yield from head([*effects.values(), *METHOD])
    arms = [arm for arm in results.arms if arm.ended]
    found = {(arm.name, metric): gain(results, arm.ended, metric) for arm in arms for metric in effects}
    cells = tested_together({key: estimate for key, estimate in found.items() if estimate is not None})
    for arm in arms:
        yield row(arm.name, [*gap_texts(cells, arm.name, effects), *method_cells([folder], arm)])


def differences_table(results: Results) -> Iterator[str]:
    """Make rows in Markdown: differences from the reference arm, bold after Holm's correction over the table.

    There are no rows before a run of the reference arm has finished.
    """
    effects = effects_of(results)
    yield from head(effects.values())
    arms = [arm for arm in results.arms if arm.ended]
    if results.reference in [arm.name for arm in arms]:
        cells = gap_table(results, arms, list(effects))
        for arm in arms:
            if arm.name != results.reference:
                yield row(arm.name, gap_texts(cells, arm.name, effects))


def effects_of(results: Results) -> dict[str, str]:
    """Metric -> title of a table's columns: the accuracy of shapes is shown where it chooses the rates."""
    return ({SHAPES: OBJECTIVES[SHAPES]} if results.objective == SHAPES else {}) | EFFECTS


def displacement_table(folder: Path) -> Iterator[str]:
    """Make rows in Markdown: gain of preferred images and accuracy of the margin at every learning rate."""
    config, _ = load_experiment_folder(folder)
    yield from head(["rate: gain of preferred images (accuracy)"])
    for arm in config.arms:
        if found := list(displacement(folder, folder_name(arm.name))):
            cells = [f"{param_text(rate)}: {preferred:+.4f} ({right:.2f})" for rate, preferred, right in found]
            yield row(arm.name, [", ".join(cells)])
