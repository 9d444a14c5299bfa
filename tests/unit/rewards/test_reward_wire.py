import numpy as np
import torch

from srpo_ray.rewards.pool.wire import from_wire, to_wire

NUMBERS = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_float32_crosses_unchanged() -> None:
    array = to_wire(NUMBERS, "float32")

    assert array.dtype == np.float32
    assert torch.equal(from_wire(array), NUMBERS.detach())


def test_bfloat16_crosses_in_half_the_bytes_and_is_float32_again() -> None:
    array = to_wire(NUMBERS, "bfloat16")
    received = from_wire(array)

    assert array.nbytes == 2 * NUMBERS.numel()
    assert received.dtype == torch.float32
    # bfloat16 keeps 8 bits of a number, so rounding is within one part in 2**8.
    assert ((received - NUMBERS).abs() <= NUMBERS.abs() / 2**8).all()
    assert not torch.equal(received, NUMBERS)


def test_read_only_arrays_become_tensors_that_can_be_written() -> None:
    array = to_wire(NUMBERS, "float32").copy()
    array.setflags(write=False)

    received = from_wire(array)
    received += 1

    assert np.array_equal(array, NUMBERS.detach().numpy())


def test_bfloat16_rounds_pixels_by_at_most_half_a_step_of_8_bits_and_gradients_by_a_256th() -> None:
    pixels = torch.linspace(0, 1, 100_001)
    assert (from_wire(to_wire(pixels, "bfloat16")) - pixels).abs().max() < 0.5 / 255
    gradients = 10 ** torch.linspace(-8, 3, 100_001)
    assert ((from_wire(to_wire(gradients, "bfloat16")) - gradients).abs() / gradients).max() <= 2**-8
