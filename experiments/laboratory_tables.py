"""Tables of the laboratory: a table to choose a method from, tests of the claims, and the searched learning rates.

python experiments/laboratory_tables.py runs    # tables of docs/laboratory.md; runs of experiments/laboratory.py
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from laboratory_cells import METHOD, gap_texts, head, method_cells, rates_table, row, text
from laboratory_claims import DIVERSITY, METRICS, cost_tests, pair_tests
from laboratory_preferences import print_preferences
from laboratory_results import PREFERENCES, SMALL_WORLD, begun, bright_share, cost_of, read_together
from study_results import CONTENT, DETAIL, HELD_OUT, MEAN, SATURATION, at_equal_gain, read_results

from srpo_ray.config.base import folder_name
from srpo_ray.evaluation.comparison import gain, tested_together
from srpo_ray.evaluation.costs import common_targets
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.results import CALLS, Results
from srpo_ray.reports.cost_tables import passage_text

CHOICE = {HELD_OUT: "held-out", MEAN: "mean utility", DETAIL: "detail", CONTENT: "content", DIVERSITY: "diversity"}
REWARD, REWARD_GAINS = "reward/total", (0.005, 0.015)
"""Trained reward of the built-to-hack config, and the gains of it at which side effects are compared."""
SIDES = {HELD_OUT: "held-out", SATURATION: "saturation", DETAIL: "detail", CONTENT: "content", MEAN: "mean utility"}


def choice_table(results: Results, folders: Sequence[Path]) -> Iterator[str]:
    """Make rows in Markdown: gains, costs and needs of every method, the highest gain of the held-out score first."""
    targets = common_targets(results)[1:3]
    costs = [f"cost to {target:.4f}" for target in targets]
    yield from head([*CHOICE.values(), *costs, *METHOD])
    arms = [arm for arm in results.arms if arm.ended]
    found = {(arm.name, metric): gain(results, arm.ended, metric) for arm in arms for metric in CHOICE}
    cells = tested_together({key: estimate for key, estimate in found.items() if estimate is not None})
    for arm in sorted(arms, key=lambda arm: -_mean(found[arm.name, HELD_OUT])):
        costs = [passage_text(cost_of(results, arm.name, target)) for target in targets]
        yield row(arm.name, [*gap_texts(cells, arm.name, CHOICE), *costs, *method_cells(folders, arm)])


def _mean(estimate: Estimate | None) -> float:
    return float("-inf") if estimate is None else estimate.mean


def pairs_table(results: Results) -> Iterator[str]:
    """Make rows in Markdown: differences of the arms of each claim, bold after Holm's correction over the table."""
    yield from head(METRICS.values())
    tests = list(pair_tests(results))
    found = {(test.question, metric): each for test in tests for metric, each in test.differences.items() if each}
    cells = tested_together(found)
    for test in tests:
        yield row(test.question, gap_texts(cells, test.question, METRICS))


def costs_table(results: Results) -> Iterator[str]:
    """Make rows in Markdown: evaluations until one arm has the other's final score, and what the other spent."""
    yield from head(["score", "evaluations", "the other spent"])
    for test in cost_tests(results):
        yield f"| {test.question} | {test.target:.4f} | {passage_text(test.passage)} | {test.spent:.0f} |"


def ends_table(results: Results) -> Iterator[str]:
    """Make rows in Markdown: changes of each arm at its end."""
    columns = {REWARD: "trained reward", **SIDES}
    yield from head([*columns.values(), "evaluations"])
    for arm in results.arms:
        found = [gain(results, arm.ended, metric) for metric in columns]
        spent = arm.over_seeds(CALLS)
        texts = ["-" if each is None else text(each) for each in found]
        yield f"| {arm.name} | " + " | ".join([*texts, "-" if spent is None else f"{spent.mean:.0f}"]) + " |"


def equal_reward_table(results: Results, amount: float) -> Iterator[str]:
    """Make rows in Markdown: side effects at an equal gain of the trained reward."""
    yield from head(SIDES.values())
    for arm in results.arms:
        found = [at_equal_gain(results, arm.name, None, REWARD, amount, effect) for effect in SIDES]
        yield f"| {arm.name} | " + " | ".join("not reached" if each is None else text(each) for each in found) + " |"


def shares_table(results: Results, folder: Path) -> Iterator[str]:
    """Make rows in Markdown: true share of bright images before and after training on a target share."""
    yield from head(["before", "after"])
    for arm in results.arms:
        shares = bright_share(folder, folder_name(arm.name), [row.seed for row in arm.ended])
        yield f"| {arm.name} | " + " | ".join(text(share).lstrip("+") for share in shares) + " |"


def print_small_world(folders: Sequence[Path]) -> None:
    """Print the tables of the experiments that share their evaluation."""
    results = read_together(folders)
    print("\n## Methods\n", *choice_table(results, folders), sep="\n")
    print("\n## Claims: differences\n", *pairs_table(results), sep="\n")
    print("\n## Claims: costs\n", *costs_table(results), sep="\n")
    print("\n## Learning rates\n", *(line for folder in folders for line in rates_table(folder)), sep="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of what is finished."""
    parser = argparse.ArgumentParser(description="Print the tables of the laboratory.")
    parser.add_argument("runs", type=Path, help="folder of the runs, run_root of the config")
    parsed = parser.parse_args(arguments)
    folders = begun(parsed.runs)
    if not folders:
        parser.error(f"expected runs of experiments/laboratory.py in {parsed.runs}, got none; run it first")
    if together := [folder for name, folder in folders.items() if name in SMALL_WORLD]:
        print_small_world(together)
    for name in PREFERENCES:
        if name in folders:
            print_preferences(name, folders[name])
    for name in ("hacking", "common_text"):
        if name in folders:
            results = read_results(folders[name])
            print(f"\n## {name}: at the end\n", *ends_table(results), sep="\n")
            for amount in REWARD_GAINS:
                rows = equal_reward_table(results, amount)
                print(f"\n## {name}: at trained reward +{amount}\n", *rows, sep="\n")
    if "distribution" in folders:
        folder = folders["distribution"]
        print("\n## distribution\n", *shares_table(read_results(folder), folder), sep="\n")


if __name__ == "__main__":
    main()
