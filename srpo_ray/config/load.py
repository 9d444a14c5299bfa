"""Loading of a checked config from files and `a.b=value` arguments, with actionable error messages."""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from srpo_ray.config.algorithms.registry import DEFAULT_TYPE, part_types
from srpo_ray.config.base import Section
from srpo_ray.config.messages import describe, first_causes
from srpo_ray.config.run import RunConfig
from srpo_ray.config.yaml_text import YamlTextError, dump, load, load_value
from srpo_ray.packaged import near_configs, packaged_config

ConfigT = TypeVar("ConfigT", bound=Section)
logger = logging.getLogger(__name__)

ALGORITHM_TYPE = "algorithm.type"
"""Key that determines the other keys of section `algorithm`."""


class ConfigError(ValueError):
    """Error of an invalid config; the message contains the expected value, the given value and the fix."""


def find_config(name: str | Path, folder: str | Path = "") -> Path:
    """Find a config file: in a folder, or among the packaged configs.

    Args:
        name: Path of the file, relative to `folder`. If there is no such file, and the name begins with `configs/`,
            then it is the name of a packaged config.
        folder: Folder of the file that refers to this one. Default: the working folder.

    Returns:
        Path of the file; that in `folder` if there is none.
    """
    path = Path(folder) / name
    packaged = None if path.exists() else packaged_config(name)
    if packaged is None:
        return path
    # A warning, because Python prints no other messages unless a program configures logging.
    logger.warning("%s is not in %s; using the file of the package, %s", name, Path(folder).resolve(), packaged)
    return packaged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML file whose top level is a mapping. The path is that of `find_config`.

    Raises:
        ConfigError: If the file is missing, is not YAML, is not a mapping, or repeats a key in one section.
    """
    path = find_config(path)
    try:
        content = load(path.read_bytes())
    except OSError as error:
        near = near_configs(path) if isinstance(error, FileNotFoundError) else []
        override = "" if path.suffix in (".yaml", ".yml") else ", or write an override as KEY=VALUE"
        cure = f"did you mean {' or '.join(near)}?" if near else f"check the path{override}"
        raise ConfigError(
            f"{path}: expected a readable YAML file, got: {error.strerror}; {cure} (working folder: {Path.cwd()})"
        ) from error
    except YamlTextError as error:
        raise ConfigError(f"{path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(f"{path}: expected `key: value` lines at the top, got a {kind}; start with a key")
    return content


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge deeply: mappings are merged key by key, everything else (including lists) is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def set_path(values: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """Return a copy of nested `values` with one entry set at a dotted path, such as `rewards.models.0.weight`.

    Unset (None) sections on the path are created.

    Raises:
        ConfigError: If the path goes through a value that is neither a mapping nor a list.
    """
    root: dict[str, Any] = copy.deepcopy(dict(values))
    node: Any = root
    *parents, last = dotted.split(".")
    for depth, key in enumerate(parents):
        if isinstance(node, list):
            node = node[_list_index(node, key, dotted)]
        else:
            node[key] = {} if node.get(key) is None else node[key]
            node = node[key]
        if not isinstance(node, dict | list):
            at = ".".join(parents[: depth + 1])
            raise ConfigError(f"{dotted}: expected a section at `{at}`, got {node!r}; check the dotted path")
    if isinstance(node, list):
        node[_list_index(node, last, dotted)] = value
    else:
        node[last] = value
    return root


def entries(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Dotted path -> value of all entries of nested `values`, the reverse of `set_path`. Lists are values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{before}{key}"
        found |= entries(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return found


def get_path(values: Mapping[str, Any], dotted: str) -> Any:
    """The entry of nested `values` at a dotted path that `set_path` could set.

    Raises:
        ConfigError: If a list on the way has no such index.
    """
    node: Any = values
    for key in dotted.split("."):
        node = node[_list_index(node, key, dotted)] if isinstance(node, list) else node[key]
    return node


def _list_index(items: list[Any], key: str, dotted: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        last = len(items) - 1
        raise ConfigError(f"{dotted}: expected a list index from 0 to {last}, got {key!r}; count from 0")
    return int(key)


def parse_override(argument: str) -> tuple[str, Any]:
    """Split `a.b=value`; the value is parsed as YAML, so numbers, lists and booleans have their types.

    Raises:
        ConfigError: If there is no `=`, the value is not YAML, or YAML would drop a part of it, such as a comment.
    """
    path, separator, text = argument.partition("=")
    if not separator or not path:
        raise ConfigError(f"expected an override like `training.optimizer.lr=3e-6`, got {argument!r}")
    try:
        return path, load_value(text)
    except YamlTextError as error:
        raise ConfigError(f"{path}: {error}") from error


def validate(kind: type[ConfigT], values: Mapping[str, Any], origin: str) -> ConfigT:
    """Validate plain values with a config class.

    Raises:
        ConfigError: If a key is unknown, a value has the wrong type, or a check fails; the message lists every such
            key.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"  {describe(kind, details)}" for details in first_causes(error.errors())]
        raise ConfigError("\n".join([f"{origin}: this config cannot be used:", *lines])) from error


