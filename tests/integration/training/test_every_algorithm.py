"""All registered algorithms: planned calls, gradients on two ranks, resume, and updates on one to three ranks.

A newly registered algorithm is in the tests of this file without a line here. The settings come from its file in
`configs/algorithms/`; settings that change its calls can be added to `tests/helpers/algorithms/variants.py`.
"""

import math
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.config.algorithms.group import GroupSection
from srpo_ray.config.algorithms.registry import TYPES
from srpo_ray.config.continuation import run_identity
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.checkpoint import load_checkpoint
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.storage import Storage
from srpo_ray.training.rollouts import KeptRollouts
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from tests.conftest import ROOT, SMALL_WORLD, TINY
from tests.helpers.algorithms.everything import EverythingConfig
from tests.helpers.algorithms.variants import CASES, GIVEN, RICHER, SOURCES, type_of
from tests.helpers.training.algorithm_checks import count, first_update, plain_update
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import relative_error

EVERYTHING = "everything"
TRAINED = [*TYPES, *SOURCES, EVERYTHING]
GROUPS = {"group_size": 3, "images_per_pass": 1, "points": 2}
"""Small groups, of which each forward pass has a part, for algorithms that have groups; two points for each image."""


@pytest.mark.parametrize("case", CASES)
def test_planned_calls_are_those_that_the_algorithm_makes(case: str, tiny_run: RunConfig) -> None:
    own = {"algorithm.type": type_of(case), "rollout.num_steps": 10, "training.batch_size": 2}
    config = apply(tiny_run, {**own, **CASES[case]})
    plan, kept = schedule(config), KeptRollouts(config.rollout.reuse)
    updates = [count(config, update, kept) for update in range(100)]
    assert {each.losses for each in updates} == {plan.gradients}
    assert {each.samples for each in updates} == {plan.samples}
    assert {each.scored for each in updates} == {plan.scored}
    assert {each.pairs for each in updates} == {plan.pairs}
    if plan.rolled_out or not plan.compared:
        # Without rollouts, the largest call without gradient is at the points of the losses.
        assert {each.rolled_out for each in updates} <= {plan.rolled_out, 0}
        assert any(each.rolled_out for each in updates) == (plan.rolled_out > 0)
    assert max(each.chained for each in updates) <= plan.chained
    assert max(each.kept for each in updates) == pytest.approx(plan.kept)
    # Exact where the algorithm draws no number of calls, and else within four standard errors of the mean.
    for expected, found in (
        (plan.forward + plan.compared, [each.forward for each in updates]),
        (
            plan.rolled_out * plan.sampled_work + plan.images * plan.compared,
            [each.forward_samples for each in updates],
        ),
        (plan.mean_chained, [each.chained for each in updates]),
        (plan.samples * plan.trained_work, [plan.gradients * each.chained_samples for each in updates]),
    ):
        assert mean(found) == pytest.approx(expected, abs=4 * stdev(found) / math.sqrt(len(found)) + 1e-9)


def config_of(case: str, run_root: str) -> RunConfig:
    """The small world's run with an algorithm: two micro-batches of two prompts on any number of workers."""
    kind = type_of(case)
    layer = ROOT / "configs" / "algorithms" / f"{kind}.yaml"
    files = [SMALL_WORLD, layer] if layer.exists() else [SMALL_WORLD]
    elastic = "training.num_workers={min: 1, max: 2}", "training.resources={trainer_slot: 1}"
    fields = TYPES[kind].model_fields if kind != EVERYTHING else {}
    grouped = kind != EVERYTHING and issubclass(TYPES[kind], GroupSection)
    own = [f"algorithm.{name}={value}" for name, value in GROUPS.items() if grouped and name in fields]
    selected = [f"algorithm.type={kind}"] if kind != EVERYTHING else []
    more = f"run_root={run_root}", "training.micro_batch_size=2", *selected, *own
    given = [f"{name}={value}" for name, value in GIVEN.get(kind, {}).items()]
    config = load_run(files, [*TINY, *elastic, *given, *more])
    if kind == EVERYTHING:
        return config.model_copy(update={"algorithm": EverythingConfig()})
    return apply(config, SOURCES.get(case, RICHER.get(kind, {})))


