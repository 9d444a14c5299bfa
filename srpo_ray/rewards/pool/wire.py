"""Conversion between tensors and the arrays that are sent between processes.

Readers get numpy arrays from Ray's object store without a copy; for torch tensors Ray copies. numpy has no bfloat16,
so its bits are sent as int16.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIRE_TYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def to_wire(tensor: Tensor, dtype: str) -> NDArray[np.generic]:
    """Convert a tensor to an array of 32-bit (`float32`) or 16-bit (`bfloat16`) numbers, detached and on the CPU."""
    sent = tensor.detach().to("cpu", WIRE_TYPES[dtype]).contiguous()
    return sent.view(torch.int16).numpy() if dtype == "bfloat16" else sent.numpy()


def from_wire(array: NDArray[np.generic]) -> Tensor:
    """Convert an array of `to_wire` to a float32 CPU tensor; a copy, since arrays in the object store are read-only."""
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16).float() if tensor.dtype == torch.int16 else tensor
