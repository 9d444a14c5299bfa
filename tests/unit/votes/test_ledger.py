"""Votes on disk: complete, in order, and safe from crashes."""

import errno
import os
from pathlib import Path

import pytest

from srpo_ray.votes.ledger import VOTES_FILE, Undo, Vote, open_ledger, read_votes
from tests.helpers.ballots import ballot, vote


@pytest.fixture
def votes(tmp_path: Path) -> list[Vote]:
    of = ballot(tmp_path, ["base", "tuned"])
    return [vote(of, "Ada", prompt, "base", "tuned", "left") for prompt in range(3)]


def test_votes_are_read_back_as_they_were_given_without_those_that_were_undone(
    tmp_path: Path, votes: list[Vote]
) -> None:
    with open_ledger(tmp_path) as ledger:
        for each in votes:
            ledger.append(each)
        ledger.append(Undo(time="", rater="Ada", undo=votes[1].id))
    assert read_votes(tmp_path) == [votes[0], votes[2]]


def test_vote_that_a_crash_cut_off_is_dropped_and_the_next_one_is_readable(tmp_path: Path, votes: list[Vote]) -> None:
    file = tmp_path / VOTES_FILE
    whole = votes[0].model_dump_json() + "\n"
    file.write_text(whole + votes[1].model_dump_json()[:40])
    assert read_votes(tmp_path) == votes[:1]
    with open_ledger(tmp_path) as ledger:
        ledger.append(votes[2])
    assert file.read_text() == whole + votes[2].model_dump_json() + "\n"


def test_last_vote_without_a_line_end_still_counts(tmp_path: Path, votes: list[Vote]) -> None:
    (tmp_path / VOTES_FILE).write_text(votes[0].model_dump_json())
    with open_ledger(tmp_path) as ledger:
        ledger.append(votes[1])
    assert read_votes(tmp_path) == votes[:2]


def test_damaged_line_is_refused_with_its_number(tmp_path: Path, votes: list[Vote]) -> None:
    lines = [votes[0].model_dump_json(), '{"rater": "Ada"}', votes[1].model_dump_json()]
    (tmp_path / VOTES_FILE).write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="damaged line 2; restore"):
        read_votes(tmp_path)


def test_second_process_is_refused_while_one_collects(tmp_path: Path) -> None:
    with open_ledger(tmp_path), pytest.raises(ValueError, match="no other process collects"), open_ledger(tmp_path):
        pass
    with open_ledger(tmp_path):
        pass


def test_vote_that_the_disk_does_not_take_leaves_no_trace(
    tmp_path: Path, votes: list[Vote], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_ledger(tmp_path) as ledger:
        ledger.append(votes[0])
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            ledger.append(votes[1])
    assert read_votes(tmp_path) == votes[:1]


def test_vote_after_the_end_of_the_server_is_refused_and_written_to_no_other_file(
    tmp_path: Path, votes: list[Vote]
) -> None:
    with open_ledger(tmp_path) as ledger:
        pass
    # It has the number that the closed file had.
    with (tmp_path / "other").open("w"):
        with pytest.raises(OSError, match="the server was stopped"):
            ledger.append(votes[0])
        assert (tmp_path / "other").read_bytes() == b""
