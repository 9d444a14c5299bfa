"""Means, differences and costs of a comparison, against numbers worked out by hand."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch

from srpo_ray.evaluation.comparison import compute_notes, difference, gain, gap_table, level, num_tests
from srpo_ray.evaluation.gallery import method_grid
from srpo_ray.evaluation.image_scores import ImageScores
from srpo_ray.evaluation.results import CALLS, SECONDS, TRAINED_GAIN, Arm, Results, Search, TrialRow
from srpo_ray.evaluation.seeds import holm

HELD_OUT = "evaluator/held_out"
BASE = {HELD_OUT: 0.5, "reward/total": 1.0, "truth/detail": 0.1, "truth/content_accuracy": 0.98, "image/diversity": 0.2}


def run(name: str, seed: int, scores: list[float], calls: float = 100.0, **changes: object) -> TrialRow:
    """A run that is evaluated at update 0, 10, 20, ... and spends `calls` between two evaluations."""
    history = [
        {
            "update": 10 * index,
            **BASE,
            HELD_OUT: score,
            TRAINED_GAIN: 0.5 * index,
            CALLS: calls * index,
            SECONDS: 2.0 * index,
        }
        for index, score in enumerate(scores)
    ]
    fields = {"kind": "repeat", "status": "finished", **changes}
    return TrialRow(name=name, label=name, params={}, history=history, seconds=20.0, seed=seed, **fields)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def report() -> Results:
    """SRPO gains 0.2, ReFL 0.1 and slower; one ablation does harm in every seed, the other is noise."""
    base = run("baseline", 0, [0.5], kind="base")
    srpo = Arm("SRPO", "method", {"training.optimizer.lr": 5e-6}, [
        run("SRPO_seed_1", 1, [0.5, 0.6, 0.70]),
        run("SRPO_seed_2", 2, [0.5, 0.6, 0.72]),
        run("SRPO_seed_3", 3, [0.5, 0.6, 0.68]),
    ])  # fmt: skip
    refl = Arm("ReFL", "method", {}, [run(f"ReFL_seed_{seed}", seed, [0.5, 0.55, 0.6]) for seed in (1, 2, 3)])
    harm = Arm("harm", "ablation", {"algorithm.branches": ["denoise"]}, [
        run("harm_seed_1", 1, [0.5, 0.5, 0.60]),
        run("harm_seed_2", 2, [0.5, 0.5, 0.61]),
        run("harm_seed_3", 3, [0.5, 0.5, 0.58]),
    ])  # fmt: skip
    noise = Arm("noise", "ablation", {}, [
        run("noise_seed_1", 1, [0.5, 0.6, 0.72]),
        run("noise_seed_2", 2, [0.5, 0.6, 0.70]),
        run("noise_seed_3", 3, [0.5, 0.6, 0.69]),
    ])  # fmt: skip
    searches = [
        Search(
            "SRPO",
            [run("SRPO_trial_0", 0, [0.5, 0.6], kind="trial"), run("SRPO_trial_1", 0, [0.5, 0.7], kind="trial")],
            "SRPO_trial_1",
        )
    ]
    return Results(
        title="a comparison",
        objective=HELD_OUT,
        mode="max",
        reference="SRPO",
        baseline_row=base,
        target_share=0.5,
        created="today",
        command="python experiments/paper_table.py",
        commit="abc",
        hardware="2 cores",
        arms=[refl, srpo, harm, noise],
        searches=searches,
        notes=["a note"],
    )


def test_holm_keeps_what_its_published_example_keeps() -> None:
    """Smallest p against level / 4, the next against level / 3, and nothing after the first that fails."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.013, 0.016, 0.02, 0.9]) == [False] * 4
    assert holm([0.02, None, 0.04]) == [True, False, True]
    assert holm([]) == []


