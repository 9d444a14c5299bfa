"""Messages about settings of policy gradients that do not fit: what was expected, what came, and what to do."""

import re
from pathlib import Path

import pytest

from srpo_ray.config import ConfigError, apply, load_run
from tests.conftest import ROOT, SMALL_WORLD

BRANCH = "algorithm.plan={type: branch}"
TREE = "algorithm.plan={type: tree, splits: [0, 3]}"
PAIR = "algorithm.surrogate.type=pair"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["algorithm.plan={type: window, size: 12}"],
            r"0 <= first < end <= 11, .*rollout.num_steps = 12, got size 12 in \[0, 11\); shorten the window",
        ),
        (["algorithm.plan={type: window, size: 4, steps: [2, 5]}"], r"got size 4 in \[2, 5\); shorten the window"),
        (["algorithm.plan={type: window, steps: [8, 12]}"], r"end <= 11, .* got size 3 in \[8, 12\)"),
        (
            ["algorithm.plan={type: branch, at: [3, 11]}"],
            r"algorithm.plan.at from 0 to 10, the stochastic steps .*, got 11; choose a step in this range",
        ),
        (["algorithm.plan={type: branch, at: [3, 3]}"], r"algorithm.plan: expected each step of at once, got \[3, 3\]"),
        (["algorithm.plan={type: branch, at: [3], per_update: 2}"], r"per_update of at most 1, .* got 2; lower it"),
        (["algorithm.plan={type: branch, tails: []}"], r"algorithm.plan.tails: .* at least 1 item"),
        ([BRANCH, "algorithm.noise=per_image"], r"algorithm.noise=per_sample with .*plan.type=branch, got per_image"),
        (
            ["algorithm.plan={type: tree, splits: [0, 11]}", "algorithm.group_size=4"],
            r"plan.splits from 0 to 10, .* got 11",
        ),
        ([TREE], r"algorithm.group_size = 4, the leaves of 2 splits into 2, got 12; set it to 4"),
        (
            [
                "algorithm.plan={type: tree, splits: [0, 3], children: 6}",
                "algorithm.group_size=36",
                "algorithm.images_per_pass=4",
            ],
            r"images_per_pass to hold whole subtrees of 1, 6, 36 images, got 4; choose one of these",
        ),
        (["algorithm.plan={type: tree, splits: [3, 0]}"], r"expected splits in rising order, each once, got \[3, 0\]"),
        (
            ["algorithm.optimizer_steps=7"],
            r"optimizer_steps to divide the 6 trained steps of an image, got 7; .* divisor of 6",
        ),
        (["algorithm.optimizer_steps=4"], r"optimizer_steps to divide the 6 trained steps of an image, got 4"),
        (
            ["algorithm.optimizer_steps=2", "algorithm.surrogate.ratio=exact"],
            r"algorithm.optimizer_steps=1 with algorithm.surrogate.ratio=exact, got 2",
        ),
        (
            [PAIR, TREE, "algorithm.group_size=4"],
            r"plan.type=branch, all or window with .*surrogate.type=pair, got tree; .* choose another plan",
        ),
        (
            [PAIR, "algorithm.images_per_pass=4"],
            r"expected no algorithm.images_per_pass with .*type=pair, got 4 of 12 images; .* remove it or lower group",
        ),
        (
            ["algorithm.plan={type: branch, path: child}", "algorithm.images_per_pass=4"],
            r"no algorithm.images_per_pass with algorithm.plan.path=child, got 4; .* any of the 12 images",
        ),
        (["algorithm.surrogate.min_gap=0.1"], r"expected type pair with min_gap=0.1, got ppo, .*; remove min_gap"),
        (
            ["algorithm.surrogate={type: ranking, select: vote}"],
            r"expected type pair with select=vote, got ranking, .*; remove select or change the type",
        ),
        (
            ["algorithm.surrogate={type: pair, select: vote, min_gap: 0.1}"],
            r"expected no min_gap with select=vote, got 0.1; votes have no common scale, so remove min_gap, or set",
        ),
        (
            ["algorithm.surrogate={type: guard, discount: 0.9}"],
            r"expected type pair or ranking with discount=0.9, got guard, .*; remove discount",
        ),
        (
            ["algorithm.surrogate={type: pair, discount: 0.0}"],
            r"surrogate.discount: expected to be greater than 0; got 0",
        ),
        (
            ["algorithm.surrogate={type: pair, min_gap: -1.0}"],
            r"surrogate.min_gap: .* greater than or equal to 0; got -1",
        ),
        (
            ["algorithm.surrogate={type: pair, select: best}"],
            r"surrogate.select: expected to be .best_worst., .vote. or .dominance.; got .best.",
        ),
        (["algorithm.surrogate={type: guard, step_weight: std}"], r"step_weight=density with type=guard, .* got std"),
        (["algorithm.group_size=1"], r"algorithm.group_size: expected to be greater than or equal to 2; got 1"),
        (
            ["algorithm.transition={noise: cps}"],
            r"step=frozen and a strength of at most 1 with noise=cps, .*, got step=euler_maruyama and strength=0.3",
        ),
        (["algorithm.transition={step: frozen, noise: cps, strength: 1.1}"], r"got step=frozen and strength=1.1;"),
        (["algorithm.advantage={history: 8, scale: update}"], r"with history=8, got summed, none, group, update"),
        ([BRANCH, "algorithm.advantage.history=8"], r"plan.type=all or window with .*advantage.history, got branch"),
        (
            ["algorithm.plan.type=forest"],
            r"algorithm.plan.type: expected one of all, window, branch, tree; got 'forest'",
        ),
        (
            ["algorithm.surrogate.clip_rang=1"],
            r"algorithm.surrogate.clip_rang: expected one of .*did you mean `clip_range`",
        ),
        (["rollout.num_steps=1"], r"rollout.num_steps of at least 2 with a policy gradient, got 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_run([SMALL_WORLD], ["algorithm.type=policy_gradient", *overrides])
    assert len(str(raised.value).splitlines()) == 2


def test_loss_that_compares_with_the_initial_model_keeps_its_weights() -> None:
    def roles(*overrides: str) -> frozenset[str]:
        return load_run([SMALL_WORLD], ["algorithm.type=policy_gradient", *overrides]).algorithm.roles

    assert roles() == frozenset()
    assert roles("algorithm.surrogate.kl=0.01") == roles(PAIR, BRANCH) == {"reference"}


def test_plan_of_another_type_starts_from_its_defaults(tmp_path: Path) -> None:
    layer = tmp_path / "mine.yaml"
    layer.write_text("algorithm: {type: policy_gradient, plan: {type: window, size: 2}}")
    files = [SMALL_WORLD, ROOT / "configs" / "algorithms" / "flow_grpo.yaml"]
    merged = load_run([*files, layer], ["algorithm.optimizer_steps=1"]).algorithm
    dotted = load_run(files, ["algorithm.plan.size=2", "algorithm.plan.type=window", "algorithm.optimizer_steps=1"])
    assert merged == dotted.algorithm
    assert merged.model_dump()["plan"]["steps"] is None
    # Other parts, and a plan of the same type, keep their settings.
    assert merged.model_dump()["transition"] == {"step": "euler_maruyama", "noise": "flow", "strength": 0.7}
    changed = apply(dotted, {"algorithm.plan.size": 1, "algorithm.plan.type": "window", "algorithm.plan.steps": [0, 4]})
    again = apply(changed, {"algorithm.plan.type": "window", "algorithm.surrogate.type": "guard"}).algorithm
    assert again.model_dump()["plan"]["steps"] == (0, 4)
    assert again.model_dump()["surrogate"]["clip_range"] == 1e-4
    branch = apply(changed, {"algorithm.plan.type": "branch", "algorithm.noise": "per_sample"})
    assert branch.algorithm.model_dump()["plan"]["at"] == (0,)


def test_costs_in_the_docs_are_those_that_the_files_count() -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| black box[^|]* \| (\d+) \|", page, re.MULTILINE))
    files = {path.stem: load_run([SMALL_WORLD, path]) for path in (ROOT / "configs" / "algorithms").glob("*.yaml")}
    costs = {}
    for name, run in files.items():
        if run.algorithm.type in ("policy_gradient", "dance_grpo"):
            calls = run.algorithm.calls(run.rollout.num_steps)
            rows_with_gradient = calls.rows_with_gradient or calls.images_per_prompt
            trained = rows_with_gradient * calls.gradient_size * calls.losses * calls.optimizer_steps
            costs[name] = str(round(calls.forward * calls.forward_size * calls.images_per_prompt + 3 * trained))
    assert rows == costs
