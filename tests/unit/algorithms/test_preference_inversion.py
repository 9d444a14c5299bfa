"""Inverted points: exact straight flows, closed forms, states of draws, roles, and refusals."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from srpo_ray.algorithms.forward_losses import matching_error
from srpo_ray.algorithms.preference_inversion import drawn_states, inversion_step, inverted_point, walk
from srpo_ray.algorithms.preference_sources import judged_images
from srpo_ray.config import load_run
from srpo_ray.config.algorithms.preference_inversion import Inversion
from srpo_ray.launch.preflight import check_grids
from srpo_ray.training.meters import StageTimer
from srpo_ray.training.trainer import Trainer
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.preference_pairs import BETA, captions, check_gradients, judged_batch, make, moved
from tests.helpers.algorithms.stand_ins import AffinePolicy, collect_all, drawn_noise, grid

INVERTED = ("algorithm.coupling=inverted", "algorithm.sigma={type: grid}", "algorithm.inversion.steps=4")
TEXTS = captions(0.0, 0.0, 0.0)


def ascending(steps: int) -> Tensor:
    return torch.tensor(grid(steps)[::-1], dtype=torch.float64)


def clean_tokens() -> Tensor:
    return torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def no_noise(step: int) -> Tensor:
    raise AssertionError("no noise is drawn")


def test_exact_straight_flow_has_no_error_at_its_inverted_points() -> None:
    """Where the noise of an image is `a x0 + b`, all ways are straight and known: Euler steps are exact."""
    a, b = -0.4, torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)

    def velocity(tokens: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None, None]
        clean = (tokens - s * b) / (1 - s + s * a)
        return a * clean + b - clean

    clean, sigmas = clean_tokens(), torch.linspace(0, 0.7, 6, dtype=torch.float64)
    for averaged in (False, True):
        for sigma, state in zip(
            sigmas[1:], walk(clean, sigmas, velocity, no_noise, Inversion(averaged=averaged)), strict=True
        ):
            at = sigma.expand(5)
            torch.testing.assert_close(state, (1 - sigma) * clean + sigma * (a * clean + b))
            point = inverted_point(clean, state, at)
            torch.testing.assert_close(point.target, a * clean + b - clean)
            assert matching_error(velocity(state, at), point.target).max() < 1e-25


def test_error_at_an_inverted_point_is_that_of_the_predicted_image_over_sigma_squared() -> None:
    clean, state, velocity = clean_tokens(), clean_tokens() + 1, 2 * clean_tokens() - 1
    sigma = torch.tensor([0.1, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    point = inverted_point(clean, state, sigma)
    predicted = state - sigma[:, None, None] * velocity
    expected = (predicted - clean).pow(2).mean(dim=(1, 2)) / sigma**2
    torch.testing.assert_close(matching_error(velocity, point.target), expected)


def test_averaged_steps_have_an_error_of_a_higher_order() -> None:
    """`dx/ds = x` has the solution `exp(s)`: halving the steps halves the error of Euler's, quarters that of means."""

    def end_error(steps: int, averaged: bool) -> float:
        tokens = torch.ones(1, 1, 1, dtype=torch.float64)
        for here, there in pairwise(torch.linspace(0, 1, steps + 1, dtype=torch.float64)):
            tokens = inversion_step(tokens, lambda x, _: x, here.expand(1), there.expand(1), averaged=averaged)
        return abs(tokens.item() - torch.e)

    assert end_error(64, False) / end_error(128, False) == pytest.approx(2, rel=0.05)
    assert end_error(64, True) / end_error(128, True) == pytest.approx(4, rel=0.05)


def test_noise_of_the_steps_adds_up_to_a_variance_in_proportion_to_sigma() -> None:
    sigmas, count = ascending(4), 20000
    source = torch.Generator().manual_seed(3)

    def noise(step: int) -> Tensor:
        return torch.randn(count, 1, 1, generator=source, dtype=torch.float64)

    still = torch.zeros(count, 1, 1, dtype=torch.float64)
    states = walk(still, sigmas, lambda x, _: torch.zeros_like(x), noise, Inversion(noise=0.5))
    for sigma, state in zip(sigmas[1:], states, strict=True):
        assert state.var().item() == pytest.approx(0.25 * sigma.item(), rel=0.05)


