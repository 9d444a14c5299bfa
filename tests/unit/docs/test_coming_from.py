"""Page for users of other frameworks: its keys, defaults, commands, files and configs exist here."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from srpo_ray.cli.dispatch import COMMANDS
from srpo_ray.config import RunConfig
from srpo_ray.config.load import get_path, read_yaml, validate
from srpo_ray.config.yaml_text import load, load_value
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
PEERS = ("flow_grpo", "Flow-Factory", "SimpleTuner", "The SRPO release")
ROOTS = frozenset(RunConfig.model_fields)


def rows(text: str, columns: int) -> list[list[str]]:
    """Cells of the lines of tables with this number of columns, without heads."""
    lines = re.findall(r"^\| (.+) \|$", text, re.MULTILINE)
    cells = [[cell.strip() for cell in f"{line} ".split(" | ")] for line in lines]
    return [row for row in cells if len(row) == columns and row[0] not in ("option", "setting", "their reward")]


def kinds(annotation: Any) -> Iterator[type[BaseModel]]:
    """Config classes in an annotation, such as those of a union or a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from kinds(inner)


def defaults(kind: type[BaseModel], keys: list[str], given: Any = PydanticUndefined) -> Iterator[Any]:
    """Defaults of a dotted key in all classes that have it; `given` is the instance of `kind` that its owner has."""
    name, *rest = keys
    if name not in kind.model_fields:
        return
    field = kind.model_fields[name]
    own = field.get_default(call_default_factory=True)
    value = getattr(given, name) if isinstance(given, kind) else own
    if not rest:
        yield value
        return
    inner = rest[1:] if rest[0] == "0" else rest
    for each in kinds(field.annotation):
        yield from defaults(each, inner, value)


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def keys_in(text: str) -> list[str]:
    """Config keys in backticks, with or without a value."""
    found = [quoted.partition(":")[0] for quoted in re.findall(r"`([^`]+)`", text)]
    return [key for key in found if re.fullmatch(r"[a-z_]+(\.\w+)+", key) and key.partition(".")[0] in ROOTS]


def here(text: str) -> list[str]:
    """Column *here* of the table of options."""
    return [row[1] for row in rows(text, 4)]


def test_page_has_a_table_and_a_config_for_each_framework() -> None:
    assert set(PEERS) < set(SECTIONS)
    assert all(len(rows(SECTIONS[peer], 4)) >= 20 for peer in PEERS)
    assert all(SECTIONS[peer].count("```yaml") == 1 for peer in PEERS)


@pytest.mark.parametrize("peer", PEERS)
def test_every_option_names_a_key_or_a_command_of_this_project(peer: str) -> None:
    for text in here(SECTIONS[peer]):
        (quoted,) = re.findall(r"`([^`]+)`", text)
        if quoted.startswith("srpo-ray "):
            assert quoted.split()[1] in COMMANDS, quoted
        else:
            assert list(defaults(RunConfig, quoted.split("."))), quoted


@pytest.mark.parametrize("peer", PEERS)
def test_stated_defaults_are_those_of_the_config_classes(peer: str) -> None:
    for _, key, default, _ in rows(SECTIONS[peer], 4):
        if default != "-":
            stated = load_value(default.strip("`"))
            found = [plain(value) for value in defaults(RunConfig, key.strip("`").split("."))]
            assert stated in found, f"{key}: {default}, found {found}"


def test_all_other_keys_of_the_page_exist_too() -> None:
    text = "\n".join(line if not line.startswith("| ") else line.partition(" | ")[2] for line in PAGE.splitlines())
    named = keys_in(re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert [key for key in named if not list(defaults(RunConfig, key.split(".")))] == []


def test_check_finds_a_key_that_does_not_exist() -> None:
    assert not list(defaults(RunConfig, ["training", "optimiser", "lr"]))
    assert not list(defaults(RunConfig, ["algorithm", "surrogate", "beta_kl"]))
    assert keys_in("`training.optimiser.lr: 1`, `train.lr`") == ["training.optimiser.lr"]


def test_types_and_files_of_the_page_exist() -> None:
    types = {value for kind in kinds(RunConfig.model_fields["rewards"].annotation) for value in _types(kind)}
    types |= {value for kind in kinds(RunConfig.model_fields["algorithm"].annotation) for value in _types(kind)}
    assert {"judge", "policy_gradient"} < types
    assert set(re.findall(r"`type: (\w+)`", PAGE)) <= types
    named = re.findall(r"`(configs/[^`]+)`", PAGE)
    assert len(named) > 5
    assert all((ROOT / name).exists() for name in named)
    presets = {file.stem for file in (ROOT / "configs" / "algorithms").iterdir()}
    assert {"flow_grpo", "flow_grpo_fast", "grpo_guard"} <= presets


def _types(kind: type[BaseModel]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if name == "type":
            yield field.default
        for inner in kinds(field.annotation):
            yield from _types(inner)


def test_commands_of_the_page_exist() -> None:
    assert set(re.findall(r"srpo-ray (\w[\w-]*)", PAGE)) <= set(COMMANDS)


def config(peer: str) -> Mapping[str, Any]:
    (block,) = re.findall(r"```yaml\n(.*?)```", SECTIONS[peer], re.DOTALL)
    return load(block.encode())


@pytest.mark.parametrize("peer", PEERS)
def test_config_of_each_framework_loads_as_a_run(peer: str) -> None:
    run = validate(RunConfig, config(peer), peer)
    assert run.model.path == "black-forest-labs/FLUX.1-dev"
    assert run.evaluation.held_out


def test_flow_grpo_config_has_the_published_images_per_optimizer_step() -> None:
    run = validate(RunConfig, config("flow_grpo"), "flow_grpo")
    published = 48 * 24 // 2
    group_size: int = run.algorithm.group_size  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
    assert run.training.batch_size * group_size == published


def test_srpo_config_has_every_value_of_the_preset() -> None:
    run = validate(RunConfig, config("The SRPO release"), "srpo").model_dump(mode="json")
    preset = read_yaml(ROOT / "configs/presets/srpo_reference.yaml")
    for path in _paths(preset):
        assert plain(get_path(run, path)) == plain(get_path(preset, path)), path


def _paths(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield from _paths(value, f"{before}{key}.") if isinstance(value, Mapping) else (f"{before}{key}",)


def test_every_section_says_what_is_missing_here_and_what_was_read() -> None:
    for peer in PEERS:
        assert "**Not here:**" in SECTIONS[peer]
        assert re.search(r"Read at `[0-9a-f]{7}`|arXiv 2509.06942", SECTIONS[peer])
