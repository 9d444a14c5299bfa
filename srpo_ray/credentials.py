"""Detection, redaction and substitution of credentials, which configs must not contain.

A config is printed, logged and stored with each run. It names an environment variable instead, `${NAME}`, which is
looked up on the machine that uses it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_PARAMETER = r"[?&;](?:[\w.-]*(?:token|passw(?:or)?d|secret|signature|credential|api_?key|access_?key)|sig)="
# A port may follow a host, and is not a password; `Path` reduces two slashes to one.
_PASSWORD = r"[A-Za-z][\w+.-]*:/{1,2}[^\s/@:'\"]*:(?!\d+(?:/|$))"
_IN_TEXT = (
    re.compile(rf"({_PASSWORD})[^\s'\"]+(@)"),
    re.compile(r"(https?:/{1,2})[^\s/@:'\"]+(@)", re.IGNORECASE),
    re.compile(rf"({_SECRET_PARAMETER})[^\s&;#'\"]+()", re.IGNORECASE),
)
_IN_CONFIG = (
    re.compile(rf"{_PASSWORD}[^\s@]+@"),
    re.compile(r"https?:/{1,2}[^\s/@:]+@", re.IGNORECASE),
    re.compile(rf"{_SECRET_PARAMETER}[^\s&;#]+", re.IGNORECASE),
)
_SECRET_KEY = re.compile(
    r"(?:^|[._-])(?:secret|passw(?:or)?d|credentials?|api_?key|access_?key|(?:auth|access|api|hf|bearer)_?token)$"
    r"|^token$",
    re.IGNORECASE,
)


def find_credentials(values: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of texts in nested values that contain a credential in plain text.

    A credential is a password or token in a URI, or anything but a reference under a key such as `api_key`.
    """
    if isinstance(values, Mapping | list | tuple):
        entries = values.items() if isinstance(values, Mapping) else enumerate(values)
        for key, value in entries:
            yield from find_credentials(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, str):
        rest = _REFERENCE.sub("", values)
        if (rest and _SECRET_KEY.search(path.rpartition(".")[2])) or any(kind.search(rest) for kind in _IN_CONFIG):
            yield path


def expand(text: str) -> str:
    """Replace each `${NAME}` in a text by the value of that environment variable.

    Raises:
        ValueError: If a variable is not set.
    """
    return _REFERENCE.sub(lambda found: _variable(found[1]), text)


def expand_uri(uri: str) -> str:
    """Replace variables in a URI as `expand` does, with percent-encoding of values that are a part of it.

    Raises:
        ValueError: If a variable is not set.
    """
    if _REFERENCE.fullmatch(uri):
        return expand(uri)
    return _REFERENCE.sub(lambda found: quote(_variable(found[1]), safe=""), uri)


def redact(message: object) -> str:
    """Convert an object to text and replace credentials in URIs by `***`, for errors of libraries that print them."""
    text = str(message)
    for kind in _IN_TEXT:
        text = kind.sub(r"\1***\2", text)
    return text


def _variable(name: str) -> str:
    if name not in os.environ:
        raise ValueError(
            f"expected the environment variable {name}, which the config names as ${{{name}}}, got none on this"
            " machine; set it here, and on the nodes of a cluster before Ray starts there"
        )
    return os.environ[name]
