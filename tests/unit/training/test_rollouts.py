"""Reuse of rollouts: updates against a loop in plain torch, what is kept, and what a checkpoint gives back."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.algorithms.direct_align import DirectAlign
from srpo_ray.algorithms.rollout import Rollout
from srpo_ray.config import RunConfig, load_run
from srpo_ray.data.mixture import Prompts
from srpo_ray.flow import Draws, generator
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.policy import Evaluations
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.runs.checkpoint import Checkpoint
from srpo_ray.runs.checkpoint_files import ROLLOUTS
from srpo_ray.training.meters import StageTimer
from srpo_ray.training.rollouts import KeptRollouts, resume_rollouts
from srpo_ray.training.trainer import Trainer
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import SHAPE, AffinePolicy, PromptRewards, grid

REUSE, BATCH, STEPS, UPDATES, PROMPTS, LR = 3, 4, 5, 8, 7, 0.05


class CountedPolicy(AffinePolicy):
    """Counts samples as `FlowPolicy` does."""

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self) -> None:
        super().__init__()
        self.counted = Evaluations()

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        if torch.is_grad_enabled():
            self.counted.forward_backward += len(tokens)
        else:
            self.counted.forward += len(tokens)
        return super().velocity(tokens, sigma, conditioning, guidance_scale)

    def take_evaluations(self) -> Evaluations:
        taken, self.counted = self.counted, Evaluations()
        return taken


class PlainEngine:
    """Gradient descent; counts how often weights are gathered."""

    lr = LR

    def __init__(self, policy: AffinePolicy) -> None:
        self.weights = (policy.slope, policy.offset)
        self.gathers = 0

    @contextmanager
    def gathered(self) -> Iterator[None]:
        self.gathers += 1
        yield

    @contextmanager
    def shown(self, role: str) -> Iterator[None]:
        assert role in ("policy", "reference", "old"), "all roles of the first update have the initial weights"
        yield

    def refresh_old(self, kept: float) -> None:
        """Keep no other weights."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> float:
        descend(self.weights)
        return 0.0


class Rewards(PromptRewards):
    def take_statistics(self) -> dict[str, float]:
        return {}


def descend(weights: tuple[Tensor, ...]) -> None:
    for weight in weights:
        assert weight.grad is not None
        weight.data -= LR * weight.grad
        weight.grad = None


def config_with(*overrides: str) -> RunConfig:
    settings = (
        "algorithm.type=direct_align",
        "algorithm.hinge=1e6",
        f"training.batch_size={BATCH}",
        "training.micro_batch_size=2",
        f"rollout.num_steps={STEPS}",
    )
    return load_run([SMALL_WORLD], [*settings, *overrides])


def make_trainer(config: RunConfig, kept: KeptRollouts, policy: CountedPolicy, rank: int = 0, workers: int = 1) -> Any:
    rewards = Rewards()
    texts = [f"prompt {number}" for number in range(PROMPTS)]
    rest: Any = SimpleNamespace(folder=None, evaluator=None)
    return Trainer(
        config=config,
        folder=rest.folder,
        engine=cast(Any, PlainEngine(policy)),
        policy=cast(Any, policy),
        rewards=cast(Any, rewards),
        algorithm=build_algorithm(config, cast(Any, policy), cast(RewardScorer, rewards)),
        evaluator=rest.evaluator,
        prompts=Prompts(texts, Conditioning(torch.zeros(PROMPTS, 1, 1), torch.zeros(PROMPTS, 1))),
        rollouts=kept,
        rank=rank,
        world_size=workers,
        timer=StageTimer(),
        meter=cast(Any, SimpleNamespace(add=lambda *_, **__: None, take=dict)),
    )


def noise_of(purpose: str, update: int, scope: str, seed: int) -> Tensor:
    addresses = [(update, sample) if scope == "per_sample" else (update,) for sample in range(BATCH)]
    return torch.stack([torch.randn(SHAPE, generator=generator(seed, purpose, *each)).double() for each in addresses])


