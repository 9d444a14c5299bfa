"""Comparison of reuse windows of rollouts, and of images of the base model, at equal updates.

python experiments/rollout_reuse.py            # run the studies, or continue them, then write tables and figure
python experiments/rollout_reuse.py --report   # tables and figure of the runs that are finished

Writes `docs/rollout_reuse.svg` and prints the tables of `docs/rollout_reuse.md`. The first study has the
settings of the default sweep's best trial, the second three times its learning rate, the third a noise for each sample.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev

from matplotlib import pyplot

from srpo_ray.cli import main as run_command
from srpo_ray.config import RunConfig, load_run
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.crossed import mean_over
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.training.base_rollouts import needed_images

STUDIES = ("rollout_reuse", "rollout_reuse_large_lr", "rollout_reuse_own_noise")
FIGURE = Path("docs/rollout_reuse.svg")
HELD_OUT = "evaluator/held_out"
METRICS = {
    HELD_OUT: "held-out",
    "truth/detail": "detail",
    "truth/saturation": "saturation",
    "truth/content_accuracy": "content",
    "image/diversity": "diversity",
    "reward/total/trained": "trained reward",
}
"""Metric of the last evaluation -> title of its column."""
MIDDLE = 2
"""Evaluation in the middle of a run."""
GRADIENT_CALL = 3
"""A call with gradient counts as three: one forward, and a backward of about twice its work."""


@dataclass(frozen=True)
class Run:
    """One finished run."""

    config: RunConfig
    evaluations: Sequence[Mapping[str, float]]
    forward: Sequence[float]
    """Velocity calls without gradient, of one image each, in all updates up to each."""
    gradient: Sequence[float]
    """Velocity calls with gradient, likewise."""
    once: int
    """Velocity calls of the base model before the first update, which other runs share."""

    @property
    def arm(self) -> str:
        """Source of its clean images."""
        rollout = self.config.rollout
        if rollout.source == "base_model":
            return f"base model, {rollout.images_per_prompt} per prompt"
        return f"reuse {rollout.reuse}"

    def calls(self, update: int) -> float:
        """Velocity calls of the first updates, those with gradient three times."""
        return self.forward[update] + GRADIENT_CALL * self.gradient[update]

    @property
    def end(self) -> Mapping[str, float]:
        """Last evaluation."""
        return self.evaluations[-1]


def main() -> None:
    """Run, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only report what is finished")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the studies")
    parsed = parser.parse_args()
    found = {}
    for study in STUDIES:
        if not parsed.report:
            train(study, parsed.runs)
        arms = defaultdict[str, list[Run]](list)
        for run in read_runs(parsed.runs / study):
            arms[run.arm].append(run)
        if not arms:
            print(f"\n{study}: no run is finished")
            continue
        found[study] = dict(sorted(arms.items(), key=lambda item: _place(item[1][0])))
        print(f"\n{study}\n\n{quality_table(found[study])}\n\n{cost_table(found[study])}")
    if found:
        draw(found)
        print(f"\nfigure: {FIGURE}")


def train(study: str, runs: Path) -> None:
    """Run a study, or continue it.

    Raises:
        SystemExit: If it was stopped or failed.
    """
    begun = (runs / study / "experiment.yaml").exists()
    code = run_command(
        ["compare", *(["--resume", str(runs / study)] if begun else [f"configs/experiments/{study}.yaml"])]
    )
    if code:
        raise SystemExit(code)


def read_runs(study: Path) -> list[Run]:
    """The finished runs of a study."""
    folders = [RunFolder(path) for path in sorted((study / "trials").glob("*"))]
    return [_read_run(folder) for folder in folders if folder.finished.exists()]


def _read_run(folder: RunFolder) -> Run:
    config, steps = load_run([folder.config]), read_rows(folder.updates)
    base_model = config.rollout.source == "base_model"
    images = len(needed_images(config, read_texts(config))) if base_model else 0
    return Run(
        config,
        read_rows(folder.evaluations),
        list(accumulate((step["cost/forward"] for step in steps), initial=0.0)),
        list(accumulate((step["cost/forward_backward"] for step in steps), initial=0.0)),
        images * config.rollout.num_steps,
    )


def _place(run: Run) -> tuple[bool, int, int]:
    rollout = run.config.rollout
    return rollout.source == "base_model", rollout.reuse, rollout.images_per_prompt


