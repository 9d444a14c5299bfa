"""Repetition of recorded calls in plain torch, and the parts of an update's seconds."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from benchmarks.methods import Speed, record, repeat


def test_repeated_calls_have_the_gradient_of_the_calls_with_gradient_only() -> None:
    module, inputs = nn.Linear(3, 2, bias=False), torch.rand(3, 4, 3)
    plain = deepcopy(module)
    calls = record(module)
    for index, tokens in enumerate(inputs):
        with torch.set_grad_enabled(index > 0):
            module(input=tokens)
    assert [call.gradient for call in calls] == [False, True, True]
    repeat(plain, calls)
    assert plain.weight.grad is not None
    # The gradient of a sum of outputs is the sum of the inputs, for each of both outputs.
    torch.testing.assert_close(plain.weight.grad, inputs[1:].sum((0, 1)).expand(2, 3))


def test_frozen_module_has_a_backward_pass_where_its_input_has_a_gradient() -> None:
    module = nn.Linear(3, 2).requires_grad_(False)
    plain = deepcopy(module)
    calls = record(module)
    tokens = torch.rand(4, 3, requires_grad=True)
    module(tokens)
    module(tokens.detach())
    module(tokens * 2)
    assert [call.gradient for call in calls] == [True, False, True]
    repeat(plain, calls)
    assert tokens.grad is None, "a repetition must not reach the graph of the update"


def test_parts_of_an_update_add_up_to_its_seconds() -> None:
    speed = Speed("a", 8, 96.0, 16.0, 2.0, 1.0, 0.25, 0.25, 0.125, {})
    found = speed.to_json()
    assert found["rest_s"] == pytest.approx(0.375)
    assert found["evaluations_per_second"] == pytest.approx((96 + 3 * 16) / 2)
    assert (found["ratio"], found["own_ratio"]) == (2.0, 1.5)
