"""How mlflow is imported and reached: no telemetry, short timeouts, which errors are worth a retry."""

import fcntl
import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from srpo_ray.config.tracking import SQLITE
from srpo_ray.credentials import expand_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # It prints the whole URI, credentials too.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own defaults block a call for minutes when the server is gone; the tracker retries by itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}

KEY_LENGTH = 250
"""Most bytes of the name of a metric or parameter: MLflow takes 250 characters, and may keep it as a file name."""

_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def connect(uri: str) -> "MlflowClient":
    """A client of the tracking server or database at `uri`. Takes seconds on first use, which imports mlflow.

    Args:
        uri: Tracking URI; `${NAME}` in it stands for a variable of the environment.

    Raises:
        MlflowException, OSError, sqlalchemy.exc.SQLAlchemyError: See `delivery_errors`.
        ValueError: If a variable is not set.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    with _one_process_at_a_time(sqlite_file(uri)):
        return MlflowClient(expand_uri(uri))


def sqlite_file(uri: str) -> Path | None:
    """The database file of a sqlite URI, None for any other URI."""
    known = expand_uri(uri)
    path = unquote(known.removeprefix(SQLITE).partition("?")[0])
    return Path(path).resolve() if known.startswith(SQLITE) else None


@contextmanager
def _one_process_at_a_time(database: Path | None) -> Iterator[None]:
    # A client makes the tables of a new database, and fails when another process makes them at the same time.
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def delivery_errors() -> tuple[type[Exception], ...]:
    """What a call of a client may raise: errors of MLflow, of the database, of the network or the disk."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError)


def is_refused(error: Exception) -> bool:
    """Whether the store understood the call and said no, so that sending it again cannot help."""
    return getattr(error, "error_code", None) in _REFUSED


def allowed_name(name: str) -> str:
    """The key under which MLflow keeps a metric or parameter.

    Args:
        name: Any text.

    Returns:
        The name itself where MLflow takes it. Otherwise the name with `_` for what MLflow does not take, cut, and with
        a hash of the whole name at its end, so that different names have different keys in every process.
    """
    key = re.sub(r"[^\w\-. /]", "_", name)
    path = posixpath.normpath(key)
    if path != key or path.startswith(("..", "/")) or path == ".":
        # MLflow may keep a key as a file.
        key = re.sub(r"^\.+|/", "_", key) or "_"
    if key == name and len(name.encode()) <= KEY_LENGTH:
        return name
    end = "-" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return key.encode()[: KEY_LENGTH - len(end)].decode(errors="ignore") + end