def quality_table(arms: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: mean and standard deviation over seeds, and the difference of the held-out score from the first arm."""
    first = next(iter(arms.values()))
    titles = ["", f"held-out, {first[0].evaluations[MIDDLE]['update']} updates", "difference", *METRICS.values()]
    base = first[0].evaluations[0]
    lines = [_line(titles), _line(["---"] * len(titles))]
    lines.append(_line(["before training", "", "", *(_digits(base[metric]) for metric in METRICS)]))
    reference = {run.config.seed: run.end[HELD_OUT] for run in first}
    for name, runs in arms.items():
        middle = _spread([run.evaluations[MIDDLE][HELD_OUT] for run in runs])
        pairs = [run.end[HELD_OUT] - reference[run.config.seed] for run in runs if run.config.seed in reference]
        values = [_spread([run.end[metric] for run in runs]) for metric in METRICS]
        lines.append(_line([name, middle, _difference(pairs), *values]))
    return "\n".join(lines)


def cost_table(arms: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: velocity calls of one run, in its updates and once before them, and the number of seeds."""
    titles = ["", "without gradient", "with gradient", "sum, with gradient x 3", "base model, once", "seeds"]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for name, runs in arms.items():
        cost = [run.forward[-1] for run in runs], [run.gradient[-1] for run in runs], [run.calls(-1) for run in runs]
        once = max(run.once for run in runs)
        cells = [*(f"{mean(part):.0f}" for part in cost), str(once or ""), str(len(runs))]
        lines.append(_line([name, *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _digits(value: float) -> str:
    return f"{value:.4f}"


def _spread(values: Sequence[float]) -> str:
    return f"{_digits(mean(values))} ± {stdev(values):.4f}" if len(values) > 1 else _digits(values[0])


def _difference(pairs: Sequence[float]) -> str:
    """Mean and half of its 95% interval (Student's t), over runs of the same seed."""
    if not any(pairs):
        return ""
    over = mean_over([[pair] for pair in pairs])
    return f"{over.mean:+.4f}" + ("" if over.half_width is None else f" ± {over.half_width:.4f}")


def draw(found: Mapping[str, Mapping[str, Sequence[Run]]]) -> None:
    """Held-out score: above against the calls spent, means over seeds; below at the end, each seed a dot."""
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rollout_reuse", "font.size": 9})
    figure, axes = pyplot.subplots(2, len(found), squeeze=False, figsize=(4.75 * len(found), 6.8), layout="constrained")
    for arms, (above, below) in zip(found.values(), axes.T, strict=True):
        colors = {name: _color(name, place / len(arms)) for place, name in enumerate(arms)}
        config = next(iter(arms.values()))[0].config
        noise = {"shared": "one noise", "per_sample": "a noise per sample"}[config.algorithm.model_dump()["noise"]]
        above.set_title(f"learning rate {config.training.optimizer.lr:g}, {noise}")
        for place, (name, runs) in enumerate(arms.items()):
            dashes = "--" if runs[0].once else "-"
            above.plot(*_curve(runs), "o", linestyle=dashes, color=colors[name], markersize=3, label=name)
            ends = [run.end[HELD_OUT] for run in runs]
            below.plot([place] * len(ends), ends, "o", color=colors[name], markersize=4)
            below.plot([place - 0.3, place + 0.3], [mean(ends)] * 2, color=colors[name], linewidth=2)
        above.set_xlabel("velocity calls of the updates, with gradient x 3")
        above.set_ylabel("held-out score")
        above.legend(fontsize=7)
        below.set_ylabel("held-out score at the end, each seed")
        below.set_xticks(range(len(arms)), list(arms), rotation=30, ha="right")
        for axis in (above, below):
            axis.grid(alpha=0.3)
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


def _color(arm: str, place: float) -> tuple[float, float, float, float]:
    """Blue to green for windows, orange and red for the base model."""
    return pyplot.get_cmap("autumn")(place - 0.5) if arm.startswith("base") else pyplot.get_cmap("viridis")(place)


def _curve(runs: Sequence[Run]) -> tuple[list[float], list[float]]:
    """Calls spent and mean score at each evaluation."""
    columns = list(zip(*(run.evaluations for run in runs), strict=True))
    return [runs[0].calls(rows[0]["update"]) for rows in columns], [
        mean(row[HELD_OUT] for row in rows) for rows in columns
    ]


if __name__ == "__main__":
    main()
