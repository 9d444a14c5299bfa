import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from moto.server import ThreadedMotoServer
from torch import distributed as dist

from srpo_ray.errors import CheckpointError
from srpo_ray.runs.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from srpo_ray.runs.checkpoint_files import complete_checkpoints
from srpo_ray.runs.storage import Fingerprint, Storage, below, require_writable
from srpo_ray.runs.trained_weights import latest_trained
from tests.helpers.training.ranks import run_ranks


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of a bucket of a server that speaks S3."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "someone")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        query = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
        yield f"s3://bucket?{query}"
        server.stop()


@pytest.fixture(params=["folder", "fsspec", "S3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    match request.param:
        case "folder":
            yield Storage(tmp_path / "checkpoints")
        case "fsspec":
            # fsspec's own store in this process's memory: an address with a scheme, without rename and without paths.
            yield Storage(f"memory://bucket/{tmp_path.name}")
            fsspec.filesystem("memory").store.clear()
        case _:
            yield Storage(below(request.getfixturevalue("s3"), tmp_path.name))


def save(storage: Storage, step: int, kept: int = 3, protected: int | None = None, **state: object) -> None:
    weights = {"a": torch.full((4,), float(step)), "b.c": torch.arange(6.0).view(2, 3)}
    save_checkpoint(storage, step, weights, {"a/exp_avg": torch.ones(4)}, {}, state, kept, protected)


def spoil(storage: Storage, name: str, damage: str) -> None:
    """Change a file without the storage."""
    system, path = storage._system, storage._path(name)
    with system.open_input_stream(path, compression=None) as stream:
        content = bytearray(stream.read())
    if damage == "remove":
        system.delete_file(path)
        return
    if damage == "cut short":
        del content[-8:]
    else:
        content[-1] ^= 1
    with system.open_output_stream(path, compression=None) as stream:
        stream.write(bytes(content))


def test_checkpoint_comes_back_as_it_was_written(storage: Storage) -> None:
    weights = {"a": torch.randn(5), "b.c": torch.randn(2, 3)}
    optimizer, ema = {"a/exp_avg": torch.randn(5)}, {"a": torch.randn(5)}
    save_checkpoint(storage, 20, weights, optimizer, ema, {"samples": 160}, kept=2)
    read = load_checkpoint(Storage(storage.location), {})
    assert read is not None
    assert (read.update, read.state) == (20, {"samples": 160})
    for found, expected in ((read.weights, weights), (read.optimizer, optimizer), (read.ema, ema)):
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_further_kinds_of_tensors_come_back_beside_those_of_every_run(storage: Storage) -> None:
    old, state = {"a": torch.randn(5)}, {"mean": torch.randn(1, dtype=torch.float64), "count": torch.tensor(3)}
    weights = {"a": torch.randn(5)}
    # A kind whose name begins like another's is not taken for it.
    extra = {"old": old, "state": state, "weights_of_others": {"b": torch.ones(1)}, "none": {}}
    save_checkpoint(storage, 20, weights, {}, {}, {}, kept=2, extra=extra)
    read = load_checkpoint(Storage(storage.location), {})
    assert read is not None
    assert set(read.weights) == {"a"}
    assert set(read.extra) == {"old", "state", "weights_of_others"}
    for kind, found in read.extra.items():
        assert set(found) == set(extra[kind])
        assert all(torch.equal(found[name], value) for name, value in extra[kind].items())
    found = latest_trained(storage)
    assert found is not None
    assert set(found[1]) == {"a"}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights-00000.safetensors", "flip a bit"),
        ("weights-00000.safetensors", "cut short"),
        ("weights-00000.safetensors", "remove"),
        ("optimizer-00000.safetensors", "flip a bit"),
        ("manifest.json", "cut short"),
    ],
)
def test_damaged_checkpoint_is_named_and_the_one_before_it_is_used(storage: Storage, name: str, damage: str) -> None:
    save(storage, 10)
    save(storage, 20)
    spoil(storage, f"update_000020/{name}", damage)
    with pytest.warns(UserWarning, match=r"update_000020.*using the checkpoint before it"):
        read = load_checkpoint(storage, {})
    assert read is not None
    assert read.update == 10


