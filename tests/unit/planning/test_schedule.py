"""Planned calls of a micro-batch and of an update; for those of each algorithm see `training/test_every_algorithm`."""

from typing import Any, ClassVar, Literal, cast

import pytest

from srpo_ray.config import RunConfig, apply
from srpo_ray.config.algorithms.base import AlgorithmSection, Calls, Needs
from srpo_ray.launch.preflight import losses_notes
from srpo_ray.planning import zero_shares
from srpo_ray.planning.devices import trainer_memory
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.planning.workload import worker_traffic, worker_work
from tests.helpers.algorithms.variants import MIXED


def test_half_as_many_rollouts_are_planned_as_half_the_work(tiny_run: RunConfig) -> None:
    def rollout(changes: dict[str, object]) -> float:
        config = apply(tiny_run, {"training.batch_size": 4, **changes})
        return next(work.flops for work in worker_work(config, (32,)) if work.name.startswith("rollout"))

    assert rollout(MIXED) == pytest.approx(rollout({}) / 2)
    assert rollout({"data.images": "small_world:realistic"}) == 0
    assert rollout({"rollout.source": "base_model"}) == 0
    assert rollout({"rollout.reuse": 4}) == pytest.approx(rollout({}) / 4)


def test_algorithm_that_does_not_state_its_calls_cannot_be_configured() -> None:
    class Unplanned(AlgorithmSection):
        type: Literal["unplanned"] = "unplanned"

    with pytest.raises(TypeError, match="calls"):
        cast(Any, Unplanned)()


def test_samples_are_those_of_a_micro_batch(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.batch_size": 12, "training.num_workers": 2, "training.micro_batch_size": 2})
    assert (schedule(config).samples, micro_batches(config)) == (2, 3)


def test_losses_in_flight_can_be_fewer_than_the_algorithm_wants(tiny_run: RunConfig) -> None:
    assert schedule(tiny_run).in_flight == 2
    assert schedule(apply(tiny_run, {"training.losses_in_flight": 1})).in_flight == 1


def test_several_workers_keep_one_loss_in_flight_unless_the_config_says_otherwise(tiny_run: RunConfig) -> None:
    several = apply(tiny_run, {"training.num_workers": 2})
    assert (tiny_run.losses_in_flight, several.losses_in_flight) == (2, 1)
    assert schedule(several).in_flight == 1
    assert apply(several, {"training.losses_in_flight": 2}).losses_in_flight == 2
    # Stages 1 and 2 prefetch nothing.
    assert apply(several, {"training.zero_stage": 2}).losses_in_flight == 2
    elastic = {"training.num_workers": {"min": 1, "max": 2}, "training.resources": {"trainer_slot": 1}}
    assert apply(tiny_run, elastic | {"rewards.pool.resources": {"reward_slot": 1}}).losses_in_flight == 1


def test_fewer_losses_in_flight_than_the_algorithm_wants_are_said_once_they_are_not_asked_for(
    tiny_run: RunConfig,
) -> None:
    several = apply(tiny_run, {"training.num_workers": 2})
    (note,) = losses_notes(several)
    assert note.startswith("training.losses_in_flight: 1 with several workers, not the 2 of algorithm.type srpo")
    assert not losses_notes(tiny_run)
    assert not losses_notes(apply(several, {"training.losses_in_flight": 1}))


class GroupedConfig(AlgorithmSection):
    """Twelve images of each prompt, in three passes; two optimizer steps and two phases."""

    needs: ClassVar[Needs] = Needs(roles=frozenset({"reference", "old"}))
    type: Literal["grouped"] = "grouped"

    def calls(self, num_steps: int) -> Calls:
        """Two losses a step."""
        return Calls(float(num_steps), losses=2, images_per_prompt=12, passes_per_prompt=3, phases=2, optimizer_steps=2)


def grouped(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"algorithm": GroupedConfig()})


def test_images_of_a_prompt_are_divided_among_micro_batches(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.batch_size": 12, "training.num_workers": 2, "training.micro_batch_size": 2})
    plan = schedule(grouped(config))
    assert (plan.samples, plan.rolled_out, micro_batches(grouped(config))) == (8, 8, 9)
    assert (plan.gradients, plan.scored) == (4, 32)


def test_weights_are_gathered_for_each_phase_and_each_loss_of_each_optimizer_step(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The small world has no parameter that would be sharded.
    monkeypatch.setattr(zero_shares, "KEPT_WHOLE", 0)
    config = apply(tiny_run, {"training.num_workers": 2, "training.micro_batch_size": 2})
    one, more = ({part.name: part.bytes for part in worker_traffic(each)} for each in (config, grouped(config)))
    assert more["weights gathered for rollouts"] == 2 * one["weights gathered for rollouts"]
    # One micro-batch with two losses, against three with two losses in each of two steps. With several workers, each
    # loss has a backward pass of its own.
    assert more["weights gathered for gradients"] == pytest.approx(6 * one["weights gathered for gradients"], rel=1e-6)
    assert more["gradients averaged"] == pytest.approx(3 * 2 * one["gradients averaged"], rel=1e-6)


def test_gradient_of_a_state_that_images_share_is_planned_once(
    tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_shares, "KEPT_WHOLE", 0)
    branch = {"algorithm.type": "policy_gradient", "algorithm.plan": {"type": "branch", "at": [1]}}
    base = apply(tiny_run, {"training.num_workers": 2, "training.batch_size": 2, **branch})
    four, eight = (apply(base, {"algorithm.group_size": size}) for size in (4, 8))
    works = [{work.name: work.flops for work in worker_work(config, (32,))} for config in (four, eight)]
    traffic = [{part.name: part.bytes for part in worker_traffic(config)} for config in (four, eight)]
    assert works[0]["gradient steps"] == works[1]["gradient steps"]
    assert works[1]["VAE decoder"] == pytest.approx(2 * works[0]["VAE decoder"])
    # Two calls of the common path, and two of each image's tail.
    assert works[1]["rollout"] == pytest.approx(works[0]["rollout"] * (2 + 2 * 8) / (2 + 2 * 4), rel=0.02)
    assert traffic[0]["weights gathered for gradients"] == traffic[1]["weights gathered for gradients"]
    # A call for one state gathers the same weights as one for the whole group.
    alone = apply(base, {"algorithm.plan": {"type": "all", "share": 0.1}})
    (whole,) = (part.bytes for part in worker_traffic(alone) if part.name == "weights gathered for gradients")
    assert traffic[0]["weights gathered for gradients"] == whole


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_memory_counts_the_weights_of_roles(tiny_run: RunConfig, lora: dict[str, int] | None) -> None:
    config = apply(tiny_run, {"model.lora": lora, "model.dtype": "bfloat16"})
    kept = {part.name: part.bytes for part in trainer_memory(grouped(config), (32,)).always}
    assert kept["old weights"] == kept["master weights, float32"]
    # Adapters that are switched off need no copy.
    assert kept.get("reference weights", 0) == (0 if lora else kept["master weights, float32"] / 2)
    plain = {part.name for part in trainer_memory(config, (32,)).always}
    assert not {"old weights", "reference weights"} & plain
