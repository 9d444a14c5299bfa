"""Surrogate trajectories: values of the rollout, gradients of the recomputed steps."""

import torch

from srpo_ray.algorithms.step_gradients import pinned, scaled_gradient


def test_pinned_tensor_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    source = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = 1e3 * torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    found = pinned(value, 3 * source)
    assert torch.equal(found, value)
    found.sum().backward()
    torch.testing.assert_close(source.grad, torch.full((4, 5), 3.0))


def test_scaled_gradient_keeps_the_value() -> None:
    source = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = scaled_gradient(source, 0.3)
    assert torch.equal(found, source)
    found.sum().backward()
    torch.testing.assert_close(source.grad, torch.full((4, 5), 0.3))