def test_half_written_checkpoint_is_not_seen(storage: Storage) -> None:
    save(storage, 10)
    save(storage, 20)
    # It is written last, so this is what a process leaves that was killed before.
    spoil(storage, "update_000020/manifest.json", "remove")
    read = load_checkpoint(storage, {})
    assert read is not None
    assert read.update == 10


def test_only_the_newest_checkpoints_are_kept_and_incomplete_ones_are_removed(storage: Storage) -> None:
    save(storage, 5)
    spoil(storage, "update_000005/manifest.json", "remove")
    for step in (10, 20, 30):
        save(storage, step, kept=2)
    assert storage.folders() == ["update_000020", "update_000030"]


def test_protected_checkpoint_is_kept_however_old(storage: Storage) -> None:
    for step in (10, 20, 30):
        save(storage, step, kept=1, protected=10)
    assert complete_checkpoints(storage) == [10, 30]


def test_damaged_checkpoint_of_a_later_update_does_not_displace_a_valid_one(storage: Storage) -> None:
    save(storage, 10, kept=1)
    save(storage, 30, kept=2)
    spoil(storage, "update_000030/weights-00000.safetensors", "flip a bit")
    save(storage, 17, kept=1)
    assert storage.folders() == ["update_000017"]


def test_checkpoint_of_another_run_is_refused_by_name(storage: Storage) -> None:
    save(storage, 10, seed=1, algorithm="srpo")
    assert load_checkpoint(storage, {"seed": 1, "algorithm": "srpo"}) is not None
    with pytest.raises(ValueError, match=r"update_000010: expected a run with algorithm 'draft', got 'srpo'"):
        load_checkpoint(storage, {"seed": 1, "algorithm": "draft"})


def test_folder_that_is_no_checkpoint_is_refused(storage: Storage) -> None:
    with pytest.raises(ValueError, match="expected weights, optimizer and manifest"):
        read_checkpoint(storage, 1)


def test_images_need_the_weights_of_a_checkpoint_and_nothing_else(storage: Storage) -> None:
    save(storage, 10)
    save(storage, 20)
    spoil(storage, "update_000020/optimizer-00000.safetensors", "remove")
    assert newest_a(storage) == (20, 20.0)
    spoil(storage, "update_000020/weights-00000.safetensors", "cut short")
    with pytest.warns(UserWarning, match=r"update_000020.*using the checkpoint before it"):
        assert newest_a(storage) == (10, 10.0)
    save_checkpoint(storage, 30, {"a": torch.ones(1)}, {"a/s": torch.ones(1)}, {"a": torch.full((1,), 7.0)}, {}, kept=1)
    assert newest_a(storage) == (30, 7.0)


def newest_a(storage: Storage) -> tuple[int, float]:
    found = latest_trained(storage)
    assert found is not None
    return found[0], found[1]["a"][0].item()


