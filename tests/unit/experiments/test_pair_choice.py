"""Table of the images that the arms of `biased_pairs` prefer, on scores and attributes that are given."""

import torch

from srpo_ray.config import RunConfig, load_run
from tests.conftest import ROOT, SMALL_WORLD


def run_of(select: str, *weights: float) -> RunConfig:
    names = ("biased", "second", "third")
    models = ",".join(
        f"{{name: {name}, type: open_clip, path: x, weight: {weight}}}"
        for name, weight in zip(names, weights, strict=False)
    )
    layer = ROOT / "configs" / "algorithms" / "online_dpo.yaml"
    return load_run([SMALL_WORLD, layer], [f"algorithm.select={select}", f"rewards.models=[{models}]"])


def test_preferred_image_is_that_of_each_arms_scorers_weights_and_rule(script) -> None:
    # Two prompts with three images each. The biased scorer follows saturation, both others its opposite.
    saturation = torch.tensor([[0.1, 0.5, 0.9], [0.9, 0.1, 0.3]]).double()
    scores = {"biased": saturation, "second": -2 * saturation, "third": -0.5 * saturation}
    truth = dict.fromkeys(("detail", "content_accuracy", "utility/test/mean"), torch.zeros(2, 3).double())
    runs = {
        "alone": run_of("best_worst", 1.0),
        "sum": run_of("best_worst", 1.0, 1.0, 1.0),
        "larger": run_of("best_worst", 3.0, 1.0, 1.0),
        "vote": run_of("vote", 3.0, 1.0, 1.0),
    }
    table = script("pair_choice").choice_table
    _, _, *rows = table(runs, scores, truth | {"saturation": saturation})
    found = {row.split(" | ")[0][2:]: row.split(" | ")[1] for row in rows}
    up, down = "+0.800 ± 0.000", "-0.800 ± 0.000"
    assert found == {"alone": up, "sum": down, "larger": up, "vote": down}
    assert all(row.endswith("| 0 |") for row in rows)


def test_prompts_without_a_pair_are_counted_and_not_averaged(script) -> None:
    values = torch.tensor([[0.1, 0.5, 0.9], [0.9, 0.1, 0.3], [0.2, 0.3, 0.7]]).double()
    scores = {"biased": values, "second": values.clone(), "third": values.clone()}
    # All pairs of the last prompt are disputed.
    scores["second"][2] *= -1
    truth = {"saturation": values} | dict.fromkeys(("detail", "content_accuracy", "utility/test/mean"), values)
    *_, row = script("pair_choice").choice_table({"arm": run_of("dominance", 1.0, 1.0, 1.0)}, scores, truth)
    assert row == "| arm | " + "+0.800 ± 0.000 | " * 4 + "1 |"
