"""Tables of the study of methods and words: gains of every arm, side effects at equal gain, tests of the claims.

python experiments/study_tables.py runs           # tables of docs/paper.md, from the runs of experiments/study.py
python experiments/study_tables.py runs --quick   # the tests, from the runs of experiments/study.py --quick
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from study_claims import claim_tests
from study_results import (
    CHOOSERS,
    COLUMNS,
    CONTENT,
    EQUAL_GAINS,
    HELD_OUT,
    KINDS,
    PEOPLE,
    STUDIES,
    at_equal_gain,
    gain_at_best_stop,
    read_results,
    run_folder,
    trial_folder,
)

from srpo_ray.evaluation.comparison import gain, tested_together
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.numbers import gain_text, param_text
from srpo_ray.evaluation.results import Results
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.search.folder import load_experiment_folder

RATE = "training.optimizer.lr"
QUICK = "quick_"
"""Beginning of the names of the experiments of study.py --quick."""


def gains_table(results: Results) -> Iterator[str]:
    """Make rows in Markdown: gains of each arm over the baseline, bold where Holm's test over the table finds one."""
    yield from _head(COLUMNS.values())
    found = {
        (arm.name, metric): estimate
        for arm in results.arms
        for metric in COLUMNS
        if (estimate := gain(results, arm.ended, metric)) is not None
    }
    cells = tested_together(found)
    for arm in results.arms:
        gaps = [cells.get((arm.name, metric)) for metric in COLUMNS]
        texts = ["-" if gap is None else _text(gap.estimate, gap.significant) for gap in gaps]
        yield f"| {arm.name} | " + " | ".join(texts) + " |"


def search_table(folder: Path) -> Iterator[str]:
    """Make rows in Markdown: changes of the held-out score and of the validation people's mean utility in every trial.

    A cell is "held-out / mean utility", and the change of content accuracy where it forbids to choose the trial.
    """
    config, _ = load_experiment_folder(folder)
    limit = config.max_fall.get(CONTENT, math.inf)
    searched = [arm for arm in config.arms if arm.grid]
    most = max(len(arm.grid[RATE]) for arm in searched)
    yield from _head(["learning rates", *(f"trial {number}" for number in range(1, most + 1))])
    for arm in searched:
        rates = ", ".join(map(param_text, arm.grid[RATE]))
        cells = [_trial(trial_folder(folder, arm.name, index), limit) for index in range(len(arm.grid[RATE]))]
        yield f"| {arm.name} | {rates} | " + " | ".join(cells) + " |"


def _trial(run: RunFolder, limit: float) -> str:
    if not run.finished.exists():
        return "-"
    rows = read_rows(run.evaluations)
    held_out, utility, content = (rows[-1][name] - rows[0][name] for name in (HELD_OUT, f"{CHOOSERS}mean", CONTENT))
    fall = f", content {content:+.3f}" if content < -limit else ""
    return f"{held_out:+.3f} / {utility:+.2f}{fall}"


def best_stop_table(results: Results, folder: Path) -> Iterator[str]:
    """Make rows in Markdown: gains of each test person if a validation person of the same kind chooses the update.

    The last column is the mean of the test people, where the mean of the validation people chooses.
    """
    kinds = (*KINDS, "mean")
    yield from _head([*(f"{kind} person" for kind in KINDS), "mean of four"])
    found = {
        (arm.name, kind): estimate
        for arm in results.arms
        for kind in kinds
        if (estimate := gain_at_best_stop([run_folder(folder, arm.name, row.seed) for row in arm.ended], kind))
    }
    cells = tested_together(found)
    for arm in results.arms:
        gaps = [cells.get((arm.name, kind)) for kind in kinds]
        texts = ["-" if gap is None else _text(gap.estimate, gap.significant) for gap in gaps]
        yield f"| {arm.name} | " + " | ".join(texts) + " |"


def equal_gain_table(results: Results, metric: str, amount: float) -> Iterator[str]:
    """Make rows in Markdown: changes of other metrics at an equal gain of one, of the arms whose runs all reach it."""
    effects = [name for name in COLUMNS if name != metric and not name.startswith(PEOPLE)]
    yield from _head(COLUMNS[name] for name in effects)
    for arm in results.arms:
        found = [at_equal_gain(results, arm.name, None, metric, amount, effect) for effect in effects]
        texts = ["not reached" if each is None else _text(each) for each in found]
        yield f"| {arm.name} | " + " | ".join(texts) + " |"


def _head(titles: Iterable[str]) -> Iterator[str]:
    columns = ["", *titles]
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)


def _text(estimate: Estimate, bold: bool = False) -> str:
    """Text of a change with three decimals: `+0.053 ± 0.004`."""
    half = "" if estimate.half_width is None else f" ± {estimate.half_width:.3f}"
    text = f"{estimate.mean:+.3f}{half}"
    return f"**{text}**" if bold else text


def print_study(name: str, results: Results, folder: Path) -> None:
    """Print the tables of one comparison."""
    print(f"\n## {name}: gains\n", *gains_table(results), sep="\n")
    if name in EQUAL_GAINS:
        metric, amount = EQUAL_GAINS[name]
        print(f"\n## {name}: at {COLUMNS[metric]} +{amount}\n", *equal_gain_table(results, metric, amount), sep="\n")
    if name == "paper_table":
        print(f"\n## {name}: trials\n", *search_table(folder), sep="\n")
    if name != "bias":
        print(f"\n## {name}: best stop for each person\n", *best_stop_table(results, folder), sep="\n")


def print_tests(studies: Mapping[str, Results]) -> None:
    """Print the tests of the claims."""
    print("\n## Tests\n", *_head(["test", "difference", "sign"]), sep="\n")
    for test in claim_tests(studies):
        print(f"| {test.study} | {test.question} | {gain_text(test.estimate)} | {test.sign} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the comparisons in a folder and print their tables."""
    parser = argparse.ArgumentParser(description="Print the tables of the study of methods and words.")
    parser.add_argument("runs", type=Path, help="folder of the runs, run_root of the config")
    parser.add_argument("--quick", action="store_true", help="print the tests of the runs of study.py --quick")
    parsed = parser.parse_args(arguments)
    folders = {name: parsed.runs / f"{QUICK if parsed.quick else ''}{name}" for name in STUDIES}
    folders = {name: folder for name, folder in folders.items() if (folder / "experiment.yaml").exists()}
    if not folders:
        parser.error(f"expected runs of experiments/study.py in {parsed.runs}, got none; run it first")
    studies = {name: read_results(folder) for name, folder in folders.items()}
    if not parsed.quick:
        for name, results in studies.items():
            print_study(name, results, folders[name])
    print_tests(studies)


if __name__ == "__main__":
    main()
