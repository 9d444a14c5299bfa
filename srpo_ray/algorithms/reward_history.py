"""Last rewards of each prompt over the updates, in the state of the algorithm that checkpoints store."""

import hashlib
from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

PREFIX = "reward_history/"
"""Start of the names of the state's tensors."""


def earlier_rewards(state: Mapping[str, Tensor], prompts: list[str]) -> list[Tensor]:
    """Return the rewards of each prompt from earlier updates, float64, oldest first; empty for a new prompt.

    Args:
        state: State of the algorithm.
        prompts: Prompts or keys of rows, see `prompts_of_update`.
    """
    none = torch.zeros(0, dtype=torch.float64)
    return [state.get(_name(prompt), none).cpu() for prompt in prompts]


def add_rewards(state: MutableMapping[str, Tensor], prompts: list[str], rewards: Tensor, kept: int) -> None:
    """Add the rewards of an update, and keep the last ones of each prompt.

    Args:
        state: State of the algorithm.
        prompts: P prompts; one that occurs twice gets both rows.
        rewards: Rewards of their images, `[P, G]` float64.
        kept: Number of rewards that are kept for a prompt.
    """
    for prompt, row in zip(prompts, rewards, strict=True):
        (known,) = earlier_rewards(state, [prompt])
        state[_name(prompt)] = torch.cat([known, row])[-kept:].clone()


def _name(prompt: str) -> str:
    return PREFIX + hashlib.blake2b(prompt.encode(), digest_size=16).hexdigest()
