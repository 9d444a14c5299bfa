"""A run's own files after damage: what is read is what was written, or an error that names the file."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srpo_ray.data.cache.shards import ShardStore
from srpo_ray.files import read_json
from srpo_ray.runs.checkpoint import read_checkpoint, save_checkpoint
from srpo_ray.runs.checkpoint_files import MANIFEST, WEIGHTS
from srpo_ray.runs.folder import RunFolder, append_row, read_rows
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.trained_weights import read_trained_weights
from srpo_ray.tracking.runs import replay_run
from srpo_ray.tracking.spool import Spool
from tests.helpers.damage import FUZZ, damaged

TENSORS = {"a": torch.arange(4.0), "b.c": torch.ones(2, 3)}
STATE = {"model.path": "a model", "seed": 3}
ROWS = [{"update": step, "reward": step / 7} for step in range(1, 5)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(scope="module")
def checkpoint(place: Path) -> Path:
    save_checkpoint(Storage(place), 20, TENSORS, {"a/exp_avg": torch.zeros(4)}, {}, STATE, kept=1)
    return place / "update_000020"


@pytest.mark.parametrize("name", [MANIFEST, f"{WEIGHTS}-00000.safetensors"])
def test_damaged_checkpoint_is_never_taken_for_another_one(checkpoint: Path, name: str) -> None:
    file = checkpoint / name
    whole = file.read_bytes()

    @FUZZ
    @given(damaged(whole))
    def check(content: bytes) -> None:
        file.write_bytes(content)
        found = problem = None
        try:
            found = read_checkpoint(Storage(checkpoint.parent), 20)
            read_trained_weights(Storage(checkpoint.parent), 20)
        except ValueError as error:
            problem = str(error)
        if problem or not found:
            assert problem
            assert str(checkpoint) in problem
            return
        # Such as another space between two fields.
        assert (found.update, found.state) == (20, STATE)
        assert all(torch.equal(found.weights[key], tensor) for key, tensor in TENSORS.items())

    check()
    file.write_bytes(whole)


def test_manifest_of_another_update_is_damage(checkpoint: Path) -> None:
    file = checkpoint / MANIFEST
    whole = file.read_text()
    file.write_text(whole.replace('"update": 20', '"update": 30'))
    with pytest.raises(ValueError, match=r"update_000020: manifest\.json is damaged"):
        read_checkpoint(Storage(checkpoint.parent), 20)
    file.write_text(whole)


def test_damage_to_rows_costs_the_damaged_lines_only(place: Path) -> None:
    file = place / "rows.jsonl"
    for row in ROWS:
        append_row(file, row)
    lines = file.read_bytes().split(b"\n")

    @FUZZ
    @given(st.integers(0, 3), damaged(lines[1]).filter(lambda line: b"\n" not in line))
    def check(number: int, line: bytes) -> None:
        file.write_bytes(b"\n".join([*lines[:number], line, *lines[number + 1 :]]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read_rows(file)
        kept = [row for index, row in enumerate(ROWS) if index != number]
        assert [row for row in found if row in kept] == kept
        assert len(found) <= len(ROWS)

    check()


def test_damaged_line_is_named_and_the_rows_after_it_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    append_row(file, {"update": 1})
    with file.open("a") as opened:
        opened.write('{"update": 2, "eve')
    append_row(file, {"update": 3})
    with pytest.warns(UserWarning, match=r"events\.jsonl: line 2 is damaged"):
        assert read_rows(file) == [{"update": 1}, {"update": 3}]


def test_damaged_note_of_what_was_delivered_loses_no_record(place: Path) -> None:
    spool = Spool(place / "spool.jsonl")
    for number in range(3):
        spool.append({"n": number})
    spool.acknowledge(spool.read(limit=2)[-1][1])
    note = place / "spool.jsonl.offset"

    @FUZZ
    @given(damaged(note.read_bytes()))
    def check(content: bytes) -> None:
        note.write_bytes(content)
        left = [record for record, _ in Spool(place / "spool.jsonl").read(limit=10)]
        # All of them again, or from some record on; never from the middle of one.
        assert left == [{"n": number} for number in range(3)][3 - len(left) :]

    check()


def test_damaged_shard_is_removed_and_a_whole_one_is_read(place: Path) -> None:
    folder = place / "shards"
    file = ShardStore(folder).add(["one", "two"], {"features": torch.arange(6.0).view(2, 3)})
    whole = file.read_bytes()

    @FUZZ
    @given(damaged(whole))
    def check(content: bytes) -> None:
        file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            missing = ShardStore(folder).missing(["one", "two"])
        assert missing == [0, 1] or torch.equal(
            ShardStore(folder).rows(["two"])[[0]]["features"], torch.tensor([[3.0, 4, 5]])
        )

    check()


def test_damaged_record_of_a_run_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    @FUZZ
    @given(damaged(json.dumps({"updates": 40, "best_update": 20}).encode()))
    def check(content: bytes) -> None:
        folder.finished.write_bytes(content)
        problem = None
        try:
            read_json(folder.finished)
        except ValueError as error:
            problem = str(error)
        assert problem is None or str(folder.finished) in problem

    check()


@pytest.mark.parametrize("content", ["{", "[]", '{"uri": 3, "run_id": "a"}', '{"uri": "sqlite:///x"}'])
def test_damaged_record_of_the_mlflow_run_is_named(tmp_path: Path, content: str) -> None:
    record, spool = tmp_path / "mlflow_run.json", tmp_path / "spool.jsonl"
    record.write_text(content)
    Spool(spool).append({"n": 1})
    with pytest.raises(ValueError, match=r"expected .*mlflow_run\.json, got .* restore or remove"):
        replay_run(record, spool)
