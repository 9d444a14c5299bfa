from pathlib import Path

import pytest

from srpo_ray.files import read_json_or, replacing, split_lines, write_text


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = write_text(tmp_path / "deep" / "a.txt", "old ü\n")

    def fail() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text(encoding="utf-8") == "old ü\n"
    assert list(path.parent.iterdir()) == [path]


def test_file_is_not_visible_before_it_is_complete(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_last_line_without_a_line_end_is_unfinished(tmp_path: Path) -> None:
    assert split_lines(b"a\n\nb\nhal") == ([(1, b"a"), (2, b""), (3, b"b")], b"hal")
    assert split_lines(b"a\n") == ([(1, b"a")], b"")
    assert split_lines(b"") == ([], b"")


def test_missing_file_of_json_has_the_other_value_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json_or(path, {"a": 1}) == {"a": 1}
    path.write_text("[2]")
    assert read_json_or(path, {"a": 1}) == [2]
    path.write_text("[2")
    with pytest.raises(ValueError, match="expected JSON in"):
        read_json_or(path, {})
