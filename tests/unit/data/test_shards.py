import os
from pathlib import Path

import pytest
import torch

from srpo_ray.data.cache.shards import ShardStore

KEYS = [f"key{number}" for number in range(5)]


def rows(*numbers: int) -> dict[str, torch.Tensor]:
    """Features of entries, different in every entry."""
    grid = torch.arange(6.0).reshape(2, 3)
    return {
        "long": torch.stack([number + grid / 8 for number in numbers]).bfloat16(),
        "short": torch.tensor([[float(number)] for number in numbers]),
    }


def filled(folder: Path) -> ShardStore:
    store = ShardStore(folder)
    store.add(KEYS[:2], rows(0, 1))
    store.add(KEYS[2:], rows(2, 3, 4))
    return store


def test_rows_of_several_shards_are_in_the_requested_order(tmp_path: Path) -> None:
    store = filled(tmp_path)
    found = ShardStore(tmp_path).rows([*KEYS, KEYS[0]])
    assert len(found) == 6
    for name, expected in rows(4, 0, 2, 0).items():
        assert torch.equal(found[[4, 0, 2, 5]][name], expected)
        assert found[[4]][name].dtype == expected.dtype
    assert store.missing(["new", *KEYS, "new", "other"]) == [0, 7]
    with pytest.raises(ValueError, match="got 1 fewer"):
        store.rows(["new"])


def test_any_flipped_byte_and_any_cut_is_noticed_and_only_that_shard_is_removed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path, _ = store.rows(KEYS).places[0]
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for content in [*damaged, whole[:-1], whole[:100], b""]:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=path.name):
            assert store.missing(KEYS) == [0, 1]
        assert not path.exists()
    store.add(KEYS[:2], rows(0, 1))
    assert store.missing(KEYS) == []
    assert torch.equal(store.rows(KEYS)[[0, 1]]["long"], rows(0, 1)["long"])


def test_shard_without_requested_keys_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    read: list[tuple[str, ...]] = []
    monkeypatch.setattr("srpo_ray.data.cache.shards._verified", lambda shard: read.append(shard.keys) or {})
    assert store.missing([KEYS[0], "new"]) == [1]
    assert read == [tuple(KEYS[:2])]


def test_concurrent_writers_are_safe_and_the_file_of_a_killed_one_is_not_read(tmp_path: Path) -> None:
    first, second = ShardStore(tmp_path), ShardStore(tmp_path)
    first.add(KEYS[:2], rows(0, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second.add(KEYS[1:3], rows(1, 2))
    (tmp_path / f".half.safetensors.{os.getpid()}.unfinished").write_bytes(b"half")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert first.missing(KEYS) == [3, 4]
    assert torch.equal(first.rows(KEYS[:3])[[0, 1, 2]]["short"], rows(0, 1, 2)["short"])


def test_folder_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert ShardStore(tmp_path / "none").missing(KEYS) == [0, 1, 2, 3, 4]


def test_named_shard_is_read_whole_and_replaced_under_its_name(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "named")
    assert store.read("first", KEYS[:2]) is None
    store.add(KEYS[:2], rows(7, 8), "first")
    store.add(KEYS[:2], rows(0, 1), "first")
    store.add(KEYS[2:], rows(2, 3, 4), "second")
    assert store.names() == {"first", "second"}
    found = store.read("first", KEYS[:2])
    assert found
    assert found.keys() == rows(0).keys()
    assert all(torch.equal(found[name], expected) for name, expected in rows(0, 1).items())


def test_named_shard_that_is_damaged_or_has_other_entries_is_removed(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    path = store.add(KEYS[:2], rows(0, 1), "first")
    whole = path.read_bytes()
    for content, keys in ((whole[:-1] + bytes([whole[-1] ^ 1]), KEYS[:2]), (b"", KEYS[:2]), (whole, KEYS[1:3])):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=path.name):
            assert store.read("first", keys) is None
        assert store.names() == set()
