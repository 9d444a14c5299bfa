"""Comparison of cheaper rollouts at equal updates and at equal compute, in one process.

python experiments/rollout_cost.py            # train what is not finished yet, then print the tables
python experiments/rollout_cost.py --adapters # the same for adapters, whose rollouts use 8-bit copies
python experiments/rollout_cost.py --report   # tables of the runs that are finished

Prints the tables of `docs/rollout_cost.md`. Every run is evaluated after as many updates as the reference makes, and
again when it has spent the reference's velocity calls.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from torch import distributed as dist

from srpo_ray.config import RunConfig, load_run
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.crossed import mean_over
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.base_rollouts import needed_images
from srpo_ray.training.engine import restore_linear
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer

UPDATES, BUDGET = 40, 5760
"""Updates of the reference, and its velocity calls of one image."""
SEEDS = (1, 2, 3)
GRADIENT_CALL = 3
"""A call with gradient counts as three: one forward, and a backward of about twice its work."""


@dataclass(frozen=True)
class Study:
    """Arms that share a config. The first one is their reference."""

    config: Path
    settings: tuple[str, ...]
    """Settings of all arms."""
    arms: Mapping[str, tuple[str, ...]]
    """Name of an arm -> its own settings."""

    @property
    def reference(self) -> str:
        """Name of the reference."""
        return next(iter(self.arms))


ALL_WEIGHTS_ARMS: dict[str, tuple[str, ...]] = {
    "12 steps": (),
    "6 steps": ("rollout.num_steps=6",),
    "4 steps": ("rollout.num_steps=4",),
    "2 steps": ("rollout.num_steps=2",),
    "cache 0.15": ("rollout.cache_threshold=0.15",),
    "cache 0.3": ("rollout.cache_threshold=0.3",),
    "reuse 4": ("rollout.reuse=4",),
    "base model": ("rollout.source=base_model",),
}
ALL_WEIGHTS = Study(
    Path("configs/small_world.yaml"),
    (
        "algorithm.noise=per_sample",
        "training.optimizer.lr=5e-6",
        "training.num_threads=1",
        f"training.num_updates={BUDGET // 24}",
    ),
    ALL_WEIGHTS_ARMS,
)
"""SRPO with *detailed* against *flat*, at a rate of `paper_table.yaml` that keeps content. Its updates are enough for
any arm to spend the budget."""
ADAPTERS = Study(
    Path("configs/small_world_lora.yaml"),
    ("algorithm.noise=per_sample", "training.num_threads=1", f"training.num_updates={UPDATES}"),
    {"adapters": (), "int8": ("rollout.base=int8",), "fp8": ("rollout.base=fp8",)},
)
"""Adapters at the rate of their config. All arms make the same calls, so the two budgets are one."""
METRICS = {
    "evaluator/held_out": "held-out",
    "truth/detail": "detail",
    "truth/saturation": "saturation",
    "truth/content_accuracy": "content",
    "image/diversity": "diversity",
    "reward/total/trained": "trained reward",
}
"""Metric of an evaluation -> title of its column."""
HELD_OUT = "evaluator/held_out"


@dataclass(frozen=True)
class Run:
    """One finished run."""

    arm: str
    seed: int
    base: dict[str, float]
    """Evaluation before training."""
    at_updates: dict[str, float]
    """Evaluation after the updates of the reference."""
    at_budget: dict[str, float]
    """Evaluation when the calls of the reference are spent."""
    updates: int
    """Updates within that budget."""
    forward: float
    """Velocity calls without gradient in the reference's number of updates; a cached call counts by its blocks."""
    gradient: float
    """Velocity calls with gradient in them."""
    once: int
    """Velocity calls of the base model before the first update."""

    @property
    def calls(self) -> float:
        """Velocity calls of the reference's number of updates, those with gradient three times."""
        return self.once + self.forward + GRADIENT_CALL * self.gradient


def main() -> None:
    """Run, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only report what is finished")
    parser.add_argument("--adapters", action="store_true", help="train adapters, whose rollouts use 8-bit copies")
    parser.add_argument("--runs", type=Path, default=Path("runs/rollout_cost"), help="folder of the study")
    parsed = parser.parse_args()
    study = ADAPTERS if parsed.adapters else ALL_WEIGHTS
    if not parsed.report:
        train(study, parsed.runs)
    arms = read_runs(study, parsed.runs)
    print(f"Equal updates\n\n{quality_table(arms, study.reference, 'at_updates')}")
    if not parsed.adapters:
        print(f"\nEqual compute\n\n{quality_table(arms, study.reference, 'at_budget')}")
    print(f"\nCost\n\n{cost_table(arms)}")


def train(study: Study, root: Path) -> None:
    """Train the runs that are not finished, seed by seed."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    (root / "finished").mkdir(parents=True, exist_ok=True)
    rewards = None
    for seed in SEEDS:
        for arm in study.arms:
            result = result_file(root, arm, seed)
            if result.exists():
                continue
            config = config_of(study, root, arm, seed)
            held_out, factors = config.evaluation.held_out, config.rewards.factors
            rewards = rewards or LocalRewards.load(config.rewards.models, held_out, factors=factors)
            restore_linear()
            folder = RunFolder(Path(config.run_root) / config.name)
            folder.make()
            run = train_one(arm, config, build_trainer(config, folder, rewards, "cpu", None))
            result.write_text(json.dumps(asdict(run)))
            print(f"{config.name}: {run.at_updates[HELD_OUT]:.4f}, {run.at_budget[HELD_OUT]:.4f}", flush=True)


