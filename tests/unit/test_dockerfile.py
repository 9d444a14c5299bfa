"""The Dockerfile, as far as it can be checked without Docker: names, versions, and what its shell commands run."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from srpo_ray.cli.dispatch import COMMANDS
from tests.conftest import ROOT
from tests.helpers.install.sources import WHEEL_SOURCES

TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def instructions() -> list[tuple[str, str]]:
    """Instructions in their order, each with its arguments on one line."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def copied() -> list[tuple[list[str], str]]:
    """Sources and target of each COPY from the repository."""
    words = [rest.split() for rest in arguments("COPY") if not rest.startswith("--from")]
    return [(sources, target) for *sources, target in words]


def test_instructions_are_dockers() -> None:
    known = {"FROM", "RUN", "COPY", "ARG", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} <= known
    stages = [re.fullmatch(r"(\S+)(?: AS (\w+))?", rest) for rest in arguments("FROM")]
    named = [stage[2] for stage in stages if stage]
    assert [stage[1] for stage in stages if stage][1:] == ["base", "base"]
    for rest in arguments("COPY"):
        if rest.startswith("--from"):
            assert rest.split()[0].removeprefix("--from=") in named


def test_versions_are_those_of_the_constraints() -> None:
    (version,) = re.findall(r"^FROM python:(\d+\.\d+)-slim-\w+ AS base$", TEXT, re.MULTILINE)
    assert version == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert re.findall(r"\buv==(\S+)", TEXT) == [PINS["uv"]]


def test_every_file_that_the_wheel_needs_is_copied_and_not_ignored() -> None:
    sources = {source for files, _ in copied() for source in files}
    assert sources == set(WHEEL_SOURCES)
    for files, target in copied():
        for source in files:
            assert (ROOT / source).exists()
            # Docker copies the content of a folder, so the target has its name.
            assert (ROOT / source).is_file() or target == source
    ignored = (ROOT / ".dockerignore").read_text().split()
    for source in sources:
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored)
    assert {".git", ".venv", "runs"} <= set(ignored)


def test_build_and_install_run_uv_with_options_that_it_has() -> None:
    for words in (["build"], ["pip", "install"]):
        usage = subprocess.run([Path(sys.executable).with_name("uv"), *words, "--help"], capture_output=True, text=True)
        (line,) = re.findall(rf"\buv {' '.join(words)} ([^&\n]*)", "\n".join(arguments("RUN")))
        options = re.findall(r"--[a-z-]+", line)
        assert len(options) >= 3
        for option in options:
            assert re.search(rf"{option}\b", usage.stdout), option


@pytest.mark.parametrize(("torch", "backend"), [("cuda", "unset"), ("cpu", "cpu"), ("cu130", "cu130")])
def test_build_argument_chooses_torch(torch: str, backend: str, tmp_path: Path) -> None:
    (install,) = [rest for rest in arguments("RUN") if "uv pip install" in rest]
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "${UV_TORCH_BACKEND-unset}"\nfor word; do echo "$word"; done\n')
    uv.chmod(0o755)
    (tmp_path / "srpo_ray-0.1.0-py3-none-any.whl").touch()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH": torch, "EXTRAS": "all"}
    command = install.replace("/dist/", f"{tmp_path}/")
    ran = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=True)
    found, *words = ran.stdout.splitlines()
    assert found == backend
    assert words[-1] == f"{tmp_path}/srpo_ray-0.1.0-py3-none-any.whl[all]"
    assert f"{tmp_path}/constraints.txt" in words


def test_torch_backends_and_extras_of_the_arguments_exist() -> None:
    defaults = dict(rest.split("=") for rest in arguments("ARG"))
    assert defaults == {"TORCH": "cuda", "EXTRAS": "all"}
    assert defaults["EXTRAS"] in PROJECT["optional-dependencies"]
    (named,) = re.findall(r"--build-arg TORCH=(\w+)", TEXT)
    command = [
        Path(sys.executable).with_name("uv"),
        "pip",
        "install",
        "--offline",
        "--dry-run",
        "--torch-backend",
        named,
    ]
    # uv refuses the name of an unknown backend before it looks at the packages, here none.
    assert subprocess.run([*command, "-r", os.devnull], capture_output=True).returncode == 0


def test_image_runs_the_program_without_root() -> None:
    assert json.loads(arguments("ENTRYPOINT")[0])[0] in PROJECT["scripts"]
    assert arguments("USER") == ["srpo"]
    (example,) = re.findall(r"^#   docker run .* srpo_ray (.*)$", TEXT, re.MULTILINE)
    assert shlex.split(example)[0] in COMMANDS