def test_a_table_without_any_effect_has_a_false_cell_in_one_of_twenty_cases() -> None:
    """55 cells of three seeds each; without a correction there is one in 94% of tables."""
    gaps = np.random.default_rng(1).normal(size=(300, 55, 3))
    t_values = abs(gaps.mean(-1) / gaps.std(-1, ddof=1) * sqrt(3))
    p_values = 1 - t_values / np.sqrt(2 + t_values**2)
    assert np.mean([any(holm(row)) for row in p_values.tolist()]) <= 0.08
    assert np.mean((p_values < 0.05).any(-1)) > 0.9


def test_target_is_a_share_of_the_ablated_methods_gain(report: Results) -> None:
    assert report.target == pytest.approx(0.6)
    reached = report.arm("SRPO").over_seeds(HELD_OUT)
    assert reached is not None
    assert (reached.num_seeds, reached.mean, reached.spread) == (3, pytest.approx(0.7), pytest.approx(0.02))
    assert replace(report, mode="min").target is None, "the reference arm is worse than the baseline"


def test_differences_are_taken_seed_by_seed(report: Results) -> None:
    harm = difference(report.arm("harm").rows, report.arm("SRPO").rows, HELD_OUT)
    assert harm is not None
    # -0.10, -0.11, -0.10
    assert (harm.mean, harm.spread) == (pytest.approx(-0.31 / 3), pytest.approx(0.00577, abs=1e-5))
    noise = difference(report.arm("noise").rows, report.arm("SRPO").rows, HELD_OUT)
    assert noise is not None
    assert abs(noise.mean) < 0.01
    gaps = gap_table(report, report.ablations, [HELD_OUT])
    assert (gaps["harm", HELD_OUT].significant, gaps["noise", HELD_OUT].significant) == (True, False)


def test_a_difference_that_many_others_are_tested_beside_must_be_surer(report: Results) -> None:
    """The p-value of a fall of 0.10, 0.11 and 0.10 is 0.001: enough for a few cells, not for a hundred."""
    names = [f"noise {index}" for index in range(100)]
    many = [Arm(name, "ablation", {}, report.arm("noise").rows) for name in names]
    alone = gap_table(report, [report.arm("harm")], [HELD_OUT])
    beside = gap_table(report, [report.arm("harm"), *many], [HELD_OUT])
    assert (alone["harm", HELD_OUT].significant, beside["harm", HELD_OUT].significant) == (True, False)


def test_an_arm_of_other_seeds_is_compared_without_pairs(report: Results) -> None:
    """One run of 0.9 against 0.70, 0.72 and 0.68, whose standard deviation is 0.02."""
    found = difference([run("other_seed_9", 9, [0.5, 0.9])], report.arm("SRPO").rows, HELD_OUT)
    assert found is not None
    assert found.mean == pytest.approx(0.2)
    assert found.half_width == pytest.approx(4.3027 * 0.02 * sqrt(4 / 3), abs=1e-4)
    assert difference([], report.arm("SRPO").rows, HELD_OUT) is None


def by_prompt(row: TrialRow, gains: np.ndarray, source: str = "validation") -> TrialRow:
    """The run with scores by prompt that rise by these gains over a base model that differs between prompts."""
    base = np.linspace(0.2, 0.8, len(gains))
    images = ImageScores({HELD_OUT: base}, {HELD_OUT: base + gains}, len(gains), source, 20)  # pyright: ignore[reportArgumentType]
    return replace(row, images=images)


def test_gain_counts_prompts_where_runs_have_scores_by_prompt(report: Results) -> None:
    """Prompts differ by a hundred times as much as seeds; the base model's own spread over prompts cancels."""
    gains = np.random.default_rng(0).normal(0.2, 0.03, 32)
    rows = [by_prompt(row, gains + 0.0003 * row.seed) for row in report.arm("SRPO").rows]
    found, seeds_only = gain(report, rows, HELD_OUT), gain(report, report.arm("SRPO").rows, HELD_OUT)
    assert found is not None
    assert found.mean == pytest.approx(gains.mean() + 0.0006)
    assert found.half_width == pytest.approx(2.04 * gains.std(ddof=1) / sqrt(32), rel=0.01)
    assert (found.counted, found.spread) == ("seeds and prompts", pytest.approx(0.0003))
    assert seeds_only is not None
    assert (seeds_only.counted, seeds_only.mean) == ("seeds only", pytest.approx(0.2))
    mixed = gain(report, [*rows[:2], report.arm("SRPO").rows[2]], HELD_OUT)
    assert mixed is not None
    assert mixed.counted == "seeds only"


