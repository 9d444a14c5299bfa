"""Comparison of searchers at equal compute on the small world: short searches, each with several search seeds.

python experiments/search_methods.py            # run or resume the searches, test what they chose, print the table
python experiments/search_methods.py --report   # test and print what is finished
python experiments/search_methods.py --only "TPE" --seeds 0 1

Every search makes the same number of updates in total, but for `random, 24 trials`. The setting that it chooses is
tested on prompts that choose nothing. `TPE, warm start` begins with the results of `random` with the same seed, and
`random, 24 trials` repeats its trials and draws as many more. The searches are under `runs/search_methods`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, mean, stdev
from typing import Any

from srpo_ray.cli import main as srpo_ray
from srpo_ray.config import apply
from srpo_ray.config.base import folder_name
from srpo_ray.data.prompts import load_prompts
from srpo_ray.evaluation.pareto import hypervolume
from srpo_ray.evaluation.results import MEAN_UTILITY
from srpo_ray.files import write_text
from srpo_ray.inference.job import Model, SamplingJob
from srpo_ray.inference.sampler import Sampler
from srpo_ray.models.contrast import BASE, TUNED
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.trained import read_trained

FOLDER = Path(__file__).parents[1] / "configs" / "experiments" / "search_methods"
CONFIG, CONDITIONS = FOLDER / "search.yaml", FOLDER / "conditions.yaml"
SEEDS = (0, 1, 2)
"""Seeds of the searches."""
TEST_PROMPTS = "small_world:test"
HELD_OUT, DIVERSITY, DRIFT = "evaluator/held_out", "image/diversity", "image/drift"
TPE = ("experiment.search.searcher=optuna", "experiment.search.startup_trials=4")
FRONT = f"experiment.objectives={{{HELD_OUT}: max, {DIVERSITY}: max, {DRIFT}: min}}"
RUNGS = "[{updates: 4, keep: 0.5, set: {rollout.source: base_model}}, {updates: 8, keep: 0.5}, {updates: 16}]"


@dataclass(frozen=True)
class Arm:
    """One kind of search."""

    overrides: tuple[str, ...] = ()
    """Changes of the config."""
    config: Path = CONFIG
    earlier: str | None = None
    """Arm whose search with the same seed is the earlier one of a warm start."""


ARMS: Mapping[str, Arm] = {
    "random": Arm(),
    "TPE": Arm((*TPE, "experiment.search.constrained=false")),
    "TPE, limits known": Arm(TPE),
    "TPE, three objectives": Arm((*TPE, FRONT)),
    "promotion": Arm(
        ("experiment.search.num_samples=24", f"experiment.search.scheduler={{type: promotion, rungs: {RUNGS}}}")
    ),
    "population": Arm(("experiment.search.scheduler={type: pbt, perturb_interval: 4}",)),
    "TPE, warm start": Arm(TPE, earlier="random"),
    "random, 24 trials": Arm(("experiment.search.num_samples=24",)),
    "random, conditions": Arm(config=CONDITIONS),
    "TPE, conditions": Arm(TPE, CONDITIONS),
}
"""All kinds. Every one makes the same number of updates in total, but for `random, 24 trials`."""
REFERENCE = {HELD_OUT: 0.0, DIVERSITY: 0.0, DRIFT: 0.3}
"""Worst point of the hypervolume: the base model's held-out score (a gain of 0), no diversity, and a drift of 0.3."""


