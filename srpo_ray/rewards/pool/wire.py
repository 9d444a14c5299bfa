"""Tensors as the arrays that cross between processes.

numpy arrays travel through Ray's object store without a copy on the reading side, torch tensors do not. numpy has no
bfloat16, so those bits travel as int16.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIRE_TYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def to_wire(tensor: Tensor, dtype: str) -> NDArray[np.generic]:
    """Any tensor as an array of 32-bit (`float32`) or 16-bit (`bfloat16`) numbers, detached and on the CPU."""
    sent = tensor.detach().to("cpu", WIRE_TYPES[dtype]).contiguous()
    return sent.view(torch.int16).numpy() if dtype == "bfloat16" else sent.numpy()


def from_wire(array: NDArray[np.generic]) -> Tensor:
    """The float32 CPU tensor of an array from `to_wire`; a copy, since arrays from the object store are read-only."""
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16).float() if tensor.dtype == torch.int16 else tensor