def test_drawn_states_are_those_of_their_sigma_and_all_are_walked() -> None:
    sigmas, walked = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64), []

    def states() -> Any:
        for index in range(1, 4):
            walked.append(index)
            yield torch.full((2, 2, 3), float(index))

    wanted = torch.tensor([[0.5, 0.25], [0.25, 0.25]], dtype=torch.float64)
    found = drawn_states(wanted, sigmas, states())
    assert found[..., 0, 0].tolist() == [[2, 1], [1, 1]]
    assert walked == [1, 2, 3]


def states_by_hand(policy: AffinePolicy, clean: Tensor, *, averaged: bool, noise: float) -> Tensor:
    """All states of images on the grid of four steps, `[4, B, N, C]`."""
    tokens, found = clean, []
    for step, (here, there) in enumerate(pairwise(grid(4)[::-1])):
        first = policy.slope * tokens + policy.offset
        second = policy.slope * (tokens + (there - here) * first) + policy.offset
        tokens = tokens + (there - here) * ((first + second) / 2 if averaged else first)
        tokens = tokens + noise * (there - here) ** 0.5 * drawn_noise(len(clean), "inversion", step)
        found.append(tokens)
    return torch.stack(found).detach()


@pytest.mark.parametrize("by", ["policy", "reference"])
@pytest.mark.parametrize("averaged", [False, True])
def test_gradient_at_inverted_points_is_that_of_plain_autograd(by: str, averaged: bool) -> None:
    policy, batch = AffinePolicy(), judged_batch(2, TEXTS)
    settings = "algorithm.draws=2", f"algorithm.inversion.averaged={averaged}", "algorithm.inversion.noise=0.1"
    algorithm = make(policy, *INVERTED, f"algorithm.inversion.by={by}", *settings)
    assert batch.images is not None
    states = [states_by_hand(policy, batch.images[:, side], averaged=averaged, noise=0.1) for side in range(2)]
    (found,) = collect_all(algorithm, [batch])
    sigmas, points = torch.tensor(grid(4)[::-1][1:], dtype=torch.float64), []
    for draw in range(2):
        sides = algorithm.points(batch, judged_images(algorithm.config, batch), draw, found.inverted)
        indices = (sides[0].sigma[:, None] - sigmas).abs().argmin(dim=1)
        # The first draw has the lower half of the states.
        assert set(indices.tolist()) <= ({0, 1} if draw == 0 else {2, 3})
        for side, at in enumerate(sides):
            tokens = states[side][indices, torch.arange(3)]
            torch.testing.assert_close(at.tokens, tokens, rtol=1e-9, atol=1e-12)
            s = sigmas[indices][:, None, None]
            points.append((tokens, (tokens - batch.images[:, side]) / s))

    def errors() -> list[Tensor]:
        return [(policy.slope * tokens + policy.offset - target).pow(2).mean(dim=(1, 2)) for tokens, target in points]

    before = [error.detach() for error in errors()]
    moved(policy)
    outputs = [loss() for loss in algorithm.losses(batch, found)]
    torch.stack([output.loss for output in outputs]).sum().backward()
    gains = [r - e for r, e in zip(before, errors(), strict=True)]
    ends = [-logsigmoid(BETA / 2 * (gains[2 * draw] - gains[2 * draw + 1])).mean() / 2 for draw in range(2)]
    check_gradients(policy, torch.stack(ends).sum())


@pytest.mark.parametrize(("by", "roles"), [("policy", ["policy", "reference"]), ("reference", ["policy", "reference"])])
def test_images_are_inverted_in_the_phase_of_the_weights_that_do_it(by: str, roles: list[str]) -> None:
    policy, batch = AffinePolicy(), judged_batch(2, TEXTS)
    algorithm = make(policy, *INVERTED, f"algorithm.inversion.by={by}")
    assert [phase.role for phase in algorithm.phases] == roles
    assert algorithm.config.samples_for_images == (by == "policy")
    found, calls = None, []
    with torch.no_grad():
        for phase in algorithm.phases:
            found = phase.run(batch, found)
            calls.append(len(policy.calls))
    # Four steps for each of two images, then a call of the reference for each.
    assert calls == ([8, 10] if by == "policy" else [0, 10])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (INVERTED, {"policy": 16, "reference": 4}),
        ((*INVERTED, "algorithm.inversion.by=reference"), {"reference": 20}),
        ((), {"reference": 4}),
    ],
    ids=["by the policy", "by the reference", "no inversion"],
)
def test_sharded_weights_are_gathered_once_for_the_inversions_of_an_update(
    overrides: tuple[str, ...], expected: dict[str, int]
) -> None:
    policy, batches = AffinePolicy(), [judged_batch(2, TEXTS), judged_batch(2, TEXTS)]
    algorithm, gathers, roles = make(policy, *overrides), list[tuple[str, int]](), list[str]()

    @contextmanager
    def shown(role: str) -> Iterator[None]:
        roles.append(role)
        yield

    @contextmanager
    def gathered() -> Iterator[None]:
        before = len(policy.calls)
        yield
        gathers.append((roles[-1], len(policy.calls) - before))

    trainer: Any = SimpleNamespace(
        config=SimpleNamespace(rollout_passes=1, algorithm=algorithm.config),
        engine=SimpleNamespace(shown=shown, gathered=gathered),
        algorithm=algorithm,
        batches=lambda _: [(batch, 0.5) for batch in batches],
        at_size=lambda _: nullcontext(),
        rollouts=SimpleNamespace(keep=lambda *_: None),
        timer=StageTimer(),
    )
    Trainer.collect(trainer, 1)
    # Two batches of two images each: four steps of an inversion by each image, and one call at its point.
    assert gathers == list(expected.items())
    assert sum(expected.values()) == len(policy.calls)


