"""Download of results from a cluster, and its output on the terminal."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.cluster.follow import Output
from srpo_ray.cluster.on_head import MARK, send
from srpo_ray.cluster.results import results_here, write_files
from tests.conftest import SMALL_WORLD


def line(name: str, content: bytes, digest: str | None = None) -> str:
    file = {"name": name, "content": base64.b64encode(content).decode()}
    return MARK + json.dumps({**file, "sha256": digest or hashlib.sha256(content).hexdigest()})


def test_files_arrive_as_they_were_between_other_lines(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "report.html").write_bytes(b"\x00\xff\n")
    write_files(["a warning", *send(tmp_path / "there"), "done"], tmp_path / "here")
    assert (tmp_path / "here" / "report.html").read_bytes() == b"\x00\xff\n"


@pytest.mark.parametrize("name", ["../outside.html", "/tmp/outside.html", "images/../../outside.html"])
def test_file_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside it"):
        write_files([line(name, b"x")], tmp_path / "here")
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("folder", ["runs/..", "..", "/", ""])
def test_results_folder_without_a_name_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match="expected a results folder"):
        results_here(folder)
    assert results_here("/shared/runs/study/") == Path("runs/study")


def test_file_that_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected report\.html as the cluster read it"):
        write_files([line("report.html", b"x", digest="0" * 64)], tmp_path)


def test_output_that_is_sent_again_is_shown_once() -> None:
    shown: list[str] = []
    output = Output(shown.append)
    for text in ("one\n", "two\nth"):
        output.add(text)
    output.restart()
    for text in ("one\ntwo\n", "three\n", "four\n"):
        output.add(text)
    assert "".join(shown) == "one\ntwo\nthree\nfour\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cluster", "no_such.yaml"], "neither a file nor an address"),
        (["--cluster", "http://127.0.0.1:1", "--address", "auto"], "got both"),
        (["--attach"], "expected --cluster beside --attach or --stop"),
        (["run_root=elsewhere", "--cluster", "http://127.0.0.1:1"], "expected run_root to be `runs`"),
        (["training.num_updates=-1", "--cluster", "http://127.0.0.1:1"], "num_updates"),
    ],
)
def test_mistake_is_answered_before_anything_is_sent(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(SMALL_WORLD), *words]) == 2
    assert message in capsys.readouterr().err
