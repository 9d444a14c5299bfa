import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.evaluation.results import Arm, Results, Search, TrialRow
from srpo_ray.evaluation.reward_hacking import HackingSign

OBJECTIVE, REWARD = "evaluator/held_out", "reward/preference"
STEPS = (0, 15, 30, 45, 60)
BASE = {
    OBJECTIVE: 0.412,
    REWARD: 0.355,
    "truth/detail": 0.0312,
    "truth/saturation": 0.78,
    "truth/content_accuracy": 0.953,
    "image/contrast": 0.21,
}
SIGNS = [
    HackingSign(30, "hacking", OBJECTIVE, "the held-out score fell at 30"),
    HackingSign(45, "hacking", OBJECTIVE, "the held-out score fell at 45"),
    HackingSign(45, "style", "image/contrast", "the contrast moved at 45"),
]


def history(held_out: float, reward: float, detail: float, content: float, updates: int = 60) -> list[dict[str, float]]:
    """Evaluations that bend from the base model towards the given last values."""
    last = {OBJECTIVE: held_out, REWARD: reward, "truth/detail": detail, "truth/content_accuracy": content}
    last |= {"truth/saturation": 0.78 - 0.3 * (held_out - 0.4), "image/contrast": 0.21 + detail}
    curve = []
    for step in STEPS:
        if step > updates:
            break
        share = 1 - math.exp(-3 * step / 60)
        share /= 1 - math.exp(-3 * updates / 60)
        wave = 0.004 * math.sin(step / 7 + held_out * 50) * (0 < step < updates)
        curve.append({"update": step} | {name: BASE[name] + share * (last[name] - BASE[name]) + wave for name in BASE})
    return curve


def params(words: str, window: tuple[int, int], strength: float, lr: float) -> dict[str, object]:
    return {
        "algorithm.control_words": words,
        "algorithm.timestep_window": list(window),
        "algorithm.interpolation_strength": strength,
        "training.optimizer.lr": lr,
        "rollout.num_steps": 12,
    }


def trial(
    name: str,
    label: str,
    values: tuple[float, float, float, float],
    chosen: dict[str, object],
    updates: int = 60,
    **changes: object,
) -> TrialRow:
    fields: dict[str, object] = {
        "name": name,
        "kind": "trial",
        "label": label,
        "params": chosen,
        "history": history(*values, updates=updates),
        "status": "finished",
        "seconds": 412.0,
        "seed": 0,
        "gallery": None,
    }
    return TrialRow(**(fields | changes))  # pyright: ignore[reportArgumentType]


def with_rows(results: Results, rows: Sequence[TrialRow], best: str | None = None, **changes: Any) -> Results:
    """A sweep of these runs, each in the place that its kind has; the chosen trial stays unless another is named."""
    of_kind = {kind: [row for row in rows if row.kind == kind] for kind in ("base", "trial", "repeat", "ablation")}
    chosen = results.searches[0].chosen if best is None else best
    arms = [Arm("SRPO", "method", {}, of_kind["repeat"])]
    arms += [Arm(row.name, "ablation", row.params, [row]) for row in of_kind["ablation"]]
    return replace(
        results,
        baseline_row=next(iter(of_kind["base"]), None),
        searches=[Search("SRPO", of_kind["trial"], chosen)],
        arms=arms,
        **changes,
    )


@pytest.fixture
def sweep() -> Results:
    """Twelve runs: one hacked its reward, one was stopped early, one failed with NaN."""
    best = params("detailed", (5, 25), 0.9, 3.1e-6)
    rows = [
        TrialRow("base", "base", "base model", {}, [{"update": 0, **BASE}], "finished", 21.0, 0),
        trial("t00", "detailed against flat, window 5-25", (0.487, 0.512, 0.061, 0.941), best),
        trial("t01", "real against painting", (0.455, 0.468, 0.045, 0.948), params("real", (5, 25), 0.8, 2.2e-6)),
        trial(
            "t02", "vivid, large lr", (0.361, 0.644, 0.093, 0.702), params("vivid", (0, 20), 0.9, 1.4e-5), signs=SIGNS
        ),
        trial(
            "t03",
            "detailed, late window",
            (0.431, 0.402, 0.038, 0.951),
            params("detailed", (20, 45), 0.7, 4e-6),
        ),
        trial("t04", "real, early window", (0.472, 0.531, 0.052, 0.932), params("real", (0, 20), 0.95, 5.5e-6)),
        trial(
            "t05",
            "vivid, small lr",
            (0.418, 0.371, 0.033, 0.952),
            params("vivid", (20, 45), 0.8, 1.1e-6),
            updates=30,
            status="stopped early",
            seconds=190.0,
        ),
        trial(
            "t06",
            "real, very large lr",
            (0.39, 0.41, 0.04, 0.9),
            params("real", (20, 45), 0.9, 6e-5),
            updates=30,
            status="failed: reward 'preference' gave NaN for sample 3 of step 31",
        ),
        trial("best_seed_1", "t00 with seed 1", (0.481, 0.503, 0.059, 0.944), best, kind="repeat", seed=1),
        trial("best_seed_2", "t00 with seed 2", (0.493, 0.52, 0.063, 0.939), best, kind="repeat", seed=2),
        trial(
            "relative_off",
            "plain reward, no control words",
            (0.44, 0.57, 0.041, 0.931),
            best | {"algorithm.query": "plain"},
            kind="ablation",
        ),
        trial(
            "late_timesteps",
            "window 30-49",
            (0.479, 0.43, 0.036, 0.951),
            best | {"algorithm.timestep_window": [30, 49]},
            kind="ablation",
        ),
    ]
    empty = Results(
        title="Small world: window, strength, words, learning rate",
        objective=OBJECTIVE,
        mode="max",
        reward=REWARD,
        created="2026-11-21 12:40",
        command="python experiments/sweep.py --config experiments/small_world.yaml",
        commit="0123456789abcdef0123456789abcdef01234567",
        hardware="2 CPU cores, no GPU",
        reference="SRPO",
        baseline_row=None,
        arms=[],
        searches=[Search("SRPO", [], "t00")],
        best_config_yaml="algorithm:\n  type: srpo\n  timestep_window: [5, 25]\n  control_words: detailed\n",
        notes=["One seed per trial, so differences of about 0.01 mean nothing."],
    )
    return with_rows(empty, rows)


@pytest.fixture
def report_path(tmp_path: Path) -> Path:
    return tmp_path / "report.html"