def test_full_disk_keeps_the_previous_checkpoint_and_is_reported(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    save(storage, 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses to write beyond it, as it does on a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            CheckpointError,
            match=r"of update 20 could not be written.*the newest checkpoint is still that of update 10",
        ):
            save_checkpoint(storage, 20, {"a": torch.ones(100_000)}, {}, {}, {}, kept=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert storage.folders() == ["update_000010"]
    assert read_checkpoint(storage, 10).weights["a"][0] == 10


def test_store_that_returns_other_bytes_gets_no_checkpoint(tmp_path: Path) -> None:
    storage = Storage(f"memory://bucket/{tmp_path.name}")
    save(storage, 10)
    fingerprint = storage.fingerprint
    storage.fingerprint = lambda name: replace(fingerprint(name), sha256="0")
    with pytest.raises(
        CheckpointError, match=r"of update 20 could not be written.*reads back as.*still that of update 10"
    ):
        save(storage, 20)
    assert storage.folders() == ["update_000010"]


def test_storage_that_fails_for_a_while_costs_at_most_one_checkpoint(tmp_path: Path) -> None:
    share, elsewhere = tmp_path / "share", tmp_path / "elsewhere"
    storage = Storage(share)
    save(storage, 10)
    share.rename(elsewhere)
    # A share that is not mounted: nothing can be made below it, nor listed.
    share.write_text("")
    with pytest.raises(CheckpointError, match=r"of update 20 could not be written.*cannot be listed either"):
        save(storage, 20)
    share.unlink()
    elsewhere.rename(share)
    save(storage, 30)
    assert complete_checkpoints(storage) == [10, 30]


def save_by_halves(folder: str) -> dict[str, object]:
    """Two ranks write one tensor each; then the second cannot write."""
    storage, rank = Storage(folder), dist.get_rank()
    weights = {f"tensor {rank}": torch.full((100_000,), float(rank))}
    save_checkpoint(storage, 1, weights, {}, {}, {}, kept=2)
    read = load_checkpoint(Storage(folder), {})
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        save_checkpoint(storage, 2, weights, {}, {}, {}, kept=2)
        message = ""
    except CheckpointError as error:
        message = str(error)
    assert read is not None
    return {"read": {name: value[0].item() for name, value in read.weights.items()}, "message": message}


def test_workers_write_their_shares_and_fail_together(tmp_path: Path) -> None:
    found = run_ranks(save_by_halves, 2, tmp_path, str(tmp_path / "checkpoints"))
    assert found["read"] == {"tensor 0": 0.0, "tensor 1": 1.0}
    assert "update 2 could not be written" in found["message"]
    assert complete_checkpoints(Storage(tmp_path / "checkpoints")) == [1]


def read_what_one_rank_finds_damaged(folder: str) -> dict[str, float]:
    """Two ranks check one file each; that of the second is damaged, and it alone sees that."""
    storage, rank = Storage(folder), dist.get_rank()
    for step in (1, 2):
        save_checkpoint(storage, step, {f"tensor {rank}": torch.full((4,), float(step))}, {}, {}, {}, kept=2)
    if rank == 0:
        spoil(storage, "update_000002/weights-00001.safetensors", "flip a bit")
    dist.barrier()
    told: list[int] = []
    read = load_checkpoint(storage, {}, lambda step, _: told.append(step))
    assert read is not None
    assert told == ([2] if rank == 0 else [])
    return {name: value[0].item() for name, value in read.weights.items()}


def test_what_one_rank_finds_damaged_no_rank_uses(tmp_path: Path) -> None:
    found = run_ranks(read_what_one_rank_finds_damaged, 2, tmp_path, str(tmp_path / "checkpoints"))
    assert found == {"tensor 0": 1.0, "tensor 1": 1.0}


def save_slowly(folder: str) -> dict[str, float]:
    """One rank's share of the network's disk is slow, and so are the files that it reads back."""
    storage, rank = Storage(folder), dist.get_rank()
    put, fingerprint = storage.put, storage.fingerprint

    def slow_put(name: str, save: Callable[[Path], object]) -> Fingerprint:
        time.sleep(3 * rank)
        return put(name, save)

    def slow_fingerprint(name: str) -> Fingerprint:
        time.sleep(rank)
        return fingerprint(name)

    storage.put, storage.fingerprint = slow_put, slow_fingerprint
    save_checkpoint(storage, 1, {f"tensor {rank}": torch.full((4,), float(rank))}, {}, {}, {}, kept=1)
    seen = complete_checkpoints(Storage(folder))
    assert seen == [1], "the checkpoint was not whole on every rank when the call returned"
    read = load_checkpoint(storage, {})
    assert read is not None
    return {name: value[0].item() for name, value in read.weights.items()}


def test_slow_network_share_delays_a_checkpoint_and_does_nothing_else(tmp_path: Path) -> None:
    found = run_ranks(save_slowly, 2, tmp_path, str(tmp_path / "checkpoints"))
    assert found == {"tensor 0": 0.0, "tensor 1": 1.0}


@pytest.mark.parametrize(
    ("location", "message"),
    [("nowhere://bucket/x", "got 'nowhere://bucket/x'"), ("/proc/srpo_ray", "expected a writable location")],
)
def test_unwritable_storage_is_refused_before_the_run(location: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_writable(location, "training.checkpoint_storage")


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("s3://bucket/all/?region=eu-1&scheme=http", "s3://bucket/all/run?region=eu-1&scheme=http"),
        ("s3://bucket", "s3://bucket/run"),
        ("/data/what?", "/data/what?/run"),
    ],
)
def test_folder_in_a_store_is_part_of_its_path(location: str, place: str) -> None:
    assert below(location, "run") == place
