"""What the package declares to need, against what its code imports and what the tests run with."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from srpo_ray import __version__
from srpo_ray.cli import main
from srpo_ray.extras import require_package
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DEPENDENCIES = [Requirement(text) for text in PROJECT["dependencies"]]
SOURCES = sorted((ROOT / "srpo_ray").rglob("*.py"))
DISTRIBUTIONS = {
    "PIL": "pillow",
    "googleapiclient": "google-api-python-client",
    "open_clip": "open-clip-torch",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}
"""Name to import -> name to install, where they differ in more than case and underscores."""
UNSEEN = {
    "protobuf": "transformers reads SentencePiece tokenizers with it",
    "sentencepiece": "T5's tokenizer",
}
"""Declared packages that no line imports, and what needs them."""
PRESENT_ANYWAY = {
    "bitsandbytes": "quantization",
    "boto3": "aws",
    "googleapiclient": "gcp",
    "optuna": "optuna",
    "torchao": "quantization",
    "wandb": "wandb",
    "matplotlib": None,
    "pandas": None,
    "pynvml": None,
}
"""Packages that code looks for and does without; the extra that installs them, or None."""


def imported(source: str) -> Iterator[str]:
    """First parts of the names of the modules that a module imports anywhere, by statement or by constant text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value).partition(".")[0]


def others() -> set[str]:
    """Modules of other projects that the package imports."""
    found = {name for path in SOURCES for name in imported(path.read_text(encoding="utf-8"))}
    return found - set(sys.stdlib_module_names) - {"srpo_ray", "__future__"}


def distribution(module: str) -> str:
    return canonicalize_name(DISTRIBUTIONS.get(module, module))


def test_every_import_is_a_declared_dependency_or_belongs_to_an_extra() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in DEPENDENCIES}
    assert len(others()) > 20
    assert {name for name in others() - set(PRESENT_ANYWAY) if distribution(name) not in declared} == set()


def test_every_declared_dependency_is_imported_or_needed_by_another() -> None:
    used = {distribution(name) for name in others()}
    declared = {canonicalize_name(requirement.name) for requirement in DEPENDENCIES}
    assert declared - used == set(UNSEEN)


def test_installed_versions_are_those_that_the_metadata_asks_for() -> None:
    for requirement in DEPENDENCIES:
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version}"


def test_extra_all_is_every_extra_of_users() -> None:
    (everything,) = EXTRAS["all"]
    requirement = Requirement(everything)
    assert requirement.name == PROJECT["name"]
    assert requirement.extras == set(EXTRAS) - {"all", "dev"}


def test_packages_of_extras_are_pinned_within_their_range() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for extra in set(EXTRAS) - {"all"}:
        for requirement in map(Requirement, EXTRAS[extra]):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), str(requirement)


def test_optional_packages_belong_to_the_extra_that_messages_name() -> None:
    for module, extra in PRESENT_ANYWAY.items():
        if extra is not None:
            names = {canonicalize_name(Requirement(text).name) for text in EXTRAS[extra]}
            assert distribution(module) in names


def test_every_hint_to_install_an_extra_names_one_of_this_project() -> None:
    texts = [path for pattern in ("*.py", "*.md") for path in (ROOT / "srpo_ray").rglob(pattern)]
    texts += [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("*.yaml")]
    hints = {
        (path.name, project, extra)
        for path in texts
        for project, extras in re.findall(r"pip install[^`\n]*?'([\w-]+)\[([\w,]+)\]'", path.read_text())
        for extra in extras.split(",")
    }
    assert len({extra for _, _, extra in hints}) >= 2
    assert {hint for hint in hints if hint[1] != PROJECT["name"] or hint[2] not in EXTRAS} == set()


def test_missing_package_is_named_with_its_extra_and_the_way_without_it() -> None:
    with pytest.raises(
        ValueError, match=r"package no_such for a.b=c, got none; run `pip install 'srpo_ray\[aws\]'`.*d$"
    ):
        require_package("no_such", "aws", "a.b=c", "d")
    require_package("json", "aws", "a.b=c", "d")


def test_version_is_the_same_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"srpo-ray {PROJECT['version']}\n"
    assert PROJECT["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    # Before a release, the section is called Unreleased and says which version it becomes.
    head, _, rest = changelog.partition("\n## ")[2].partition("\n")
    version = re.match(r"(?:\[?v?)(\d+\.\d+\.\d+)", head) or re.search(r"Version (\d+\.\d+\.\d+)", rest[:200])
    assert version is not None
    assert version[1] == __version__
