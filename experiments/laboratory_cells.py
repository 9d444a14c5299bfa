"""Cells that the laboratory's tables share: estimates, learning rates, and what a method asks for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from laboratory_memory import planned_peak
from laboratory_results import PREFIX, rates
from study_results import CHOOSERS, CONTENT, HELD_OUT

from srpo_ray.config.base import folder_name
from srpo_ray.config.load import load_run
from srpo_ray.config.run import RunConfig
from srpo_ray.evaluation.comparison import Gap
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.numbers import param_text
from srpo_ray.evaluation.results import Arm
from srpo_ray.search.folder import load_experiment_folder

SHAPES = "truth/shape_accuracy"
OBJECTIVES = {
    HELD_OUT: "held-out",
    f"{CHOOSERS}vivid": "vivid person",
    f"{CHOOSERS}mean": "mean utility",
    SHAPES: "shapes",
}
"""Metric by which an experiment chooses learning rates -> title."""
METHOD = ("rate", "GiB, FLUX.1-dev", "needs")
"""Titles of `method_cells`."""


def method_cells(folders: Sequence[Path], arm: Arm) -> list[str]:
    """Make the cells of an arm's learning rate, planned memory and needs.

    Args:
        folders: Folders of experiments, of which one has the arm.
        arm: The arm.
    """
    folder, config = _run_of(folders, arm)
    memory = planned_peak(folder.name.removeprefix(PREFIX), arm.name)
    return [param_text(config.training.optimizer.lr), f"{memory:.1f}", needs(config)]


def needs(config: RunConfig) -> str:
    """State what a method asks for: rewards or judged images, groups of images, copies of the weights, real images."""
    algorithm = config.algorithm
    group = getattr(algorithm, "group_size", None)
    reward = algorithm.inputs.reward
    found = [reward] if reward != "none" else [str(algorithm.judged)] if algorithm.judged else []
    found += [f"groups of {group}"] if group else []
    found += [f"{role} weights" for role in sorted(algorithm.roles)]
    found += ["real images"] if config.data.images else []
    return ", ".join(found)


def _run_of(folders: Sequence[Path], arm: Arm) -> tuple[Path, RunConfig]:
    """Folder of the experiment of an arm, and the config of its first run."""
    files = {folder: folder / "trials" / arm.rows[0].name / "config.yaml" for folder in folders}
    return next((folder, load_run([file])) for folder, file in files.items() if file.exists())


def rates_table(folder: Path) -> Iterator[str]:
    """Make rows in Markdown: change of the objective at every learning rate of each search."""
    config, _ = load_experiment_folder(folder)
    limit = config.max_fall.get(CONTENT, float("inf"))
    yield from head([f"rate: {OBJECTIVES[config.objective]}"])
    for arm in config.arms:
        if arm.grid:
            cells = [
                f"{param_text(rate)}: {change:+.3f}" + (f" (content {content:+.3f})" if content < -limit else "")
                for rate, change, content in rates(folder, folder_name(arm.name), config.objective)
            ]
            yield f"| {arm.name} | " + ", ".join(cells) + " |"


def head(titles: Iterable[str]) -> Iterator[str]:
    """Make the first two lines of a table in Markdown, with an empty title for its first column."""
    columns = ["", *titles]
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)


def row(title: str, cells: Iterable[str]) -> str:
    """Make a row of a table in Markdown."""
    return f"| {title} | " + " | ".join(cells) + " |"


def gap_texts(cells: Mapping[tuple[str, str], Gap], name: str, metrics: Iterable[str]) -> list[str]:
    """Make the cells of an arm: the change of each metric, bold if it is significant, or `-` without one."""
    gaps = [cells.get((name, metric)) for metric in metrics]
    return ["-" if gap is None else text(gap.estimate, gap.significant) for gap in gaps]


def text(estimate: Estimate, bold: bool = False) -> str:
    """Text of a change with three decimals: `+0.053 ± 0.004`."""
    half = "" if estimate.half_width is None else f" ± {estimate.half_width:.3f}"
    found = f"{estimate.mean:+.3f}{half}"
    return f"**{found}**" if bold else found
