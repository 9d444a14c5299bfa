"""SRPO against derivations of its own: indices by hand, loss and gradient by formula."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.algorithms.direct_align import gradient_scale
from srpo_ray.algorithms.rollout import Rollout
from srpo_ray.algorithms.srpo import SRPO, branch_steps
from srpo_ray.algorithms.window import build_window
from srpo_ray.config import load_run
from srpo_ray.config.algorithms.control_words import PAPER_WORDS, ControlWords
from srpo_ray.config.algorithms.srpo import SRPOConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.data.mixture import stack_rows
from srpo_ray.flow import Draws, euler_step, numeric_grid, recover_clean
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.base import Scores
from srpo_ray.rewards.query import TextQuery
from tests.conftest import SMALL_WORLD

WORDS = ControlWords(positive=("detailed", "textured"), negative=("flat", "simple", "plain"))
WINDOW = build_window(SRPOConfig(), numeric_grid)


@pytest.mark.parametrize(
    ("draw", "start", "landing", "index"),
    # Stride 100 of 1000 points, at most `draw` and `1000 - draw`; the grid counts from the noisy end.
    [(500, 400, 500, 500), (5, 990, 995, 5), (995, 0, 5, 995), (101, 799, 899, 101), (950, 0, 50, 950)],
)
def test_denoise_steps_from_the_noisier_point(draw: int, start: int, landing: int, index: int) -> None:
    steps = branch_steps("denoise", [draw], WINDOW, (0.1, 0.25))
    assert steps.start.item() == pytest.approx(0.9642857 + start * (0.75 - 0.9642857) / 999, abs=1e-6)
    assert steps.landing.item() == pytest.approx(0.9642857 + landing * (0.75 - 0.9642857) / 999, abs=1e-6)
    assert steps.discount.item() == pytest.approx(0.1 + 0.15 * index / 999, abs=1e-6)


@pytest.mark.parametrize(
    ("draw", "start", "landing", "index"),
    # At draws up to the stride the start would leave the window, so start and landing are one point noisier.
    [(500, 600, 500, 400), (100, 999, 899, 1), (5, 999, 994, 1), (102, 998, 898, 2), (995, 10, 5, 990)],
)
def test_inversion_steps_from_the_cleaner_point(draw: int, start: int, landing: int, index: int) -> None:
    steps = branch_steps("inversion", [draw], WINDOW, (0.3, 0.01))
    assert steps.start.item() == pytest.approx(0.9642857 + start * (0.75 - 0.9642857) / 999, abs=1e-6)
    assert steps.landing.item() == pytest.approx(0.9642857 + landing * (0.75 - 0.9642857) / 999, abs=1e-6)
    assert steps.discount.item() == pytest.approx(0.3 - 0.29 * index / 999, abs=1e-6)


class LinearPolicy:
    """Velocity is a parameter, and an image is its clean tokens."""

    def __init__(self, velocity: Tensor) -> None:
        self.parameter = velocity.requires_grad_()
        self.calls: list[tuple[Tensor, Conditioning, float]] = []
        self.rolled_out: list[int] = []
        """Samples of each rollout."""

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(2, 3, generator=g).double() for g in generators])

    def rollout(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        sigmas: Tensor,
        guidance_scale: float,
        cache_threshold: float | None = None,
    ) -> Tensor:
        assert len(noise) == len(conditioning)
        self.rolled_out.append(len(noise))
        return torch.tanh(noise) + guidance_scale

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        self.calls.append((sigma, conditioning, guidance_scale))
        return self.parameter[: len(tokens)]

    def decode_for_training(self, tokens: Tensor) -> Tensor:
        return tokens


TEXT_FEATURES = {"flat": 0.3, "simple": -0.2, "plain": 0.9, "detailed": -0.7, "textured": 0.4}


class LinearRewards:
    """Score = mean of the image times the query's weighted word values."""

    def __init__(self) -> None:
        self.queries: list[Sequence[TextQuery]] = []

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> Any:
        self.queries.append(queries)
        slopes = [sum(w * TEXT_FEATURES.get(t.split(".")[0], 1.0) for w, t in query.terms) for query in queries]
        total = images.mean(dim=(1, 2)) * torch.tensor(slopes, dtype=torch.float64)
        return SimpleNamespace(result=lambda: Scores(total, {"linear": total.detach()}))