def config_of(study: Study, root: Path, arm: str, seed: int) -> RunConfig:
    """Config of one run."""
    name = f"{arm}-{seed}".replace(" ", "_")
    own = (f"run_root={root}", f"name={name}", f"seed={seed}")
    return load_run([study.config], [*study.settings, *study.arms[arm], *own])


def result_file(root: Path, arm: str, seed: int) -> Path:
    """File of a finished run."""
    return root / "finished" / f"{arm}-{seed}.json".replace(" ", "_")


def train_one(arm: str, config: RunConfig, trainer: Trainer) -> Run:
    """Train until the budget is spent, with an evaluation after the reference's number of updates."""
    once = config.rollout.num_steps * len(needed_images(config, read_texts(config))) if _from_base(config) else 0
    base, at_updates, update = trainer.evaluate(0), dict[str, float](), 0
    spent = forward = gradient = 0.0
    # The next update is made if, at the mean cost so far, it fits into the budget.
    while update < UPDATES or once + spent * (update + 1) / update <= BUDGET:
        cost = trainer.update(update)
        update += 1
        spent += cost["cost/forward"] + GRADIENT_CALL * cost["cost/forward_backward"]
        if update <= UPDATES:
            forward, gradient = forward + cost["cost/forward"], gradient + cost["cost/forward_backward"]
        if update == UPDATES:
            at_updates = trainer.evaluate(update)
    at_budget = at_updates if update == UPDATES else trainer.evaluate(update)
    return Run(arm, config.seed, base, at_updates, at_budget, update, forward, gradient, once)


def _from_base(config: RunConfig) -> bool:
    return config.rollout.source == "base_model"


def read_runs(study: Study, root: Path) -> dict[str, list[Run]]:
    """The finished runs of each arm."""
    files = {arm: [result_file(root, arm, seed) for seed in SEEDS] for arm in study.arms}
    found = {
        arm: [Run(**json.loads(file.read_text())) for file in each if file.exists()] for arm, each in files.items()
    }
    return {arm: runs for arm, runs in found.items() if runs}


def quality_table(arms: Mapping[str, Sequence[Run]], reference: str, moment: str) -> str:
    """Markdown: mean and standard deviation over seeds, and differences of the held-out score from the reference."""
    lines = [_line(["", "updates", "difference", *METRICS.values()]), _line(["---"] * (3 + len(METRICS)))]
    base = arms[reference][0].base
    lines.append(_line(["before training", "0", "", *(f"{base[metric]:.4f}" for metric in METRICS)]))
    scores = {run.seed: getattr(run, moment)[HELD_OUT] for run in arms[reference]}
    for arm, runs in arms.items():
        updates = UPDATES if moment == "at_updates" else round(mean(run.updates for run in runs))
        pairs = [getattr(run, moment)[HELD_OUT] - scores[run.seed] for run in runs if run.seed in scores]
        values = [_spread([getattr(run, moment)[metric] for run in runs]) for metric in METRICS]
        lines.append(_line([arm, str(updates), "" if arm == reference else _difference(pairs), *values]))
    return "\n".join(lines)


def cost_table(arms: Mapping[str, Sequence[Run]]) -> str:
    """Markdown: velocity calls of one run in the reference's number of updates."""
    titles = ["", "without gradient", "with gradient", "base model, once", "sum, with gradient x 3", "seeds"]
    lines = [_line(titles), _line(["---"] * len(titles))]
    for arm, runs in arms.items():
        parts = [run.forward for run in runs], [run.gradient for run in runs], [run.once for run in runs]
        cells = [*(f"{mean(part):.0f}" for part in parts), f"{mean(run.calls for run in runs):.0f}", str(len(runs))]
        lines.append(_line([arm, *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


def _difference(pairs: Sequence[float]) -> str:
    """Mean and half of its 95% interval (Student's t), over runs of the same seed."""
    over = mean_over([[pair] for pair in pairs])
    return f"{over.mean:+.4f}" + ("" if over.half_width is None else f" ± {over.half_width:.4f}")


if __name__ == "__main__":
    main()
