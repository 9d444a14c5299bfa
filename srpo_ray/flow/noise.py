"""Random draws with an address: the same address gives the same value on any worker and any world size."""

import hashlib

import torch


def generator(seed: int, purpose: str, *address: int) -> torch.Generator:
    """A CPU generator whose state depends on nothing but the seed and the address.

    Args:
        seed: Seed of the run.
        purpose: What is drawn, for example `"rollout"`.
        address: Which draw it is, for example the update and the sample's index in the global batch.
    """
    text = f"{seed}/{purpose}/{'/'.join(map(str, address))}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
