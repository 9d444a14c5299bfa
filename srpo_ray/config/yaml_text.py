"""Strict YAML reader and writer: unique keys, scalars as in YAML 1.2, lossless round trip.

PyYAML follows YAML 1.1, which reads `on`, `1_000`, `12:30:00` and `2024-01-01` as other types than text and keeps the
last of two equal keys.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

_PREFIX = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT = f"{_PREFIX}null", f"{_PREFIX}bool", f"{_PREFIX}int", f"{_PREFIX}float"
_MERGE = f"{_PREFIX}merge"
_CORE_SCHEMA = (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        _FLOAT,
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
"""Scalars other than text, by YAML 1.2.2, section 10.3.2: tag, pattern, first characters. The first match counts."""
_PATTERNS = {tag: re.compile(rf"(?:{pattern})\Z") for tag, pattern, _ in _CORE_SCHEMA}


class YamlTextError(ValueError):
    """Error of invalid YAML; the message contains the line numbers, and the caller adds the file name."""


class _Loader(yaml.SafeLoader):
    """Loader of text, numbers, `true`, `false`, `null`, lists, and mappings with unique text keys."""

    yaml_implicit_resolvers: ClassVar = {}
    yaml_constructors: ClassVar = {
        None: yaml.SafeLoader.yaml_constructors[None],
        **{f"{_PREFIX}{kind}": yaml.SafeLoader.yaml_constructors[f"{_PREFIX}{kind}"] for kind in ("str", "seq", "map")},
    }

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping and check its keys, before merge keys (`<<`) add keys that may be overridden."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = _key(key), key.start_mark.line + 1
            if name in lines:
                where = f"twice in line {line}" if line == lines[name] else f"in lines {lines[name]} and {line}"
                raise YamlTextError(
                    f"expected each key once in a section, got `{name}` {where}; merge the two, or remove one"
                )
            lines[name] = line
        return node


_LINE_BREAKS = re.compile("[\r\x85\u2028\u2029]")
"""Line breaks that YAML converts to others, or to spaces, unless they are escaped."""


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes every text that this loader, or one of YAML 1.1, would read as another type."""

    def represent_str(self, data: str) -> ScalarNode:
        """Write a text plain, or in double quotes if it needs escapes."""
        return self.represent_scalar(f"{_PREFIX}str", data, style='"' if _LINE_BREAKS.search(data) else None)

    def ignore_aliases(self, data: Any) -> bool:
        """Write a shared value twice instead of as an anchor and an alias."""
        return True


def load(content: str | bytes) -> Any:
    """Read one YAML document.

    Args:
        content: Text; bytes are UTF-8, or UTF-16 with a byte order mark.

    Raises:
        YamlTextError: If it is not YAML, a section repeats a key, or a key is not text.
    """
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlTextError(f"expected YAML, got a syntax error; correct it:\n{error}") from error


def load_all(content: str | bytes) -> list[Any]:
    """Read every document of a YAML stream.

    Raises:
        YamlTextError: As `load` does.
    """
    try:
        return list(yaml.load_all(content, _Loader))
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlTextError(f"expected YAML, got a syntax error; correct it:\n{error}") from error


def load_value(text: str) -> Any:
    """Read the value of a command line's `key=value`, without dropping any part of it.

    Raises:
        YamlTextError: As `load` does, and if the text contains a comment, another part that is not a value, or an
            unquoted text of several lines, whose line breaks YAML would convert to spaces.
    """
    value = load(text)
    tokens = list(yaml.scan(text))
    if any("#" in text[one.end_mark.index : two.start_mark.index] for one, two in pairwise(tokens)):
        raise YamlTextError(f"expected no comment, got {text!r}, where ` #` starts a comment; {_quoting(text)}")
    for token in tokens:
        written = text[token.start_mark.index : token.end_mark.index]
        folded = isinstance(token, yaml.ScalarToken) and token.style not in ("|", ">") and len(written.splitlines()) > 1
        if folded or isinstance(token, _NO_VALUE):
            raise YamlTextError(f"expected a value, got {text!r}, of which YAML would drop a part; {_quoting(text)}")
    return value


_NO_VALUE = (yaml.DirectiveToken, yaml.DocumentStartToken, yaml.DocumentEndToken, yaml.AnchorToken)


def _quoting(text: str) -> str:
    return f"quote text for YAML as well as for the shell, such as {dump_text(text)}"


def dump(values: Mapping[str, Any], *, short_lists: bool = False) -> str:
    """Format plain values as YAML that `load` reads as the same values; keys keep their order.

    Args:
        values: Mappings with text keys, lists, texts, numbers, booleans and None.
        short_lists: Write lists and mappings without nested ones in one line.
    """
    flow = None if short_lists else False
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, allow_unicode=True)


def dump_text(text: str) -> str:
    """Quote a text for YAML if necessary, in one line."""
    written = yaml.dump(text, Dumper=_Dumper, default_style='"', allow_unicode=True, width=10 * len(text) + 10)
    return written.removesuffix("\n")


def _key(node: Node) -> str:
    if isinstance(node, ScalarNode) and node.tag in (f"{_PREFIX}str", _MERGE):
        return node.value
    line = node.start_mark.line + 1
    if not isinstance(node, ScalarNode):
        raise YamlTextError(f"line {line}: expected a key that is text, got a list or a mapping; name the key")
    raise YamlTextError(
        f"line {line}: expected a key that is text, got `{node.value}`, which is not text in YAML; write"
        f" {dump_text(node.value)}"
    )


def _scalar(node: Node, tag: str) -> str:
    # An explicit tag such as `!!int` may precede any text.
    if isinstance(node, ScalarNode) and _PATTERNS[tag].match(node.value):
        return node.value
    kind = tag.removeprefix(_PREFIX)
    raise yaml.constructor.ConstructorError(None, None, f"expected a value of type {kind}", node.start_mark)


def _null(_: _Loader, node: Node) -> None:
    _scalar(node, _NULL)


def _bool(_: _Loader, node: Node) -> bool:
    return _scalar(node, _BOOL).lower() == "true"


def _int(_: _Loader, node: Node) -> int:
    text = _scalar(node, _INT)
    try:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    except ValueError as error:  # Python limits decimal integers to 4300 digits.
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


def _float(_: _Loader, node: Node) -> float:
    return float(_scalar(node, _FLOAT).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(_tag, _PATTERNS[_tag], _first)
    _Dumper.add_implicit_resolver(_tag, _PATTERNS[_tag], _first)
_Dumper.add_representer(str, _Dumper.represent_str)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])
for _tag, _constructor in ((_NULL, _null), (_BOOL, _bool), (_INT, _int), (_FLOAT, _float)):
    _Loader.add_constructor(_tag, _constructor)
