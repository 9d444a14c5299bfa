"""Plans of experiments against sums by hand: runs, early stopping, GPU-hours, wall-clock time and money."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.cli import main
from srpo_ray.config import apply, load_experiment, to_yaml
from srpo_ray.config.search import SchedulerConfig
from srpo_ray.files import write_text
from srpo_ray.planning.early_stopping import trial_ends
from srpo_ray.planning.experiment import ExperimentPlan
from srpo_ray.planning.experiment_groups import run_calls
from srpo_ray.planning.experiment_report import experiment_plan_text
from srpo_ray.planning.experiment_runs import concurrent_runs, make_experiment_plan
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.plan import make_plan
from srpo_ray.planning.prices import Prices
from srpo_ray.runs.checkpoint_files import MANIFEST, checkpoint_name
from srpo_ray.runs.folder import RunFolder
from tests.conftest import ROOT

RECIPES = ROOT / "configs" / "recipes"
LR = "training.optimizer.lr"
H100 = Hardware("H100")
SPACE = {LR: {"loguniform": [1e-5, 1e-4]}, "rollout.num_steps": {"choice": [20, 50]}}
NO_STOPPING = {"num_samples": 5, "scheduler": {"type": "none"}}


def experiment_file(folder: Path, **values: Any) -> Path:
    """An experiment on FLUX: 8 GPUs per run, and two reward replicas of a quarter of a GPU on the same nodes."""
    file, rewards = folder / "experiment.yaml", folder / "rewards.yaml"
    rewards.write_text(yaml.safe_dump({"rewards": {"pool": {"num_gpus": 0.25, "num_replicas": 2}}}))
    base = [str(RECIPES / "flux_lora_8x80gb.yaml"), str(rewards)]
    common = {"name": "mine", "base": base, "objective": "evaluator/pickscore", "seeds": [1, 2, 3]}
    arms = [{"name": "SRPO", "space": {LR: SPACE[LR]}}]
    file.write_text(yaml.safe_dump({**common, "arms": arms, "search": NO_STOPPING, **values}))
    return file


def planned(folder: Path, gpus: float | None = None, **values: Any) -> tuple[ExperimentPlan, float]:
    """The plan of such an experiment, and the hours of one run of its base config."""
    config, base = load_experiment(experiment_file(folder, **values))
    run_s = make_plan(base, H100).run_s
    assert run_s is not None
    return make_experiment_plan(config, base, H100, Prices(2.5, 1.0), gpus), run_s / 3600


@pytest.mark.parametrize(
    ("trials", "interval", "grace", "factor", "expected"),
    [
        # Rungs at 10, 20 and 40 of 60 updates.
        (8, 10, 10, 2.0, [(10, 4), (20, 2), (40, 1), (60, 1)]),
        # Half of 3 continue, then one does not stop.
        (3, 10, 10, 2.0, [(10, 1.5), (20, 0.5), (60, 1)]),
        # Trials are compared at evaluations only: rungs at 10 and 20 meet at 25.
        (8, 25, 10, 2.0, [(25, 4), (50, 2), (60, 2)]),
        (9, 10, 20, 3.0, [(20, 6), (60, 3)]),
        # No evaluation before the last update, or grace to the end.
        (8, 60, 10, 2.0, [(60, 8)]),
        (8, 10, 60, 2.0, [(60, 8)]),
    ],
)
def test_successive_halving_lets_one_in_the_factor_through_each_rung(
    trials: int, interval: int, grace: int, factor: float, expected: list[tuple[int, float]]
) -> None:
    scheduler = SchedulerConfig(grace_updates=grace, reduction_factor=factor)
    assert [tuple(end) for end in trial_ends(trials, 60, interval, scheduler)] == expected


def test_all_trials_end_at_their_last_update_without_a_scheduler() -> None:
    assert trial_ends(8, 60, 10, SchedulerConfig(type="none")) == [(60, 8)]


RUNGS = [
    {"updates": 40, "keep": 0.5, "set": {"rollout.num_steps": 20}},
    {"updates": 80, "keep": 0.34},
    {"updates": 200},
]
PROMOTION = {"num_samples": 9, "scheduler": {"type": "promotion", "rungs": RUNGS}}


def test_rung_counts_its_own_updates_with_its_own_settings(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, search=PROMOTION, seeds=[1])
    base = load_experiment(experiment_file(tmp_path))[1]
    cheap, whole = make_plan(apply(base, {"rollout.num_steps": 20}), H100), make_plan(base, H100)
    assert cheap.update_s is not None
    assert whole.update_s is not None
    assert whole.evaluation_s is not None
    assert cheap.update_s < whole.update_s
    # 9 trials: 4 are promoted, then 1 (a third of 4, rounded down).
    assert [(group.name, group.runs, group.worst.updates) for group in plan.groups] == [
        ("SRPO: rung 1", 9, 40),
        ("SRPO: rung 2", 4, 40),
        ("SRPO: rung 3", 1, 120),
        ("SRPO: seeds", 1, 200),
    ]
    # Evaluations and checkpoints are every 20 updates; the base model is evaluated once.
    parts = [(40, cheap.update_s, 3), (40, whole.update_s, 2), (120, whole.update_s, 6)]
    expected = [
        updates * each + evaluations * whole.evaluation_s + updates // 20 * whole.checkpoint_s
        for updates, each, evaluations in parts
    ]
    assert [(group.worst.hours or 0.0) * 3600 for group in plan.groups[:3]] == pytest.approx(expected)


def test_least_of_a_promotion_is_one_trial_through_its_rungs_and_the_runs_after_the_search(tmp_path: Path) -> None:
    plan, hours = planned(tmp_path, search=PROMOTION, seeds=[1, 2, 3])
    least = plan.least_cost
    assert least is not None
    rungs = sum(group.worst.hours or 0.0 for group in plan.groups[:3])
    assert least.trainer_gpu_hours == pytest.approx(8 * (rungs + 3 * hours))
    # Two runs at a time.
    assert least.hours == pytest.approx(rungs + 2 * hours)


def test_rounds_of_a_population_and_of_a_schedule_count_their_own_updates(tmp_path: Path) -> None:
    population = {"num_samples": 4, "scheduler": {"type": "pbt", "perturb_interval": 80}}
    plan, _ = planned(tmp_path, search=population, seeds=[1])
    assert [(group.name, group.runs, group.worst.updates) for group in plan.groups] == [
        ("SRPO: round 1", 4, 80),
        ("SRPO: round 2", 4, 80),
        ("SRPO: round 3", 4, 40),
        ("SRPO: seeds", 1, 200),
    ]
    schedule = [{"updates": updates, "set": {LR: rate}} for updates, rate in ((50, 1e-5), (200, 2e-5))]
    plan, _ = planned(tmp_path, arms=[{"name": "SRPO", "schedule": schedule}], search={}, seeds=[1, 2])
    assert [(group.name, group.runs, group.worst.updates) for group in plan.groups] == [
        ("SRPO: seeds, round 1", 2, 50),
        ("SRPO: seeds", 2, 150),
    ]


def test_run_that_continues_another_counts_its_own_updates(tmp_path: Path) -> None:
    base = load_experiment(experiment_file(tmp_path))[1]
    source = RunFolder(tmp_path / "first")
    source.make()
    source.config.write_text(to_yaml(base.model_copy(update={"name": "first"})))
    following = apply(base, {"training.num_updates": 250, "start_from": str(source.path)})
    missing = make_plan(following, H100)
    assert missing.updates == 250
    assert any("is no finished run yet, so all updates are counted" in note for note in missing.notes)
    source.finished.write_text("{}")
    write_text(Path(source.checkpoints) / checkpoint_name(200) / MANIFEST, "{}")
    plan = make_plan(following, H100)
    # Evaluations and checkpoints at 220, 240 and 250; that of the base model is taken over.
    assert (plan.updates, plan.evaluations, plan.checkpoints) == (50, 3, 3)
    other = make_plan(apply(following, {"evaluation.num_steps": 7}), H100)
    assert (other.updates, other.evaluations) == (50, 4)


def test_budget_is_compared_with_an_allowance_for_starts(tmp_path: Path) -> None:
    plan, hours = planned(tmp_path, seeds=[1, 2, 3], budget={"hours": 100})
    # A search of 5 trials and 3 seeds, two at a time: two phases, and 3 + 2 turns.
    assert plan.starts("worst").hours == pytest.approx((2 * 30 + 5 * 15) / 3600)
    text = " ".join(experiment_plan_text(plan).split())
    total = 5 * hours + plan.starts("worst").hours
    assert f"expected {total:.2f}, worst {total:.2f}, of which starts of phases and runs 0.04" in text
    assert "30 s of each phase and 15 s of each run" in text


def test_cost_without_early_stopping_is_runs_times_their_hours(tmp_path: Path) -> None:
    plan, hours = planned(tmp_path, gpus=24)
    cost = plan.cost("worst")
    assert cost is not None
    assert (plan.runs, plan.concurrency) == (8, 2)
    assert cost.trainer_gpu_hours == pytest.approx(8 * 8 * hours)
    # 5 trials, two at a time, then 3 seeds.
    assert cost.hours == pytest.approx((3 + 2) * hours)
    assert cost.reward_gpu_hours == pytest.approx(5 * hours * 0.5)
    assert cost.money(plan.prices) == pytest.approx(64 * hours * 2.5 + 2.5 * hours * 1.0)
    assert plan.cost("expected") == cost
    assert plan.updates("worst") == 8 * 200


def test_early_stopping_is_expected_to_save_the_updates_evaluations_and_checkpoints_after_a_rung(
    tmp_path: Path,
) -> None:
    stopping = {"num_samples": 8, "scheduler": {"grace_updates": 40, "reduction_factor": 2}}
    plan, hours = planned(tmp_path, search=stopping, seeds=[])
    config, base = load_experiment(experiment_file(tmp_path, search=stopping, seeds=[]))
    run = make_plan(base, H100)
    assert run.update_s is not None
    assert run.evaluation_s is not None
    training, interval = base.training, base.evaluation.interval
    assert (training.num_updates, training.checkpoint_interval, interval) == (200, 20, 20)

    def until(update: int) -> float:
        assert run.update_s is not None
        assert run.evaluation_s is not None
        return update * run.update_s + (1 + update // 20) * run.evaluation_s + update // 20 * run.checkpoint_s

    trials = (4 * until(40) + 2 * until(80) + until(160)) / 3600 + hours
    expected, worst = plan.cost("expected"), plan.cost("worst")
    assert expected is not None
    assert worst is not None
    assert expected.trainer_gpu_hours == pytest.approx(8 * trials)
    assert worst.trainer_gpu_hours == pytest.approx(8 * 8 * hours)
    assert expected.hours == pytest.approx(trials / 2)
    assert plan.updates("expected") == 4 * 40 + 2 * 80 + 160 + 200
    assert config.search.num_samples == 8


def test_trials_of_a_space_count_as_its_mean_and_at_worst_as_its_most_expensive_values(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, arms=[{"name": "SRPO", "space": SPACE}], seeds=[])
    base = load_experiment(experiment_file(tmp_path))[1]
    short, long = (make_plan(apply(base, {"rollout.num_steps": steps}), H100).run_s or 0.0 for steps in (20, 50))
    expected, worst = plan.cost("expected"), plan.cost("worst")
    assert expected is not None
    assert worst is not None
    assert expected.trainer_gpu_hours == pytest.approx(5 * 8 * (short + long) / 2 / 3600)
    assert worst.trainer_gpu_hours == pytest.approx(5 * 8 * long / 3600)
    least = plan.least_cost
    assert least is not None
    assert least.hours == pytest.approx(short / 3600)


def test_least_of_a_search_is_a_trial_even_if_a_run_after_it_is_shorter(tmp_path: Path) -> None:
    ablation = {"name": "short", "set": {"training.num_updates": 20}}
    plan, hours = planned(tmp_path, ablations=[ablation], seeds=[1])
    assert min(group.shortest_hours or 0.0 for group in plan.groups) < hours / 2
    least = plan.least_cost
    assert least is not None
    assert least.hours == pytest.approx(hours)


def test_least_of_a_search_is_a_trial_alone_with_the_whole_reward_pool(tmp_path: Path) -> None:
    for gpus in (None, 16.5, 24.5):
        plan, hours = planned(tmp_path, gpus, seeds=[])
        least = plan.least_cost
        assert least is not None
        assert (least.trainer_gpu_hours, least.reward_gpu_hours) == pytest.approx((8 * hours, 0.5 * hours))


def test_conditional_values_are_planned_only_where_their_condition_holds(tmp_path: Path) -> None:
    space = {
        "algorithm.query": {"choice": ["relative", "plain"]},
        "algorithm.hinge": {"uniform": [0, 2], "when": {"algorithm.query": "relative"}},
        "algorithm.branches": {"choice": [["denoise"]], "when": {"algorithm.query": "plain"}},
        "rollout.num_steps": {"choice": [20, 30], "when": {"algorithm.query": "plain"}},
    }
    plan, relative = planned(tmp_path, arms=[{"name": "SRPO", "space": space}], seeds=[])
    base = load_experiment(experiment_file(tmp_path))[1]
    plain = {"algorithm.query": "plain", "algorithm.branches": ["denoise"]}
    short, long = (
        (make_plan(apply(base, {**plain, "rollout.num_steps": steps}), H100).run_s or 0.0) / 3600 for steps in (20, 30)
    )
    assert len({relative, short, long}) == 3
    expected = plan.cost("expected")
    assert expected is not None
    assert expected.trainer_gpu_hours == pytest.approx(5 * 8 * (relative / 2 + short / 4 + long / 4))
    promotion = {"type": "promotion", "rungs": [{"updates": 10, "keep": 0.5}, {"updates": 100}]}
    search = {"num_samples": 4, "scheduler": promotion, "set": {"training.num_updates": 100}}
    parts, _ = planned(tmp_path, arms=[{"name": "SRPO", "space": space}], seeds=[], search=search)
    assert parts.updates("expected") == 4 * 10 + 2 * 90


def test_memory_is_that_of_the_largest_combination_of_a_grid(tmp_path: Path) -> None:
    grid = {"training.ema": [None, {"decay": 0.99}], "training.offload": ["optimizer", None], LR: [1e-5, 2e-5]}
    plan, _ = planned(tmp_path, arms=[{"name": "SRPO", "grid": grid}], seeds=[])
    base = load_experiment(experiment_file(tmp_path))[1]
    largest = apply(base, {"training.ema": {"decay": 0.99}, "training.offload": None})
    assert plan.runs == 8
    assert plan.peak == make_plan(largest, H100).peak
    assert plan.groups[0].largest == 'training.ema={"decay": 0.99}, training.offload=null'


def test_values_that_may_be_added_to_grids_count_in_the_worst_case_only(tmp_path: Path) -> None:
    arms = [
        {"name": "a", "grid": {LR: [1e-5, 2e-5, 4e-5]}, "widen": 1},
        {"name": "b", "grid": {LR: [1e-5, 2e-5]}, "widen": 3},
    ]
    plan, hours = planned(tmp_path, arms=arms, seeds=[1], budget={"hours": 1000})
    assert [(group.name, group.count("expected"), group.count("worst")) for group in plan.groups] == [
        ("a: grid", 3, 3),
        ("b: grid", 2, 2),
        ("a: widening", 0, 1),
        ("b: widening", 0, 3),
        ("a: seeds", 1, 1),
        ("b: seeds", 1, 1),
    ]
    assert (plan.count("expected"), plan.count("worst"), plan.updates("worst")) == (7, 11, 11 * 200)
    expected, worst = plan.cost("expected"), plan.cost("worst")
    assert expected is not None
    assert worst is not None
    assert worst.trainer_gpu_hours == pytest.approx(11 * 8 * hours)
    # Two at a time: 3 turns of grids, 1 of seeds; the three values of b follow each other, that of a is beside one.
    assert (expected.hours, worst.hours) == (pytest.approx(4 * hours), pytest.approx((4 + 3) * hours))
    assert plan.starts("expected").hours == pytest.approx((2 * 30 + 4 * 15) / 3600)
    assert plan.starts("worst").hours == pytest.approx((5 * 30 + 7 * 15) / 3600)
    text = experiment_plan_text(plan)
    assert "mine: 7 / 11 runs, 2 at a time" in text
    assert "0 / 3" in text


def test_added_values_that_cost_more_count_in_the_worst_case(tmp_path: Path) -> None:
    steps = "rollout.num_steps"
    arms = [{"name": "a", "grid": {steps: [20, 40]}, "widen": 1}]
    plan, _ = planned(tmp_path, arms=arms, seeds=[1])
    base = load_experiment(experiment_file(tmp_path))[1]
    run_s = {each: make_plan(apply(base, {steps: each}), H100).run_s or 0.0 for each in (20, 40, 80)}
    grid, widening, seeds = plan.groups
    mean, most, least = ((run_s[20] + run_s[40]) / 2 / 3600, run_s[80] / 3600, run_s[20] / 3600)
    assert (grid.worst.hours, widening.worst.hours) == (pytest.approx(mean), pytest.approx(most))
    assert (seeds.expected.hours, seeds.worst.hours) == (pytest.approx(mean), pytest.approx(most))
    assert plan.least_cost is not None
    assert plan.least_cost.hours == pytest.approx(least)


def test_tests_of_a_run_are_planned_as_two_evaluations_of_their_prompts(tmp_path: Path) -> None:
    base = load_experiment(experiment_file(tmp_path))[1]
    evaluation = base.evaluation
    prompts = {"prompts": "test.txt", "num_prompts": evaluation.num_prompts}
    tested = apply(base, {"evaluation.test": {**prompts, "samples_per_prompt": evaluation.samples_per_prompt}})
    alone, both = make_plan(base, H100), make_plan(tested, H100)
    assert alone.run_s is not None
    assert alone.evaluation_s is not None
    assert both.run_s == pytest.approx(alone.run_s + 2 * alone.evaluation_s)


@pytest.mark.parametrize(
    ("most", "gpus", "expected"),
    [(2, None, 2), ("auto", None, 1), (2, 80, 2), (4, 24, 2), ("auto", 80, 9), (4, 8.5, 1)],
)
def test_concurrent_runs_have_room_beside_the_rewards(
    most: Any, gpus: float | None, expected: int, tmp_path: Path
) -> None:
    config = load_experiment(experiment_file(tmp_path, max_concurrent_trials=most))[0]
    assert concurrent_runs(config, 8, 0.5, gpus) == expected


@pytest.mark.parametrize(
    ("values", "concurrency", "apart"),
    [
        # 24.5 GPUs would be needed for three runs and the rewards on the same nodes.
        ({}, 2, 0.0),
        ({"base": [str(RECIPES / name) for name in ("flux_lora_8x80gb.yaml", "rewards_own_node.yaml")]}, 3, 0.5),
        ({"gpus": {"trainers": "H100", "rewards": "L40S"}}, 3, 0.5),
        ({"gpus": {"trainers": "H100", "rewards": "H100"}}, 2, 0.0),
    ],
)
def test_rewards_on_nodes_of_their_own_take_no_gpu_from_the_runs(
    values: dict[str, Any], concurrency: int, apart: float, tmp_path: Path
) -> None:
    config, base = load_experiment(experiment_file(tmp_path, max_concurrent_trials="auto", **values))
    plan = make_experiment_plan(config, base, H100, gpus=24)
    assert (plan.concurrency, plan.gpus) == (concurrency, 24)
    assert (plan.reward_gpus, plan.reward_gpus_apart) == (0.5, apart)
    words = "; reward replicas reserve 0.5 GPUs on" if apart else ", of which reward replicas reserve 0.5"
    assert f"mine: 8 runs, {concurrency} at a time on 24 GPUs{words}" in experiment_plan_text(plan)


@pytest.mark.parametrize(("gpus", "fewest", "most", "workers"), [(32, 8, 2, 16), (8, 2, 1, 8)])
def test_range_of_workers_is_planned_with_the_fewest_and_with_the_most_that_fit(
    gpus: float, fewest: int, most: int, workers: int, tmp_path: Path
) -> None:
    size = {"training.batch_size": 32, "training.micro_batch_size": None}
    elastic = {"training.num_workers": {"min": 4, "max": 16}, "training.resources": {"trainer_slot": 1}}
    arms = [{"name": "SRPO", "space": {LR: SPACE[LR]}, "set": size | elastic}]
    base = [str(RECIPES / name) for name in ("flux_lora_8x80gb.yaml", "rewards_own_node.yaml")]
    plan, _ = planned(tmp_path, gpus=gpus, base=base, arms=arms, max_concurrent_trials="auto")
    run = load_experiment(experiment_file(tmp_path, base=base))[1]
    assert plan.grown is not None
    for found, concurrency, number in ((plan, fewest, 4), (plan.grown, most, workers)):
        # A forward pass has the two prompts of a worker's share on 16 workers, whatever their number.
        sized = size | {"training.num_workers": number, "training.micro_batch_size": 2}
        fixed = make_plan(apply(run, sized), H100)
        assert fixed.run_s is not None
        cost, hours = found.cost("worst"), fixed.run_s / 3600
        assert cost is not None
        assert found.peak == fixed.peak
        assert found.concurrency == concurrency
        assert cost.trainer_gpu_hours == pytest.approx(8 * number * hours)
        assert cost.hours == pytest.approx((-(-5 // concurrency) + -(-3 // concurrency)) * hours)
    text = experiment_plan_text(plan)
    assert f"with the fewest workers, {fewest} at a time" in text
    assert f"with the most workers, {most} at a time" in text
    assert plan.to_json()["grown"]["concurrency"] == most


def test_calls_of_an_update_are_those_of_its_rollouts_and_three_for_each_gradient() -> None:
    _, base = load_experiment(ROOT / "configs" / "experiments" / "small_world_sweep.yaml")
    # 8 prompts, 12 steps, two branches.
    assert run_calls(base) == 8 * (12 + 2 * 3)
    # An image of AWM is compared with the old weights at each of its 4 points, one of CRD with the policy too.
    group = {"training.batch_size": 2, "algorithm.group_size": 8}
    assert run_calls(apply(base, {"algorithm.type": "awm", **group})) == 16 * (12 + 4 + 4 * 3)
    assert run_calls(apply(base, {"algorithm.type": "crd", **group})) == 16 * (12 + 2 * 4 + 4 * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--price", "H1000=2"], "price: expected a price for one of A100-40GB"),
        (["--price", "H100"], "--price: expected GPU=X such as H100=2.5, got 'H100'"),
        (["--gpu", "H100", "--gpus", "8"], "expected at least 8.5 GPUs for one run of mine"),
        (["--gpus", "16", "--nodes", "2"], "expected --gpus or --nodes, got both"),
        (["--gpus", "inf"], "--gpus, --nodes: expected a number above 0, got inf"),
        (["--gpus", "nan"], "--gpus, --nodes: expected a number above 0, got nan"),
        (["--nodes", "0"], "--gpus, --nodes: expected a number above 0, got 0"),
        (
            ["--price", "H100=2", "--price", "H100=5"],
            "--price: expected one price for each GPU model, got two for H100",
        ),
        (["experiment.budget={money: 5}"], "expected `price` with budget.money=5"),
        (["experiment.budget={gpu_hours: 1}", "--gpu", "H100"], "budget.gpu_hours: expected at least"),
        (["experiment.budget={money: 5}", "--price", "H100=2.5"], "budget.money: expected at least"),
    ],
)
def test_unusable_option_is_refused_with_one_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(experiment_file(tmp_path)), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_option_of_experiments_is_refused_for_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(ROOT / "configs" / "small_world.yaml"), "--gpus", "8"]) == 2
    assert "--gpus: expected an experiment file, which has `arms`" in capsys.readouterr().err


def test_command_prints_and_writes_the_plan_of_an_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "plan.json"
    arguments = ["experiment.budget={gpu_hours: 60}", "--nodes", "3", "--price", "H100=2.5", "--json", str(figures)]
    assert main(["plan", str(experiment_file(tmp_path)), *arguments]) == 0
    printed, values = capsys.readouterr().out, json.loads(figures.read_text())
    assert "mine: 8 runs, 2 at a time on 24 GPUs, of which reward replicas reserve 0.5" in printed
    assert "budget of 60 GPU-hours does not cover the expected case" in printed
    worst = values["worst"]
    # One price for both kinds of GPUs.
    assert worst["money"] == pytest.approx(2.5 * (worst["trainer_gpu_hours"] + worst["reward_gpu_hours"]))


def test_plan_on_the_cpu_states_that_it_has_no_hours_and_prints_runs_and_calls(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
    assert main(["plan", str(file), "--gpu", "H100"]) in (0, 1)
    printed = " ".join(capsys.readouterr().out.split())
    assert "hours, GPU-hours and money are not planned: the trainers run on the CPU" in printed
    assert "small_world_sweep: 13 runs, 2 at a time" in printed
    # 8 trials, 3 seeds and an ablation of 5760 calls; plain rewards need 12 + 3 for each of 320 images.
    assert f"{12 * 5760 + 320 * 15:,}" in printed