def plain_loop(config: RunConfig, prompts: Prompts, scope: str) -> tuple[Tensor, Tensor]:
    """Slope and offset after the same updates: one rollout per window, then steps by the formula of Direct-Align."""
    policy: Any = AffinePolicy()
    algorithm = build_algorithm(config, policy, cast(Any, None))
    assert isinstance(algorithm, DirectAlign)
    numbers, clean = torch.empty(0), torch.empty(0)
    for update in range(UPDATES):
        if update % REUSE == 0:
            numbers = torch.tensor(prompts.indices(update // REUSE, BATCH, config.seed)) + 1.0
            noise = clean = noise_of("rollout", update, scope, config.seed)
            with torch.no_grad():
                for here, there in zip(grid(STEPS), grid(STEPS)[1:], strict=False):
                    clean = clean + (there - here) * (policy.slope * clean + policy.offset)
        else:
            noise = noise_of("real", update, scope, config.seed)
        start, landing = algorithm._steps(Batch((), cast(Any, None), Draws(config.seed, update, tuple(range(BATCH)))))
        start, landing = (sigma[:, None, None].double() for sigma in (start, landing))
        noisy = (1 - start) * clean + start * noise
        landed = noisy + (landing - start) * (policy.slope * noisy + policy.offset)
        image = (landed - landing * noise) / (1 - landing)
        (-(numbers.double() * image.mean(dim=(1, 2))).mean()).backward()
        descend((policy.slope, policy.offset))
    return policy.slope.detach(), policy.offset.detach()


@pytest.mark.parametrize("scope", ["shared", "per_sample"])
def test_updates_of_a_window_are_those_of_a_plain_loop_that_samples_once(scope: str) -> None:
    config = config_with(f"rollout.reuse={REUSE}", f"algorithm.noise={scope}")
    policy = CountedPolicy()
    trainer = make_trainer(config, KeptRollouts(REUSE), policy)
    rows = [trainer.update(update) for update in range(UPDATES)]
    slope, offset = plain_loop(config, trainer.prompts, scope)
    torch.testing.assert_close(policy.slope.detach(), slope, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(policy.offset.detach(), offset, rtol=1e-6, atol=1e-9)
    assert [row["cost/forward"] for row in rows] == [BATCH * STEPS, 0, 0, BATCH * STEPS, 0, 0, BATCH * STEPS, 0]
    assert {row["cost/forward_backward"] for row in rows} == {BATCH}
    assert trainer.engine.gathers == 3


def test_window_of_one_update_keeps_nothing_and_goes_through_the_prompts_as_before() -> None:
    policy, kept = CountedPolicy(), KeptRollouts(1)
    trainer = make_trainer(config_with(), kept, policy)
    for update in range(3):
        expected = trainer.prompts.indices(update, BATCH, 0)
        seen = [text for batch, _ in trainer.batches(update) for text in batch.prompts]
        assert seen == [f"prompt {index}" for index in expected]
        assert not any(batch.image_rows for batch, _ in trainer.batches(update))
        assert trainer.update(update)["cost/forward"] == BATCH * STEPS
        assert kept.state(update + 1) == {}


def test_checkpoint_inside_a_window_continues_it_to_the_bit() -> None:
    config = config_with(f"rollout.reuse={REUSE}")
    policy, kept = CountedPolicy(), KeptRollouts(REUSE)
    trainer = make_trainer(config, kept, policy)
    for update in range(5):
        trainer.update(update)
    weights, state = (policy.slope.item(), policy.offset.detach().clone()), kept.state(5)
    for update in range(5, UPDATES):
        trainer.update(update)
    again = CountedPolicy()
    again.slope.data.fill_(weights[0])
    again.offset.data.copy_(weights[1])
    resumed = make_trainer(config, resume_rollouts(config, checkpoint(5, state), "cpu"), again)
    for update in range(5, UPDATES):
        resumed.update(update)
    assert torch.equal(again.slope, policy.slope)
    assert torch.equal(again.offset, policy.offset)


def checkpoint(updates: int, rollouts: Mapping[str, Tensor]) -> Checkpoint:
    return Checkpoint(updates, {}, {}, {}, {}, {ROLLOUTS: rollouts})


def test_parts_of_all_workers_are_the_whole_batch_once_even_where_one_computes_a_pass_twice() -> None:
    elastic = ("training.num_workers={min: 1, max: 2}", "training.resources={trainer_slot: 1}")
    config = config_with(f"rollout.reuse={REUSE}", *elastic, "training.batch_size=6", "training.micro_batch_size=1")
    whole: dict[str, Tensor] = {}
    # Six passes for four workers: two of them compute one that counts nothing.
    for rank in range(4):
        kept = KeptRollouts(REUSE)
        make_trainer(config, kept, CountedPolicy(), rank, workers=4).update(0)
        assert not whole.keys() & kept.state(1).keys()
        whole |= kept.state(1)
    alone = KeptRollouts(REUSE)
    make_trainer(config, alone, CountedPolicy()).update(0)
    assert whole.keys() == alone.state(1).keys() == {f"sample_{sample:06d}" for sample in range(6)}
    for name, tokens in alone.state(1).items():
        assert torch.equal(tokens, whole[name])
    for workers in (1, 2, 4):
        kept = resume_rollouts(config, checkpoint(1, whole), "cpu")
        for rank in range(workers):
            for batch, _ in make_trainer(config, kept, CountedPolicy(), rank, workers).batches(1):
                assert batch.images is not None
                assert torch.equal(batch.images[0, 0], whole[f"sample_{batch.draws.samples[0]:06d}"])


def test_checkpoint_between_two_windows_has_no_rollouts() -> None:
    kept = KeptRollouts(2)
    batch = Batch(("a",), cast(Any, None), Draws(0, 4, (0,)))
    kept.keep(4, [(batch, 1.0, Rollout(torch.ones(1, 2, 3), torch.zeros(1, 2, 3)))])
    assert list(kept.state(5)) == ["sample_000000"]
    assert kept.state(6) == {}
    assert kept.tokens(6, [0]) == {}


def test_resumed_window_writes_the_whole_batch_again() -> None:
    config = config_with("rollout.reuse=4")
    state = {f"sample_{sample:06d}": torch.full(SHAPE, float(sample)) for sample in range(BATCH)}
    assert resume_rollouts(config, checkpoint(1, state), "cpu").state(2).keys() == state.keys()


def test_checkpoint_that_lacks_the_rollouts_of_its_window_is_refused() -> None:
    config = config_with("rollout.reuse=2")
    with pytest.raises(ValueError, match=r"clean tokens of 4 samples .* update 3, .* got 0; .*rollout.reuse"):
        resume_rollouts(config, checkpoint(3, {}), "cpu")
    assert resume_rollouts(config, checkpoint(4, {}), "cpu").state(4) == {}


@pytest.mark.parametrize(("name", "value"), [("loss/policy", math.nan), ("loss/anchor", math.inf)])
def test_run_stops_at_a_loss_that_is_not_finite(name: str, value: float) -> None:
    trainer = make_trainer(config_with(), KeptRollouts(1), CountedPolicy())
    trainer.meter.take = lambda: {"reward/total/denoise": math.nan, name: value}
    with pytest.raises(ValueError, match=rf"expected a finite {name} in update 3, got (nan|inf); .*optimizer.lr"):
        trainer.update(3)
    trainer.meter.take = lambda: {"reward/total/denoise": math.nan, name: 1.0}
    assert trainer.update(3)[name] == 1.0


def test_run_stops_at_a_gradient_that_is_not_finite() -> None:
    trainer = make_trainer(config_with(), KeptRollouts(1), CountedPolicy())
    trainer.engine.step = lambda: math.nan
    with pytest.raises(ValueError, match="expected a finite update/gradient_norm in update 0, got nan"):
        trainer.update(0)