def load_values(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Merge files left to right, then apply `a.b=value` arguments in order, without validation.

    A later file or argument replaces what an earlier one gave for the same key.
    """
    values: dict[str, Any] = {}
    for path in paths:
        layer = read_yaml(path)
        section = layer.get("algorithm")
        if isinstance(section, Mapping) and "type" in section:
            values = choose_algorithm(values, section["type"])
        if isinstance(section, Mapping):
            values = choose_parts(values, section)
        values = merge(values, layer)
    return set_paths(values, dict(parse_override(argument) for argument in overrides))


def choose_algorithm(values: Mapping[str, Any], name: Any) -> dict[str, Any]:
    """Set the algorithm. Another type starts from its defaults, since its keys differ."""
    section = values.get("algorithm")
    if isinstance(section, Mapping) and section.get("type", DEFAULT_TYPE) == name:
        return dict(values)
    return {**values, "algorithm": {"type": name}}


def choose_parts(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set the types of the algorithm's parts. A part of another type starts from its defaults, since its keys differ.

    Args:
        values: Values of a run config.
        changes: Values of section `algorithm` that will be set.
    """
    section = values.get("algorithm")
    if not isinstance(section, Mapping):
        return dict(values)
    chosen = dict(section)
    for part, default in part_types(section.get("type", DEFAULT_TYPE)).items():
        present, changed = section.get(part), changes.get(part)
        if not isinstance(present, Mapping) or not isinstance(changed, Mapping) or "type" not in changed:
            continue
        if present.get("type", default) != changed["type"]:
            chosen[part] = {"type": changed["type"]}
    return {**values, "algorithm": chosen}


def set_paths(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Call `set_path` for every change in order, but set the types of algorithm and parts first: they have the keys."""
    changed = choose_algorithm(values, changes[ALGORITHM_TYPE]) if ALGORITHM_TYPE in changes else dict(values)
    named = [(dotted.split("."), value) for dotted, value in changes.items()]
    parts = {keys[1]: {"type": value} for keys, value in named if len(keys) == 3 and keys[::2] == ["algorithm", "type"]}
    changed = choose_parts(changed, parts)
    for dotted, value in changes.items():
        changed = set_path(changed, dotted, value)
    return changed


def load_run(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Load a run config: class defaults < files left to right < `a.b=value` arguments.

    Raises:
        ConfigError: If the result is not a usable config.
    """
    return validate(RunConfig, load_values(paths, overrides), ", ".join(str(path) for path in paths))


def apply(run: RunConfig, changes: Mapping[str, Any], origin: str = "changes") -> RunConfig:
    """Change values of a run config at dotted paths, and validate it again.

    Raises:
        ConfigError: If a path does not exist or a value is invalid.
    """
    return validate(RunConfig, set_paths(run.model_dump(mode="json"), changes), origin)


def to_yaml(config: Section) -> str:
    """Format the resolved config as YAML that `load_run` accepts."""
    return dump(config.model_dump(mode="json"))