def make(
    config: SRPOConfig, batch_size: int = 3, step: int = 1, real: Mapping[int, Tensor] | None = None
) -> tuple[SRPO, LinearPolicy, LinearRewards, Batch]:
    policy = LinearPolicy(torch.randn(batch_size, 2, 3, dtype=torch.float64))
    rewards = LinearRewards()
    algorithm = SRPO(config, RolloutConfig(), cast(FlowPolicy, policy), cast(Any, rewards), words=WORDS)
    conditioning = Conditioning(torch.zeros(batch_size, 1, 1), torch.zeros(batch_size, 1))
    prompts = tuple(f"prompt {index}" for index in range(batch_size))
    return (
        algorithm,
        policy,
        rewards,
        with_images(Batch(prompts, conditioning, Draws(7, step, tuple(range(batch_size)))), real or {}),
    )


def with_images(batch: Batch, real: Mapping[int, Tensor]) -> Batch:
    """The batch with one image in each of some rows."""
    images = stack_rows({row: tokens[None] for row, tokens in real.items()}, len(batch.prompts))
    return replace(batch, images=images, image_rows=tuple(real))


def test_loss_and_gradient_of_the_velocity_are_the_hand_formulas() -> None:
    algorithm, policy, _, batch = make(SRPOConfig(), step=2)
    rollout = algorithm.collect(batch)
    losses = [loss().loss for loss in algorithm.losses(batch, rollout)]
    torch.stack(losses).sum().backward()

    # Words of update 2. An image is x0 + (velocity - (noise - x0)) * (landing - start) / (1 - landing), its reward the
    # mean times the query's slope; a branch's loss is the mean over the batch of relu(0.7 - reward), halved.
    own, other = TEXT_FEATURES["detailed"], TEXT_FEATURES["plain"]
    clean, error = rollout.clean, policy.parameter.detach() - (rollout.noise - rollout.clean)
    gradient = torch.zeros(3, dtype=torch.float64)
    for branch, loss in zip(("denoise", "inversion"), losses, strict=True):
        by_hand = 0.0
        for sample in range(3):
            draw = _draw(7, batch.draws.update, sample)
            start, landing = _indices(branch, draw)
            sigma, sigma_next = (27 / 28 + i * (0.75 - 27 / 28) / 999 for i in (start, landing))
            move = (sigma_next - sigma) / (1 - sigma_next)
            if branch == "denoise":
                slope = (1 + 0.1 + 0.15 * draw / 999) * own - other
            else:
                slope = (1 + 0.3 - 0.29 * (1000 - start) / 999) * other - own
            reward = slope * (clean[sample] + move * error[sample]).mean().item()
            by_hand += 0.5 / 3 * max(0.7 - reward, 0.0)
            gradient[sample] += -0.5 / 3 * slope / 6 * move * (reward < 0.7)
        # Sigmas and discounts reach the algorithm as float32.
        assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert policy.parameter.grad is not None
    for sample in range(3):
        torch.testing.assert_close(policy.parameter.grad[sample], gradient[sample].expand(2, 3), rtol=5e-5, atol=1e-12)


def _draw(seed: int, step: int, sample: int, renoising: int = 0) -> int:
    import hashlib

    digest = hashlib.blake2b(f"{seed}/landing/{step}/{sample}/{renoising}".encode(), digest_size=8).digest()
    source = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return int(torch.randint(5, 996, (), generator=source))


def _indices(branch: str, draw: int) -> tuple[int, int]:
    stride = min(100, 1000 - draw, draw)
    if branch == "denoise":
        return 1000 - draw - stride, 1000 - draw
    cleaner = max(draw - stride, 1)
    return 1000 - cleaner, 1000 - cleaner - stride


