"""Cluster files that `--cluster` names, before any connection."""

import importlib.util
from pathlib import Path

import pytest

from srpo_ray.cluster.dashboard import CLOUD_PACKAGES, Dashboard
from tests.conftest import ROOT

FILES = {"aws": "cluster.yaml", "gcp": "cluster/gcp.yaml"}


@pytest.mark.parametrize("cloud", CLOUD_PACKAGES)
def test_cloud_without_its_package_is_refused_with_the_extra(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ROOT / FILES[cloud]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == CLOUD_PACKAGES[cloud] else object())
    with pytest.raises(ValueError, match=rf"package {CLOUD_PACKAGES[cloud]} .*srpo_ray\[{cloud}\]"):
        Dashboard(str(file))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with Dashboard(str(file)) as dashboard:
        assert dashboard.by_file


def test_address_and_file_of_another_cloud_need_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (tmp_path / "local.yaml").write_text("provider: {type: local}\n")
    for cluster in ("http://127.0.0.1:8265", str(tmp_path / "local.yaml")):
        with Dashboard(cluster) as dashboard:
            assert dashboard.cluster == cluster


def test_file_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("provider: {type: aws\n")
    with pytest.raises(ValueError, match="expected the YAML file of `ray up`"):
        Dashboard(str(tmp_path / "cluster.yaml"))
