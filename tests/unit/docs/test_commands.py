"""Commands that the documentation shows: the parser takes them, and their configs load with their overrides."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from srpo_ray.cli.dispatch import COMMANDS, parse
from srpo_ray.config import load_experiment, load_run
from srpo_ray.config.load import read_yaml
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown(page: Path) -> Iterator[str]:
    """Calls of `srpo-ray` in code blocks, whole and without comments."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for call in re.findall(r"^srpo-ray (?!--version).+", line):
                yield shlex.join(shlex.split(call.split(" && ")[0], comments=True))


LINES = list(dict.fromkeys((page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in shown(page)))


def exit_code(words: list[str]) -> int | str | None:
    """Exit code of the parser; an option such as --list prints and ends at once."""
    try:
        parse(words)
    except SystemExit as error:
        return error.code
    return 0


def test_pages_show_most_commands() -> None:
    assert len(LINES) > 100
    assert len({line.split()[1] for _, line in LINES} & set(COMMANDS)) >= 12


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page} {index}" for index, (page, _) in enumerate(LINES)])
def test_shown_command_is_parsed_and_its_config_loads(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)[1:]
    assert exit_code(words) == 0, f"{page}: {line}\n{capsys.readouterr().err}"
    files = [word for word in words if word.endswith(".yaml") and word.startswith("configs/")]
    missing = [file for file in files if not Path(file).exists()]
    assert all("NAME" in file for file in missing), f"{page}: {line}"
    if missing or not files:
        return
    overrides = [word for word in words if re.match(r"[a-z_]+(\.\w+)*=", word)]
    if "arms" in read_yaml(files[-1]):
        load_experiment(files[-1], overrides)
    else:
        load_run(files, overrides)
