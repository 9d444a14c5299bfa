"""Stand-in reward of the benchmark of an update."""

import torch

from benchmarks.flux_step import InstantRewards


def test_each_branch_of_an_update_gets_a_gradient_from_its_own_score() -> None:
    branches = [torch.rand(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    rewards = InstantRewards()
    pending = [rewards.submit(images, []) for images in branches]
    # The factors tell the branches apart.
    losses = [factor * each.result().total.sum() for factor, each in enumerate(pending, start=1)]
    torch.stack(losses).sum().backward()
    for factor, images in enumerate(branches, start=1):
        torch.testing.assert_close(images.grad, torch.full_like(images, factor / 48))
