"""The notebook as it is stored; `tests/integration/install` executes it."""

import re
import shlex

import nbformat

from srpo_ray.cli.dispatch import COMMANDS, parse
from tests.conftest import ROOT

NOTEBOOK = nbformat.read(ROOT / "notebooks" / "small_world.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_notebook_is_valid_and_stored_without_outputs() -> None:
    nbformat.validate(NOTEBOOK)
    assert CODE
    for cell in CODE:
        assert cell.outputs == []
        assert cell.execution_count is None


def test_every_command_of_the_notebook_is_one_of_the_program() -> None:
    texts = [*(cell.source.replace("\\\n", " ") for cell in CODE if cell.source.startswith("%%sh"))]
    texts += [line for cell in NOTEBOOK.cells if cell.cell_type == "markdown" for line in cell.source.split("`")[1::2]]
    commands = [command for text in texts for command in re.findall(r"srpo-ray (\w[^\n]*)", text)]
    assert {"init", "train", "sweep", "sample"} <= {command.split()[0] for command in commands}
    for command in commands:
        words = shlex.split(command)
        assert words[0] in COMMANDS
        if len(words) > 1:
            parse(words)
