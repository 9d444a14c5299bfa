"""Writes docs/tree.md and docs/configuration.md from the code: `python docs/generate.py`."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srpo_ray.config import ExperimentConfig, RunConfig

ROOT = Path(__file__).parent.parent
Schema = dict[str, Any]


def tree() -> str:
    """Every file of the package with the first line of its docstring, folder by folder."""
    lines = [
        "# Files of the package",
        "",
        "Written by `python docs/generate.py` from the first line of each docstring.",
    ]
    files = sorted((ROOT / "srpo_ray").rglob("*.py"), key=lambda file: (file.parent, file.name))
    folder = None
    for file in files:
        if file.parent != folder:
            folder = file.parent
            about = _first_line(folder / "__init__.py")
            lines += ["", f"## `{folder.relative_to(ROOT)}/`", "", *([about, ""] if about else [])]
            lines += ["| file | what is in it |", "|---|---|"]
        if file.name != "__init__.py":
            lines.append(f"| `{file.name}` | {_cell(_first_line(file))} |")
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Every key of a run or experiment file with its type, range, default and meaning."""
    lines = [
        "# Configuration",
        "",
        "Written by `python docs/generate.py` from the config classes. A file gives the keys that differ from these",
        "defaults; `a.b=value` on the command line gives one key. Numbers are finite.",
    ]
    shown: set[str] = set()
    for kind, title in ((RunConfig, "Run file"), (ExperimentConfig, "Experiment file")):
        schema = kind.model_json_schema()
        sections = {title: schema, **schema.get("$defs", {})}
        for name in _reached(title, sections):
            if name not in shown:
                shown.add(name)
                heading = name if name == title else f"`{name}`"
                lines += ["", f"## {heading}", "", *_table(sections[name], sections)]
    return "\n".join(lines) + "\n"


def _reached(start: str, sections: dict[str, Schema]) -> list[str]:
    """Names of the sections that a section refers to, itself first, in the order in which they are met."""
    found = [start]
    for name in found:
        met = re.findall(r"#/\$defs/(\w+)", json.dumps(sections[name]["properties"]))
        found += [each for each in dict.fromkeys(met) if each not in found]
    return found


def _table(schema: Schema, sections: dict[str, Schema]) -> Iterator[str]:
    yield _cell(schema.get("description", ""))
    yield ""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    required = schema.get("required", [])
    for key, value in schema["properties"].items():
        default = "required" if key in required else _default(value)
        yield f"| `{key}` | {_cell(_type(value))} | {_cell(default)} | {_cell(_meaning(value, sections))} |"


def _meaning(schema: Schema, sections: dict[str, Schema]) -> str:
    """The docstring of a key, or that of the section that it holds."""
    if "const" in schema:
        return "Name of this class, by which a file chooses it."
    return schema.get("description") or sections.get(schema.get("$ref", "").rpartition("/")[2], {}).get(
        "description", ""
    )


def _type(schema: Schema) -> str:
    """Type and range in words: `number, > 0`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(_type(choice) for choice in schema[union])
    kind: str = schema.get("type", "any value")
    if kind == "array" and "prefixItems" in schema:
        return f"[{', '.join(_type(item) for item in schema['prefixItems'])}]"
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_type(values)}" if isinstance(values, dict) and values else "mapping"
    words = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`"}.get(kind, kind)
    limits = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    return ", ".join([words, *(f"{sign} {schema[name]:g}" for name, sign in limits.items() if name in schema)])


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if isinstance(default, dict) and default:
        return "that of each key"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _first_line(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) if file.exists() else None
    return " ".join((docstring or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"tree.md": tree, "configuration.md": configuration}


def main() -> None:
    """Write both pages beside this file."""
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