@pytest.mark.parametrize(("start", "landing"), [(0.9643, 0.9428), (0.75, 0.7715), (0.5, 0.0)])
def test_gradient_scale_is_the_derivative_of_the_recovered_image(start: float, landing: float) -> None:
    clean, noise = torch.randn(2, 1, 2, 3, dtype=torch.float64)
    sigma, sigma_next = torch.tensor([start]).double(), torch.tensor([landing]).double()

    def recovered(velocity: Tensor) -> Tensor:
        noisy = (1 - start) * clean + start * noise
        return recover_clean(euler_step(noisy, velocity, sigma, sigma_next), noise, sigma_next).sum()

    gradient = torch.autograd.functional.jacobian(recovered, torch.randn(1, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(gradient, gradient_scale(sigma, sigma_next).expand(1, 2, 3))


def test_loss_is_zero_above_the_hinge_and_linear_below() -> None:
    algorithm, _, _, batch = make(SRPOConfig(hinge=-1e6))
    losses = [loss() for loss in algorithm.losses(batch, algorithm.collect(batch))]
    assert [loss.loss.item() for loss in losses] == [0.0, 0.0]

    algorithm, _, _, batch = make(SRPOConfig(hinge=0.7, branches=("denoise",)))
    (loss,) = [loss() for loss in algorithm.losses(batch, algorithm.collect(batch))]
    mean_reward = loss.metrics["reward/total/denoise"].mean()
    assert loss.loss.item() == pytest.approx(0.7 - mean_reward.item(), abs=1e-6)


def test_words_cycle_by_update_and_only_rewards_see_them() -> None:
    for step, positive, negative in [(0, "detailed", "flat"), (1, "textured", "simple"), (5, "textured", "plain")]:
        algorithm, _, rewards, batch = make(SRPOConfig(), step=step)
        list(algorithm.losses(batch, algorithm.collect(batch)))
        texts = [text for _, text in rewards.queries[0][2].terms]
        assert texts == [f"{positive}. prompt 2", f"{negative}. prompt 2"]
        assert batch.prompts[2] == "prompt 2"


def test_reference_meets_the_released_pairs_of_words() -> None:
    positive, negative = PAPER_WORDS.positive, PAPER_WORDS.negative
    pairs = set()
    for step in range(19):
        algorithm, _, rewards, batch = make(SRPOConfig(word_start=1), step=step)
        algorithm.words = PAPER_WORDS
        list(algorithm.losses(batch, algorithm.collect(batch)))
        pairs.add(tuple(text.split(".")[0] for _, text in rewards.queries[0][0].terms))
    # The release counts its 19 updates from 1, so of the 20 pairs the first is the one that it does not meet.
    every = {(own, other) for own in positive for other in negative}
    assert every - pairs == {("Natural-lighting", "Concept art")}


def test_shared_noise_is_one_noise_and_own_noise_is_not() -> None:
    algorithm, _, _, batch = make(SRPOConfig(noise="shared"))
    noise = algorithm.collect(batch).noise
    assert torch.equal(noise[0], noise[1])
    algorithm, _, _, batch = make(SRPOConfig(noise="per_sample"))
    noise = algorithm.collect(batch).noise
    assert not torch.equal(noise[0], noise[1])


def test_plain_query_scores_the_prompt_alone() -> None:
    algorithm, _, rewards, batch = make(SRPOConfig(query="plain", branches=("denoise",)))
    list(algorithm.losses(batch, algorithm.collect(batch)))
    assert [query.terms for query in rewards.queries[0]] == [((1.0, f"prompt {index}"),) for index in range(3)]


def test_rollout_and_gradient_call_have_guidance_of_their_own() -> None:
    algorithm, policy, _, batch = make(SRPOConfig(guidance_scale=3.5))
    rollout = algorithm.collect(batch)
    torch.testing.assert_close(rollout.clean, torch.tanh(rollout.noise) + 1.0)
    list(algorithm.losses(batch, rollout))
    assert [guidance for _, _, guidance in policy.calls] == [3.5, 3.5]


def test_each_renoising_lands_elsewhere_and_carries_its_share() -> None:
    algorithm, policy, _, batch = make(SRPOConfig(renoisings=3, branches=("denoise",)))
    outputs = [loss() for loss in algorithm.losses(batch, algorithm.collect(batch))]
    assert len(outputs) == len(policy.calls) == 3
    for renoising, output in enumerate(outputs):
        landings = [1000 - _draw(7, batch.draws.update, sample, renoising) for sample in range(3)]
        expected = torch.tensor([27 / 28 + index * (0.75 - 27 / 28) / 999 for index in landings])
        torch.testing.assert_close(output.metrics["step/landing_sigma/denoise"], expected)
        assert output.loss.item() == pytest.approx(output.metrics["loss/denoise"].mean().item() / 3)


def test_samples_of_a_worker_share_landing_and_noise_when_asked() -> None:
    algorithm, policy, _, batch = make(SRPOConfig(landing="per_worker", noise="per_worker"))
    noise = algorithm.collect(batch).noise
    list(algorithm.losses(batch, Rollout(torch.tanh(noise), noise)))
    assert all(len(set(sigma.tolist())) == 1 for sigma, _, _ in policy.calls)
    assert torch.equal(noise[0], noise[2])
    other = replace(batch, draws=replace(batch.draws, worker=1))
    assert not torch.equal(algorithm.collect(other).noise, noise)


def test_words_cycle_by_sample_when_asked() -> None:
    algorithm, _, rewards, batch = make(SRPOConfig(word_cycle="per_sample"), step=1)
    list(algorithm.losses(batch, algorithm.collect(batch)))
    first_words = [[text.split(".")[0] for _, text in query.terms] for query in rewards.queries[0]]
    assert first_words == [["textured", "simple"], ["detailed", "plain"], ["textured", "flat"]]


def test_without_discount_both_texts_weigh_the_same() -> None:
    algorithm, _, rewards, batch = make(SRPOConfig(denoise_discount=None, inversion_discount=None))
    list(algorithm.losses(batch, algorithm.collect(batch)))
    assert {weight for queries in rewards.queries for query in queries for weight, _ in query.terms} == {1.0, -1.0}


def test_guided_query_adds_the_discount_to_its_guidance() -> None:
    algorithm, _, rewards, batch = make(SRPOConfig(query="guided", query_guidance=3.0))
    list(algorithm.losses(batch, algorithm.collect(batch)))
    for branch, (clean, noisy), queries in zip(
        ("denoise", "inversion"), ((0.1, 0.25), (0.3, 0.01)), rewards.queries, strict=True
    ):
        for sample, query in enumerate(queries):
            draw = _draw(7, batch.draws.update, sample)
            index = draw if branch == "denoise" else max(draw - min(100, 1000 - draw, draw), 1)
            guidance = 3 + clean + (noisy - clean) * index / 999
            assert [weight for weight, _ in query.terms] == pytest.approx([guidance, 1 - guidance])


def test_window_may_be_given_as_sigmas() -> None:
    algorithm, _, _, _ = make(SRPOConfig(sigma_window=(0.9, 0.6), window_points=31))
    torch.testing.assert_close(
        algorithm.window.sigmas, torch.tensor([0.9 - 0.01 * index for index in range(31)]).double()
    )


def test_shifts_of_the_resolution_reach_window_and_rollout() -> None:
    # 1024 pixels are 4096 tokens, where FLUX's schedule has shift exp(1.15).
    shift = math.exp(1.15)
    words = ["algorithm.window_shift=resolution", "rollout.shift=resolution", "model.resolution=1024"]
    algorithm = build_algorithm(load_run([SMALL_WORLD], words), cast(Any, None), cast(Any, None))
    assert isinstance(algorithm, SRPO)
    ends = [shift * t / (1 + (shift - 1) * t) for t in (0.9, 0.5)]
    assert algorithm.window.sigmas[[0, -1]].tolist() == pytest.approx(ends)
    even = [1 - index / algorithm.rollout.num_steps for index in range(algorithm.rollout.num_steps + 1)]
    assert algorithm.sigmas.tolist() == pytest.approx([shift * t / (1 + (shift - 1) * t) for t in even])


def test_all_of_an_update_share_a_landing_when_asked() -> None:
    algorithm, policy, _, batch = make(SRPOConfig(landing="shared"))
    other, other_policy, _, _ = make(SRPOConfig(landing="shared"))
    list(algorithm.losses(batch, algorithm.collect(batch)))
    elsewhere = replace(batch, draws=replace(batch.draws, worker=1, samples=(3, 4, 5)))
    list(other.losses(elsewhere, other.collect(elsewhere)))
    first, second = policy.calls[0][0].tolist(), other_policy.calls[0][0].tolist()
    assert first == second
    assert len(set(first)) == 1


def test_real_images_replace_rollouts() -> None:
    tokens = torch.rand(3, 2, 3, dtype=torch.float64)
    algorithm, _, _, batch = make(SRPOConfig(noise="per_sample"), real=dict(enumerate(tokens)))
    rollout = algorithm.collect(batch)
    assert torch.equal(rollout.clean, tokens)
    assert not torch.equal(rollout.noise[0], rollout.noise[1])
    assert not torch.equal(rollout.noise, algorithm.collect(with_images(batch, {})).noise)


def test_beside_a_real_image_the_others_are_rolled_out_as_without_it() -> None:
    tokens = torch.rand(2, 3, dtype=torch.float64)
    algorithm, policy, _, batch = make(SRPOConfig(noise="per_sample"), real={1: tokens})
    mixed, alone = algorithm.collect(batch), algorithm.collect(with_images(batch, {}))
    assert torch.equal(mixed.clean[1], tokens)
    assert torch.equal(mixed.clean[[0, 2]], alone.clean[[0, 2]])
    assert torch.equal(mixed.noise[[0, 2]], alone.noise[[0, 2]])
    assert policy.rolled_out == [2, 3]
