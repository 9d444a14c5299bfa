from pathlib import Path

import pytest

from srpo_ray.config import apply, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from tests.conftest import SMALL_WORLD


def test_local_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A folder of the embedded pipeline's name must not hide it.
    (tmp_path / "small_world").mkdir()
    (tmp_path / "reward").mkdir()
    (tmp_path / "prompts.txt").touch()
    changes = {
        "data.prompts": "prompts.txt",
        "evaluation.test.prompts": "prompts.txt",
        "rewards.models.0.path": "reward",
        "rewards.models.1.path": "hf-hub:laion/some-model",
        "tracking.uri": "sqlite:///my.db",
    }
    found = with_absolute_paths(apply(load_run([SMALL_WORLD]), changes))
    assert found.run_root == str(tmp_path / "runs")
    assert found.data.prompts == str(tmp_path / "prompts.txt")
    assert found.evaluation.prompts == "small_world:validation"
    assert found.evaluation.test is not None
    assert found.evaluation.test.prompts == str(tmp_path / "prompts.txt")
    assert found.model.path == "small_world"
    assert [model.path for model in found.rewards.models] == [str(tmp_path / "reward"), "hf-hub:laion/some-model"]  # pyright: ignore[reportAttributeAccessIssue]
    assert found.tracking.uri == f"sqlite:///{tmp_path}/my.db"
    assert with_absolute_paths(found) == found
    heads = {"name": "looks", "type": "aesthetic", "path": "hf-hub:a/b/head.pth", "backbone": "reward"}
    (model,) = with_absolute_paths(apply(load_run([SMALL_WORLD]), {"evaluation.held_out": [heads]})).evaluation.held_out
    assert model.type == "aesthetic"
    assert (model.path, model.backbone) == ("hf-hub:a/b/head.pth", str(tmp_path / "reward"))
    assert with_absolute_paths(apply(found, {"tracking.uri": "http://host:5000"})).tracking.uri == "http://host:5000"
    images = with_absolute_paths(apply(found, {"data.images": "images/*.tar"}))
    assert images.data.images == str(tmp_path / "images" / "*.tar")
    embedded = apply(found, {"data.images": "small_world:realistic"})
    assert with_absolute_paths(embedded).data.images == "small_world:realistic"


def test_sqlite_file_is_found_from_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_run([SMALL_WORLD])
    assert with_absolute_paths(config).tracking.uri is None
    for name in ("läufe #1", "a%20b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "läufe #1")
    uris = ("sqlite:///sub/my.db?timeout=5", "sqlite:////abs/a%20b.db", "http://host:5000/#x")
    found = [with_absolute_paths(apply(config, {"tracking.uri": uri})).tracking.uri for uri in uris]
    assert found == [f"sqlite:///{tmp_path}/läufe #1/sub/my.db?timeout=5", *uris[1:]]
    monkeypatch.chdir(tmp_path / "a%20b")
    with pytest.raises(ValueError, match=r"a%20b', where '%20' has a special meaning"):
        with_absolute_paths(apply(config, {"tracking.uri": "sqlite:///my.db"}))