def test_scores_of_test_prompts_replace_those_of_the_validation_prompts(report: Results) -> None:
    rows = [by_prompt(row, np.full(8, 0.05), "test") for row in report.arm("SRPO").rows]
    risen, value = gain(report, rows, HELD_OUT), level(rows, HELD_OUT)
    assert risen is not None
    assert risen.mean == pytest.approx(0.05)
    assert value is not None
    assert value.mean == pytest.approx(0.55)


def test_differences_are_paired_by_prompt(report: Results) -> None:
    """Two arms whose gain differs by 0.01 on every prompt, where prompts differ by 0.1."""
    gains = np.random.default_rng(1).normal(0.2, 0.1, 32)
    ours = [by_prompt(row, gains + 0.01 + 0.0001 * row.seed) for row in report.arm("noise").rows]
    theirs = [by_prompt(row, gains) for row in report.arm("SRPO").rows]
    found = difference(ours, theirs, HELD_OUT)
    assert found is not None
    assert (found.mean, found.num_prompts, found.num_seeds) == (pytest.approx(0.0102), 32, 3)
    assert found.half_width == pytest.approx(4.3027 * 0.0001 / sqrt(3), rel=1e-3)
    one = difference(ours[:1], theirs, HELD_OUT)
    assert one is not None
    assert (one.counted, one.num_seeds) == ("seeds and prompts", 1)


def test_a_difference_of_single_runs_is_not_tested(report: Results) -> None:
    """The runs differ on any prompts, but two runs of one method with other seeds would differ too."""
    rows = {name: [by_prompt(report.arm(name).rows[0], gains)] for name, gains in
            (("SRPO", np.linspace(0.1, 0.2, 32)), ("harm", np.linspace(0.0, 0.1, 32)))}  # fmt: skip
    arms = [replace(report.arm(name), rows=found) for name, found in rows.items()]
    single = replace(report, arms=arms)
    gap = gap_table(single, single.ablations, [HELD_OUT])["harm", HELD_OUT]
    assert (gap.estimate.counted, gap.tested, gap.significant) == ("prompts only", False, False)
    assert gap.estimate.half_width is not None
    assert num_tests([gap]) == 0


def test_method_grid_has_a_row_per_prompt_and_a_image_per_model() -> None:
    colors = {"one": torch.zeros(3, 3, 96, 96), "other": torch.ones(3, 3, 96, 96)}
    one, two = method_grid(colors, ["a", "b", "c"]), method_grid({**colors, "third": colors["one"]}, ["a", "b", "c"])
    assert two.width - one.width == 2 * 96 + 4
    assert one.height == method_grid({"one": colors["one"]}, ["a", "b", "c"]).height
    with pytest.raises(ValueError, match="one caption per image"):
        method_grid(colors, ["a"])


def test_unequal_compute_is_reported() -> None:
    def arm(name: str, kind: str, *calls: float) -> Arm:
        rows = [
            TrialRow(name, "repeat", "", {}, [{"update": 4, CALLS: spent}], "finished", 1.0, seed)
            for seed, spent in enumerate(calls)
        ]
        return Arm(name, "ablation" if kind == "ablation" else "method", {}, rows)

    equal = [arm("SRPO", "method", 64.0, 64.0), arm("ReFL", "method", 62.0, 66.0), arm("none", "ablation", 999.0)]
    assert compute_notes(equal, "SRPO") == []
    (note,) = compute_notes([*equal, arm("longer", "method", 128.0)], "SRPO")
    assert note == "longer was trained with 2.00 times the velocity evaluations of SRPO."
    assert compute_notes(equal[1:], "SRPO") == []