def make_trainer(kind: str, config: RunConfig, rewards: LocalRewards, *, resume: bool = False) -> Trainer:
    """A trainer that starts, or one that goes on from the newest checkpoint."""
    folder = RunFolder(Path(config.run_root) / kind)
    checkpoint = load_checkpoint(Storage(folder.checkpoints), run_identity(config)) if resume else None
    trainer = build_trainer(config, folder, rewards, "cpu", checkpoint)
    if kind == EVERYTHING:
        give_pairs(trainer)
    return trainer


def give_pairs(trainer: Trainer) -> None:
    """Two images for every prompt: noise in their place, of which the second is preferred every other time."""
    prompts, (tokens, channels) = trainer.prompts, trainer.policy.token_shape
    count = len(prompts.texts)
    noise = torch.randn(2 * count, tokens, channels, generator=torch.Generator().manual_seed(0))
    rows: Any = type("Pairs", (), {"__len__": lambda _: 2 * count, "__getitem__": lambda _, i: {"tokens": noise[i]}})()
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(-(-count // 2), 1)[:count]
    trainer.prompts = replace(prompts, real=rows, labels=labels, image_ratio=1.0)


def train_on_two(run_root: str) -> dict[str, dict[str, Any]]:
    """Two updates of every algorithm, with gradients of the first one, and its second one once more after a restart."""
    rewards = LocalRewards.load(config_of(TRAINED[0], run_root).rewards.models)
    return {kind: _train_on_two(kind, config_of(kind, run_root), rewards) for kind in TRAINED}


def _train_on_two(kind: str, config: RunConfig, rewards: LocalRewards) -> dict[str, Any]:
    trainer = make_trainer(kind, config, rewards)
    before = joined(trainer.engine.weights())
    expected = plain_update(trainer)[0] if trainer.rank == 0 else {}
    dist.barrier()
    gradients = first_update(trainer)
    moved = changes(before, trainer)
    trainer.save(1)
    metrics = trainer.update(1)
    resumed = make_trainer(kind, config, rewards, resume=True)
    again = resumed.update(1)
    kept, loaded = state_of(trainer), state_of(resumed)
    assert set(kept) == set(loaded)
    return {
        "gradient_error": relative_error(gradients, expected) if trainer.rank == 0 else 0.0,
        "gradient_size": sum(value.pow(2).sum().item() for value in expected.values()),
        "lost": [name for name, value in kept.items() if not torch.equal(value, loaded[name])],
        "metrics": {name: (value, again[name]) for name, value in metrics.items() if is_result(name)},
        "cost": (metrics["cost/forward"], metrics["cost/forward_backward"]),
        "changes": moved,
        "state": trainer.algorithm.state,
    }


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    """State that the next update depends on."""
    engine = trainer.engine
    parts = {"weights": engine.weights(), "moments": engine.optimizer_state(), "old": engine.old()}
    tensors = {f"{part} {name}": value for part, found in parts.items() for name, value in found.items()}
    return tensors | {f"state {name}": value for name, value in trainer.algorithm.state.items()}


def is_result(name: str) -> bool:
    return not name.startswith(("time/", "memory/", "pool/"))


def changes(before: dict[str, Tensor], trainer: Trainer) -> dict[str, Tensor]:
    after = joined(trainer.engine.weights())
    return {name: after[name] - value for name, value in before.items()}


def train_on_others(run_root: str) -> dict[str, dict[str, Tensor]]:
    """The changes of all weights in one update of every algorithm, and the state after the restart of one."""
    rewards = LocalRewards.load(config_of(TRAINED[0], run_root).rewards.models)
    found = {}
    for kind in TRAINED:
        config = config_of(kind, run_root)
        if config.algorithm.total_calls(config.rollout.num_steps).rollout_parts > 1:
            # Two workers sample groups in parts, the others whole groups.
            config = apply(config, {"algorithm.images_per_pass": None})
        if kind != EVERYTHING and config.sampled_per_pass:
            # One worker samples the images of two micro-batches together, two workers those of each.
            config = apply(config, {"rollout.batch_size": 2 * config.sampled_per_pass})
        trainer = make_trainer(kind, config, rewards)
        before = joined(trainer.engine.weights())
        trainer.update(0)
        found[kind] = changes(before, trainer)
    resumed = make_trainer(EVERYTHING, config_of(EVERYTHING, run_root), rewards, resume=True)
    resumed.update(1)
    return {**found, "state": resumed.algorithm.state}


@pytest.fixture(scope="module")
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("algorithms")


@pytest.fixture(scope="module")
def on_two(run_root: Path) -> dict[str, dict[str, Any]]:
    return run_ranks(train_on_two, 2, run_root, str(run_root))


@pytest.fixture(scope="module")
def on_others(run_root: Path, on_two: dict[str, Any]) -> dict[int, dict[str, dict[str, Tensor]]]:
    return {world_size: run_ranks(train_on_others, world_size, run_root, str(run_root)) for world_size in (1, 3)}


@pytest.mark.parametrize("kind", TRAINED)
def test_gradients_on_two_ranks_are_those_of_plain_torch(on_two: dict[str, Any], kind: str) -> None:
    assert on_two[kind]["gradient_size"] > 0
    assert on_two[kind]["gradient_error"] < 2e-5


@pytest.mark.parametrize("kind", TRAINED)
def test_update_after_a_restart_is_the_one_without_to_the_bit(on_two: dict[str, Any], kind: str) -> None:
    assert on_two[kind]["lost"] == []
    assert all(value == again for value, again in on_two[kind]["metrics"].values())


@pytest.mark.parametrize("kind", TRAINED)
def test_cost_counts_the_planned_samples_of_all_workers(on_two: dict[str, Any], run_root: Path, kind: str) -> None:
    config = config_of(kind, str(run_root))
    plan, passes = schedule(config), micro_batches(config) * 2
    forward = plan.rolled_out * plan.sampled_work + plan.images * plan.compared
    expected = (passes * forward, passes * plan.samples * plan.trained_work)
    # Where the number of calls is drawn, the plan has its mean.
    drawn = plan.chained != plan.mean_chained or plan.forward % 1 or plan.forward_size < 1
    assert on_two[kind]["cost"] == (pytest.approx(expected, rel=0.5) if drawn else expected)


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("kind", TRAINED)
def test_updates_are_the_same_on_any_number_of_ranks(
    on_two: dict[str, Any], on_others: dict[int, Any], kind: str, world_size: int
) -> None:
    expected = on_two[kind]["changes"]
    assert max(value.abs().max().item() for value in expected.values()) > 0
    assert relative_error(on_others[world_size][kind], expected) < 1e-3


@pytest.mark.parametrize("world_size", [1, 3])
def test_state_goes_on_after_a_restart_on_another_number_of_ranks(
    on_two: dict[str, Any], on_others: dict[int, Any], world_size: int
) -> None:
    expected, found = on_two[EVERYTHING]["state"], on_others[world_size]["state"]
    assert expected["updates"].item() == 2
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class BlackBox:
    """A reward without gradient, as a person or an interface on the net would be one."""

    image_size = 32
    image_gradient = False
    name = "black_box"

    def score(self, images: Tensor, queries: Any) -> Tensor:
        return (images.detach() > 0.5).float().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("kind", TYPES)
def test_reward_without_gradient_is_refused_unless_the_algorithm_needs_none(kind: str) -> None:
    target = f"{__name__}:BlackBox"
    rewards = f"rewards.models=[{{name: mine, type: python, target: '{target}'}}]"
    given = [f"{name}={value}" for name, value in GIVEN.get(kind, {}).items()]
    config = load_run([SMALL_WORLD], [f"algorithm.type={kind}", rewards, *given])
    if config.algorithm.inputs.reward != "gradient":
        check_inputs(config)
        return
    with pytest.raises(ValueError, match=r"mine with image_gradient = False; train with algorithm.type="):
        check_inputs(config)