def test_rows_of_a_joined_rollout_are_those_of_each_micro_batch() -> None:
    policy, batch = AffinePolicy(), judged_batch(2, TEXTS)
    algorithm = make(policy, *INVERTED, "algorithm.anchor.reference=0.1")
    (found,) = collect_all(algorithm, [batch])
    part = found[1:3]
    assert part.inverted is not None
    assert torch.equal(part.inverted, found.inverted[1:3])
    assert torch.equal(part.errors["reference"], found.errors["reference"][1:3])
    assert torch.equal(part.velocities["reference"], found.velocities["reference"][1:3])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("sigma={type: uniform}",), "expected sigma.type=grid with coupling=inverted, got uniform"),
        (("draws=5",), "expected at most as many draws as inversion.steps = 4, got 5"),
        (("reference=none", "inversion.by=reference"), "expected inversion.by=policy without a reference"),
        (("loss=mapo", "inversion.by=reference"), "expected inversion.by=policy without a reference"),
        (("coupling=shared",), "expected coupling=inverted with inversion, got shared"),
        (("inversion.steps=0",), "steps"),
        (("loss=contrastive",), "expected coupling=shared with loss=contrastive, got inverted"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_settings_that_do_not_fit_are_refused(overrides: tuple[str, ...], message: str) -> None:
    base = ["algorithm.type=preference", "data.pairs=small_world:pairs", *INVERTED]
    with pytest.raises(ValueError, match=message):
        load_run([SMALL_WORLD], [*base, *(f"algorithm.{each}" for each in overrides)])


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [(INVERTED[:2], "inversion.steps=4"), (("algorithm.coupling=shared", INVERTED[1]), None)],
    ids=["inversion", "sampler"],
)
def test_window_without_a_sigma_of_the_grid_is_refused_ahead(overrides: tuple[str, ...], steps: str | None) -> None:
    """With shift 3, four steps have 0.5 as lowest sigma above 0; the sampler's eight have 0.3 too."""
    given = [*overrides, *([f"algorithm.{steps}"] if steps else []), "rollout.num_steps=8"]
    for low, high, usable in ((0.28, 0.32, steps is None), (0.48, 0.52, True), (0.01, 0.02, False)):
        window = f"algorithm.sigma.window=[{low}, {high}]"
        config = load_run([SMALL_WORLD], ["algorithm.type=preference", "data.pairs=small_world:pairs", *given, window])
        if usable:
            check_grids(config)
        else:
            with pytest.raises(ValueError, match=r"expected sigmas of the grid inside algorithm.sigma.window"):
                check_grids(config)


def test_more_draws_than_states_of_the_inversion_inside_the_window_are_refused_ahead() -> None:
    """With shift 3, four steps have the sigmas 1, 0.9, 0.75 and 0.5, of which two are inside."""
    given = ["algorithm.type=preference", "data.pairs=small_world:pairs", *INVERTED[:2], "algorithm.inversion.steps=4"]
    for draws, window, refused in ((2, [0.7, 0.95], False), (3, [0.7, 0.95], True), (4, [0.0, 1.0], False)):
        config = load_run([SMALL_WORLD], [*given, f"algorithm.draws={draws}", f"algorithm.sigma.window={window}"])
        if refused:
            with pytest.raises(ValueError, match=r"at most 2 algorithm.draws with coupling=inverted, got 3; .* widen"):
                check_grids(config)
        else:
            check_grids(config)
