"""The documentation site's hooks: links of a page, and the check for assets of other hosts."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mkdocs.exceptions import PluginError

from tests.conftest import ROOT

HOOKS = runpy.run_path(str(ROOT / "docs" / "site_hooks.py"))
site_links: Callable[[str, str], str] = HOOKS["site_links"]


@pytest.mark.parametrize(
    ("page", "on_github", "on_the_site"),
    [
        ("index.md", "[plan](docs/plan.md#recipes)", "[plan](plan.md#recipes)"),
        ("index.md", "![report](docs/report.jpg)", "![report](report.jpg)"),
        ("guides/full_node.md", "[security](../../SECURITY.md)", "[security](../security.md)"),
        ("guides/full_node.md", "[plan](../plan.md)", "[plan](../plan.md)"),
        ("plan.md", "[home](../README.md)", "[home](index.md)"),
        ("plan.md", "[a config](../configs/small_world.yaml)", "a config"),
        ("index.md", "[the tests](tests/)", "the tests"),
        ("plan.md", "[hooks](site_hooks.py)", "hooks"),
    ],
)
def test_link_to_a_page_is_kept_and_link_to_another_file_becomes_its_text(
    page: str, on_github: str, on_the_site: str
) -> None:
    assert site_links(on_github, page) == on_the_site


@pytest.mark.parametrize("link", ["[x](nothing.md)", "[x](https://arxiv.org/abs/2509.06942)", "[x](#part)"])
def test_other_links_stay_so_that_a_strict_build_checks_them(link: str) -> None:
    assert site_links(link, "plan.md") == link


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script defer src="https://cdn.example/x.js">'),
        ("a.html", "<img alt=x src=//cdn.example/x.png>"),
        ("a.html", '<link rel="stylesheet" href="https://fonts.example/css">'),
        ("a.css", "@font-face{src:url(https://fonts.example/x.woff2)}"),
        ("a.css", "@import 'https://fonts.example/css';"),
    ],
)
def test_build_fails_where_a_browser_would_load_from_another_host(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PluginError, match=name):
        HOOKS["on_post_build"](SimpleNamespace(site_dir=str(tmp_path)))


def test_build_accepts_own_assets_and_links_to_other_hosts(tmp_path: Path) -> None:
    page = '<a href="https://arxiv.org/abs/2509.06942">paper</a><img src="report.jpg"><script src="x.js"></script>'
    (tmp_path / "a.html").write_text(page)
    HOOKS["on_post_build"](SimpleNamespace(site_dir=str(tmp_path)))
