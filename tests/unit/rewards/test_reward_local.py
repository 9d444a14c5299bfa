import pytest
import torch
from torch import Tensor

from srpo_ray.config.rewards import OpenClipRewardConfig
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.models.open_clip import OpenClipReward
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from tests.helpers.rewards.stand_in_rewards import ScriptedReward

QUERIES = [
    TextQuery.plain("a cat"),
    TextQuery(((1.1, "Real. a dog"), (-1.0, "Painting. a dog"))),
    TextQuery.plain("a red circle"),
]


def test_gradient_equals_finite_differences_in_float64(clip_configs: tuple[OpenClipRewardConfig, ...]) -> None:
    rewards = build_rewards(clip_configs)
    for reward in rewards.values():
        assert isinstance(reward, OpenClipReward)
        model = reward.model
        assert isinstance(model, torch.nn.Module)
        model.double()
    scorer = LocalRewards(rewards, {c.name: c.weight for c in clip_configs}, micro_batch_size=2)
    generator = torch.Generator().manual_seed(3)
    images = 0.3 + 0.4 * torch.rand(3, 3, 20, 28, generator=generator, dtype=torch.float64)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    upstream = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)

    def loss(inputs: Tensor) -> Tensor:
        return (upstream * scorer.submit(inputs, QUERIES).result().total).sum()

    leaf = images.clone().requires_grad_()
    loss(leaf).backward()
    step = 1e-5
    slope = (loss(images + step * direction) - loss(images - step * direction)) / (2 * step)

    assert leaf.grad is not None
    torch.testing.assert_close((leaf.grad * direction).sum(), slope, rtol=1e-7, atol=0)


def test_total_is_the_weighted_sum_and_raw_scores_are_detached() -> None:
    scorer = LocalRewards({"a": ScriptedReward(scale=2.0), "b": ScriptedReward(8)}, {"a": 0.5, "b": -3.0})
    images = torch.full((2, 3, 16, 16), 0.25, requires_grad=True)

    scores = scorer.submit(images, QUERIES[:2]).result()

    assert scores.raw["a"].tolist() == pytest.approx([0.5, 0.5])
    assert scores.total.tolist() == pytest.approx([0.5 * 0.5 - 3.0 * 0.25] * 2)
    assert scores.total.requires_grad
    assert not scores.raw["a"].requires_grad


def test_result_collected_without_autograd_still_has_the_gradient() -> None:
    scorer = LocalRewards({"a": ScriptedReward()}, {"a": 1.0})
    images = torch.full((1, 3, 4, 4), 0.25, requires_grad=True)
    pending = scorer.submit(images, QUERIES[:1])

    with torch.no_grad():
        total = pending.result().total
    total.sum().backward()

    assert images.grad is not None
    assert images.grad.flatten().tolist() == pytest.approx([1 / 48] * 48)


def test_autocast_of_the_trainer_does_not_change_the_score(clip_configs: tuple[OpenClipRewardConfig, ...]) -> None:
    scorer = LocalRewards.load(clip_configs)
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))

    with torch.autocast("cpu", torch.bfloat16):
        inside = scorer.submit(images.requires_grad_(), QUERIES).result().total
        measured = scorer.measure(images.detach(), QUERIES)

    assert torch.equal(inside, scorer.submit(images, QUERIES).result().total)
    assert all(torch.equal(measured[name], value) for name, value in scorer.measure(images, QUERIES).items())


def test_second_derivative_is_refused_instead_of_being_zero() -> None:
    scorer = LocalRewards({"a": ScriptedReward()}, {"a": 1.0})
    images = torch.full((1, 3, 4, 4), 0.25, requires_grad=True)
    total = scorer.submit(images, QUERIES[:1]).result().total

    (gradient,) = torch.autograd.grad(total.square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_gradient_free_reward_scores_detached_images_and_refuses_others() -> None:
    scorer = LocalRewards({"flat": ScriptedReward(image_gradient=False)}, {"flat": 1.0})
    images = torch.full((1, 3, 4, 4), 0.25)

    assert scorer.submit(images, QUERIES[:1]).result().total.tolist() == pytest.approx([0.25])
    with pytest.raises(ValueError, match=r"\['flat'\].*detached images"):
        scorer.submit(images.requires_grad_(), QUERIES[:1])


def test_official_measure_rounds_images_to_8_bits_and_training_does_not() -> None:
    rewards = {"a": ScriptedReward(), "squashed": ScriptedReward(image_size=2)}
    rewards["squashed"].fit = "squash"  # pyright: ignore[reportAttributeAccessIssue]
    images = torch.full((1, 3, 4, 8), 0.3001)
    images[:, :, :, 6:] = 0.9

    plain, official = (LocalRewards(rewards, {"a": 1.0}, official=choice) for choice in (False, True))

    step = round(0.3001 * 255) / 255
    assert official.measure(images, QUERIES[:1])["a"].item() == pytest.approx(step, abs=1e-6)
    assert plain.measure(images, QUERIES[:1])["a"].item() == pytest.approx(0.3001, abs=1e-6)
    assert official.submit(images, QUERIES[:1]).result().total.item() == pytest.approx(0.3001, abs=1e-6)
    # Four pixels of the wide image are cut away for `a`, none for `squashed`.
    assert official.measure(images, QUERIES[:1])["squashed"].item() > 0.4


def test_factors_replace_the_weights_of_the_models(clip_configs: tuple[OpenClipRewardConfig, ...]) -> None:
    images = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    scorer = LocalRewards.load(clip_configs, factors={"small": 2.0, "large": 0.5})

    scores = scorer.submit(images, QUERIES[:1]).result()

    torch.testing.assert_close(scores.total, 2.0 * scores.raw["small"] + 0.5 * scores.raw["large"])


def test_measure_covers_held_out_models_and_counts_time() -> None:
    scorer = LocalRewards({"a": ScriptedReward(), "held": ScriptedReward(scale=4.0)}, {"a": 1.0})
    images = torch.full((1, 3, 4, 4), 0.25)

    assert {k: v.tolist() for k, v in scorer.measure(images, QUERIES[:1]).items()} == {"a": [0.25], "held": [1.0]}
    assert list(scorer.measure(images, QUERIES[:1], ["held"])) == ["held"]
    assert scorer.take_statistics()["pool/calls"] == 2
    assert scorer.take_statistics()["pool/calls"] == 0


def test_unknown_names_and_uneven_batches_are_refused() -> None:
    scorer = LocalRewards({"a": ScriptedReward()}, {"a": 1.0})

    with pytest.raises(ValueError, match=r"among \['a'\], received \['b'\]"):
        LocalRewards({"a": ScriptedReward()}, {"b": 1.0})
    with pytest.raises(ValueError, match="2 queries"):
        scorer.submit(torch.zeros(1, 3, 4, 4), QUERIES[:2])
    with pytest.raises(ValueError, match="cannot be empty"):
        scorer.measure(torch.zeros(0, 3, 4, 4), [])


def test_images_in_channels_last_order_are_scored_like_any_other(
    clip_configs: tuple[OpenClipRewardConfig, ...],
) -> None:
    scorer = LocalRewards.load(clip_configs)
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    totals, gradients = [], []
    for order in (torch.contiguous_format, torch.channels_last):
        leaf = images.clone(memory_format=order).requires_grad_()
        totals.append(scorer.submit(leaf, QUERIES).result().total)
        totals[-1].sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
