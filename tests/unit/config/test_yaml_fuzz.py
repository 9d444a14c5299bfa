"""Config files and arguments after damage: a config, or the project's own error."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_ray.config.load import ConfigError, load_run, parse_override
from tests.conftest import SMALL_WORLD
from tests.helpers.damage import FUZZ, damaged


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml") / "run.yaml"


def test_damaged_config_is_read_or_named(file: Path) -> None:
    @FUZZ
    @given(damaged(SMALL_WORLD.read_bytes()))
    def check(content: bytes) -> None:
        file.write_bytes(content)
        problem = None
        try:
            load_run([file])
        except ConfigError as error:
            problem = str(error)
        assert problem is None or str(file) in problem

    check()


@FUZZ
@given(st.text(max_size=40), st.text(alphabet="{}[]:,&*!|>'\"%@`#-? \n\t0123456789e.~", max_size=30))
def test_any_argument_is_parsed_or_refused(key: str, value: str) -> None:
    with suppress(ConfigError):
        path, _ = parse_override(f"{key}={value}")
        assert f"{key}={value}".startswith(f"{path}=")
