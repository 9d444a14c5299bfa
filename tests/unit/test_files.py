from pathlib import Path

import pytest

from srpo_ray.files import replacing, write_text


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
