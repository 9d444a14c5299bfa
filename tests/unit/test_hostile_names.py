"""Names and prompts that try to escape the folder of their run."""

import io
import json
import tarfile
import unicodedata
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from srpo_ray.cli import main
from srpo_ray.config import ConfigError, load_experiment, load_run
from srpo_ray.config.base import check_names, folder_name
from srpo_ray.config.yaml_text import dump_text
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.images import load_images
from srpo_ray.launch.preflight import open_run_folder
from tests.conftest import ROOT, SMALL_WORLD

SWEEP = ROOT / "configs/experiments/small_world_sweep.yaml"
HOSTILE = ["../outside", "..", ".", "/tmp/outside", "a/../../outside", "a\\outside", "a\x00b", "a\n", "~root", "", " "]


@pytest.mark.parametrize("name", HOSTILE)
def test_name_that_is_a_path_is_refused(name: str) -> None:
    quoted = '"' + name.replace("\\", "\\\\").replace("\n", "\\n").replace("\0", "\\0") + '"'
    with pytest.raises(ConfigError, match="name: "):
        load_run([SMALL_WORLD], [f"name={quoted}"])
    with pytest.raises(ConfigError, match=r"rewards\.models\.0\.name: "):
        load_run([SMALL_WORLD], [f"rewards.models.0.name={quoted}"])


def test_experiment_takes_no_path_for_a_name() -> None:
    with pytest.raises(ConfigError, match="name: "):
        load_experiment(SWEEP, ["experiment.name=../outside"])


ANY_SCRIPT = ["细节", "наружу", "प्रयोग", "می‌خواهم", "läufe", "实验-2", "😀", "👩\u200d🔬", "x²", "A_b.c-1"]


@pytest.mark.parametrize("name", ANY_SCRIPT)
def test_run_and_experiment_are_called_in_any_script(name: str) -> None:
    assert load_run([SMALL_WORLD], [f"name={name}"]).name == unicodedata.normalize("NFC", name)
    assert load_experiment(SWEEP, [f"experiment.name={name}"])[0].name
    assert folder_name(name) == unicodedata.normalize("NFC", name)


def test_two_spellings_of_one_name_are_one_folder() -> None:
    composed, apart = "l\u00e4ufe", "la\u0308ufe"
    assert load_run([SMALL_WORLD], [f"name={apart}"]) == load_run([SMALL_WORLD], [f"name={composed}"])
    with pytest.raises(ValueError, match="names that differ"):
        check_names([composed, apart])


@pytest.mark.parametrize(
    "name",
    [
        ".hidden",
        "-flag",
        "a b",
        "a+b",
        "a:b",
        "a\u2028b",
        "a\u202eb",
        "\u0301a",
        "a\ufeff",
        "🙂/x",
        "x" * 201,
        "细" * 67,
    ],
)
def test_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"  name: expected .*(choose such a name|shorten the name)"):
        load_run([SMALL_WORLD], [f"name={dump_text(name)}"])


def test_longest_name_can_still_be_written_as_a_folder(tmp_path: Path) -> None:
    for name in ("x" * 200, "细" * 66):
        config = load_run([SMALL_WORLD], [f"name={name}", f"run_root={tmp_path}"])
        folder = open_run_folder(config, tmp_path / config.name)
        assert load_run([folder.config]) == config


def test_experiment_whose_best_arm_would_have_too_long_a_name_is_refused() -> None:
    load_experiment(SWEEP, [f"experiment.name={'x' * 195}"])
    with pytest.raises(ConfigError, match=r"expected at most 200 bytes, got 201"):
        load_experiment(SWEEP, [f"experiment.name={'x' * 196}"])


@pytest.mark.parametrize("names", [["SRPO"], ["x" * 101], ["细" * 34], ["好 吗", "好/吗"]])
def test_ablation_that_would_share_or_burst_a_folder_is_refused(names: list[str]) -> None:
    ablations = json.dumps([{"name": name, "set": {}} for name in names])
    with pytest.raises(ConfigError, match=r"names (that differ|of at most 100 bytes)"):
        load_experiment(SWEEP, [f"experiment.ablations={ablations}"])


@pytest.mark.parametrize("name", [*HOSTILE, "seed 1/../../..", "C:\\outside", "наружу"])
def test_free_name_becomes_a_folder_inside_or_is_refused(name: str, tmp_path: Path) -> None:
    folder = folder_name(name)
    if not folder:
        with pytest.raises(ValueError, match="names that differ in their letters"):
            check_names([name])
    else:
        assert (tmp_path / folder).resolve().parent == tmp_path.resolve()


def test_control_words_of_a_hostile_set_stay_names(tmp_path: Path) -> None:
    changes = [
        'word_sets={"../../outside": {positive: ["../up"], negative: ["/tmp/down"]}}',
        'algorithm.control_words="../../outside"',
    ]
    config = load_run([SMALL_WORLD], [f"run_root={tmp_path / 'runs'}", *changes])
    assert config.trained_words is not None
    assert TextCache.of(config).store.folder.is_relative_to(tmp_path / "runs" / "cache")


def test_reward_of_the_command_line_is_a_name_of_the_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["words", "--reward", "../../outside", "--words", "a,b", str(SMALL_WORLD), f"run_root={tmp_path}"]
    assert main(words) == 2
    assert "--reward: expected a model of" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def image_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_members_of_a_tar_file_are_read_and_never_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "inner" / "images.tar"
    source.parent.mkdir()
    with tarfile.open(source, "w") as archive:
        for name, content in (("../../escaped.png", image_bytes()), ("../../escaped.txt", b"a caption")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("secret.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    images = load_images(str(source))
    assert images.captions == ["a caption"]
    assert images.load([0], 16).shape == (1, 3, 16, 16)
    assert sorted(tmp_path.rglob("*")) == [source.parent, source]


@pytest.mark.parametrize("path", ["../secret.png", "/proc/self/environ", "sub/../../secret.png", "link.png"])
def test_table_cannot_have_files_from_elsewhere_read(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(image_bytes())
    folder = tmp_path / "table"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "sub" / "own.png").write_bytes(image_bytes())
    images = [{"bytes": None, "path": path}, {"bytes": None, "path": "sub/own.png"}]
    table = pyarrow.table({"image": images, "caption": ["one", "two"]})
    pyarrow.parquet.write_table(table, folder / "images.parquet")
    loaded = load_images(str(folder / "images.parquet"))
    assert loaded.load([1], 16).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"row 0.*expected a path inside"):
        loaded.load([0, 1], 16)
