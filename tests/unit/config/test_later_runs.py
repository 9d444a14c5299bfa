"""Number of runs that continue from others in an experiment, counted by hand."""

from functools import partial
from pathlib import Path

import pytest

from srpo_ray.config import apply, load_experiment
from srpo_ray.config.continued_runs import num_later_runs

EXPERIMENTS = Path(__file__).parents[3] / "configs" / "experiments"


@pytest.mark.parametrize(
    ("file", "overrides", "expected"),
    [
        ("small_world_sweep.yaml", [], 0),
        # 16 trials, then 8 and 4; seeds train whole runs.
        ("small_world_promotion.yaml", [], 8 + 4),
        # 40 updates in rounds of 10: three later rounds of 8 trials and of 3 seeds.
        ("small_world_pbt.yaml", [], 3 * 8 + 3 * 3),
        # 40 updates in rounds of 15: the third round is shorter.
        ("small_world_pbt.yaml", ["experiment.search.scheduler.perturb_interval=15"], 2 * 8 + 2 * 3),
    ],
)
def test_later_rungs_and_rounds_are_counted(file: str, overrides: list[str], expected: int) -> None:
    config, base = load_experiment(EXPERIMENTS / file, overrides)
    assert num_later_runs(config, partial(apply, base)) == expected


def test_a_schedule_makes_a_run_per_round_and_seed_of_each_arm_that_follows_it(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(
        f"base: {EXPERIMENTS.parent / 'small_world.yaml'}\nseeds: [1, 2]\narms:\n"
        "  - {name: rising, schedule: [{updates: 20, set: {algorithm.interpolation_strength: 0.75}},"
        " {updates: 40, set: {algorithm.interpolation_strength: 0.9}}]}\n"
        "  - {name: bright, like: rising, set: {algorithm.control_words: bright}}\n"
        "  - {name: constant}\n"
    )
    config, base = load_experiment(file, [])
    assert num_later_runs(config, partial(apply, base)) == 2 + 2
