"""Shards of whole tensors: their values, memory and device."""

from types import SimpleNamespace

import pytest
import torch

from srpo_ray.training import partition, shards


def as_worker(monkeypatch: pytest.MonkeyPatch, rank: int, workers: int) -> None:
    group = SimpleNamespace(get_rank=lambda: rank, get_world_size=lambda: workers)
    monkeypatch.setattr(shards, "dist", group)


@pytest.mark.parametrize("size", [1, 7, 8])
def test_shards_together_are_the_whole_and_keep_nothing_else_in_memory(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    whole, length = torch.arange(1.0, size + 1), -(-size // 3)
    parts = []
    for rank in range(3):
        as_worker(monkeypatch, rank, 3)
        parts.append(shards.cut(whole, length))
    assert torch.cat(parts).tolist() == [*whole.tolist(), *[0.0] * (3 * length - size)]
    assert {part.untyped_storage().nbytes() for part in parts} == {4 * length}


@pytest.mark.parametrize("kind", [partition.ShardedWeights, partition.WholeWeights])
def test_shards_are_cut_on_the_device_of_the_master_weights(
    monkeypatch: pytest.MonkeyPatch, kind: type[partition.Partition]
) -> None:
    as_worker(monkeypatch, 0, 1)
    monkeypatch.setattr(kind, "master", lambda *_: torch.empty(3, device="meta"))
    place = SimpleNamespace(start=0, numel=3)
    parameter = torch.zeros(3)
    monkeypatch.setattr(parameter, "_hp_mapping", SimpleNamespace(lp_fragment_address=place), raising=False)
    assert kind.__new__(kind).cut(parameter, torch.ones(3)).device.type == "meta"