@dataclass(frozen=True)
class SearchResult:
    """One finished search."""

    updates: int
    """Updates of all trials."""
    trials: int
    breaking: int
    """Trials that ended and broke a limit of the experiment."""
    keeps: bool
    """True if the chosen trial keeps the limits."""
    volume: float
    """Hypervolume that the trials within the limits dominate: held-out gain times diversity times (0.3 - drift)."""
    held_out: float
    """Gain of the chosen weights over the base model in the held-out score, on the test prompts."""
    utility: float
    """Gain in the mean utility of the simulated people who test, on the test prompts."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only report what is finished")
    parser.add_argument("--runs", type=Path, default=Path("runs/search_methods"), help="folder of the searches")
    parser.add_argument("--only", nargs="+", default=list(ARMS), choices=list(ARMS), help="arms (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="seeds of the searches")
    parsed = parser.parse_args(arguments)
    if not parsed.report:
        for seed in parsed.seeds:
            for arm in parsed.only:
                search(parsed.runs, arm, seed)
    found = {arm: [read_search(parsed.runs, arm, seed) for seed in parsed.seeds] for arm in parsed.only}
    print(table({arm: [each for each in searches if each] for arm, searches in found.items()}))


def folder_of(root: Path, arm: str, seed: int) -> Path:
    """Folder of a search."""
    return root / f"{folder_name(arm)}_{seed}"


def search(root: Path, arm: str, seed: int) -> None:
    """Run a search, or resume it; a finished one is not repeated.

    Raises:
        SystemExit: If it fails.
    """
    folder = folder_of(root, arm, seed)
    if (folder / "results.json").exists():
        return
    method = ARMS[arm]
    own = [f"run_root={root}", f"experiment.name={folder.name}", f"experiment.search.seed={seed}"]
    if method.earlier:
        search(root, method.earlier, seed)
        own.append(f"experiment.search.points_from=[{folder_of(root, method.earlier, seed)}]")
    start = [str(method.config), *own, *method.overrides]
    if code := srpo_ray(["sweep", *(["--resume", str(folder)] if (folder / "experiment.yaml").exists() else start)]):
        raise SystemExit(code)


def read_search(root: Path, arm: str, seed: int) -> SearchResult | None:
    """Results of a search, with a test of its chosen weights that is made once; None if it has not finished."""
    folder = folder_of(root, arm, seed)
    results = folder / "results.json"
    if not results.exists():
        return None
    (found,) = json.loads(results.read_text())["searches"]
    chosen = RunFolder(folder / "trials" / found["chosen"])
    held_out, utility = tested(folder, chosen)
    return SearchResult(
        updates=updates_made(folder, found),
        trials=len(found["rows"]),
        breaking=len(found["breaking"]),
        keeps=found["chosen"] not in found["breaking"],
        volume=volume([row for row in found["rows"] if row["name"] not in found["breaking"]]),
        held_out=held_out,
        utility=utility,
    )


def updates_made(folder: Path, found: Mapping[str, Any]) -> int:
    """Updates of all trials of a search, without those that a part of a trial took over from the part before it.

    Args:
        folder: Folder of the search.
        found: The search in `results.json`.
    """
    if rungs := found.get("rungs"):
        return sum(rung["made"] for rung in rungs)
    if rounds := found.get("rounds"):
        ends = [0, *(each["updates"] for each in rounds)]
        return sum(
            (end - start) * len(each["members"]) for (start, end), each in zip(pairwise(ends), rounds, strict=True)
        )
    return sum(len(read_rows(file)) for file in sorted(folder.glob("trials/*/updates.jsonl")))


def volume(rows: Sequence[Mapping[str, Any]]) -> float:
    """Hypervolume that trials dominate, over `REFERENCE`.

    Args:
        rows: Trials of `results.json`, with their evaluations in `history`.
    """
    ends = [(row["history"][0], row["history"][-1]) for row in rows if row["status"] == "finished"]
    points = [(end[HELD_OUT] - start[HELD_OUT], end[DIVERSITY], -end[DRIFT]) for start, end in ends]
    return hypervolume(points, (REFERENCE[HELD_OUT], REFERENCE[DIVERSITY], -REFERENCE[DRIFT]))


def tested(folder: Path, chosen: RunFolder) -> tuple[float, float]:
    """Gains of a trial's weights over the base model in the held-out score and in the utility, on the test prompts."""
    file = folder / "tested.json"
    if not file.exists():
        run = read_trained(chosen.path)
        config = apply(run.config, {"evaluation.samples_per_prompt": 1})
        models = (Model("base", run, BASE), Model("tuned", run, TUNED))
        prompts = tuple(load_prompts(TEST_PROMPTS))
        job = SamplingJob(config, models, prompts, folder / "tested", scored=True, truth=True)
        sampler = Sampler(job)
        rows = [row for chunk in job.chunks for row in sampler.draw(chunk)]
        write_text(file, json.dumps([_gain(rows, metric) for metric in (HELD_OUT, MEAN_UTILITY)]))
    held_out, utility = json.loads(file.read_text())
    return held_out, utility


def _gain(rows: Sequence[Mapping[str, Any]], metric: str) -> float:
    base, tuned = (fmean(row[metric] for row in rows if row["model"] == model) for model in ("base", "tuned"))
    return tuned - base


def table(arms: Mapping[str, Sequence[SearchResult]]) -> str:
    """Markdown: mean and standard deviation over the search seeds, one row per arm with a finished search."""
    titles = ["", "searches", "updates", "held-out, test", "utility, test", "trials that break a limit", "hypervolume"]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for arm, found in arms.items():
        if found:
            values = [asdict(each) for each in found]
            cells = [_spread([each[name] for each in values]) for name in ("held_out", "utility")]
            broken = f"{mean(each.breaking for each in found):.1f} of {mean(each.trials for each in found):.0f}"
            updates = f"{mean(each.updates for each in found):.0f}"
            size = _spread([1000 * each.volume for each in found])
            lines.append(_line([arm, str(len(found)), updates, *cells, broken, size]))
    return "\n".join([*lines, "", "Hypervolume in thousandths: held-out gain x diversity x (0.3 - drift)."])


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):+.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:+.4f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
