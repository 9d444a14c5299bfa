"""MLflow client: import without telemetry, short timeouts, and classification of errors for retries."""

import fcntl
import hashlib
import importlib
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from srpo_ray.config.tracking import SQLITE
from srpo_ray.credentials import expand_uri
from srpo_ray.imports import by_one_thread, large_imports, without_collection
from srpo_ray.tracking.new_database import create_sqlite_database

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # It would print the whole URI with credentials.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The creation of a database would interrupt the display of a run.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # MLflow's defaults block a call for minutes when the server is unreachable; the tracker has its own retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Environment variables of MLflow, for a process that imports it; those that a user has set hold."""

KEY_LENGTH = 250
"""Maximum bytes of a metric or parameter name: MLflow accepts 250 characters, and may use them as a file name."""

_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def connect(uri: str) -> "MlflowClient":
    """Connect to the tracking server or database at `uri`. The first call takes seconds, because it imports mlflow.

    Args:
        uri: Tracking URI; `${NAME}` in it is replaced by that environment variable.

    Raises:
        MlflowException, OSError, sqlalchemy.exc.SQLAlchemyError: See `delivery_errors`.
        ValueError: If a variable is not set.
    """
    import_client(uri)
    from mlflow import MlflowClient

    database = sqlite_file(uri)
    with _one_process_at_a_time(database):
        if database and not database.exists():
            create_sqlite_database(database)
        return MlflowClient(expand_uri(uri))


def create_database(uri: str) -> None:
    """Create the tables of a new sqlite database, which takes a second; any other store is left alone.

    An error is not reported: the next connection raises it.
    """
    import_client(uri)
    if sqlite_file(uri):
        # MLflow builds thousands of objects that stay.
        with suppress(*delivery_errors()), without_collection():
            connect(uri)


def import_client(uri: str) -> None:
    """Import MLflow, which takes seconds, with this project's settings, and its code for databases if `uri` is one.

    Args:
        uri: Tracking URI of later calls of `connect`.
    """
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    with by_one_thread(), large_imports():
        from mlflow import MlflowClient  # noqa: F401

        if uri.startswith(SQLITE):
            # A connection would import it while it holds the lock of the database.
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")


def sqlite_file(uri: str) -> Path | None:
    """Return the database file of a sqlite URI; None for any other URI."""
    known = expand_uri(uri)
    path = unquote(known.removeprefix(SQLITE).partition("?")[0])
    return Path(path).resolve() if known.startswith(SQLITE) else None


@contextmanager
def _one_process_at_a_time(database: Path | None) -> Iterator[None]:
    # Two processes must not create the database concurrently.
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def delivery_errors() -> tuple[type[Exception], ...]:
    """Exceptions that a client may raise: errors of MLflow, of the database, of the network or the disk."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError)


def is_refused(error: Exception) -> bool:
    """Test if the store rejected the call as invalid, so that a retry cannot succeed."""
    return getattr(error, "error_code", None) in _REFUSED


def allowed_name(name: str) -> str:
    """Convert a name to a key that MLflow accepts for a metric or parameter.

    Args:
        name: Any text.

    Returns:
        The name itself if MLflow accepts it. Otherwise the name with `_` for invalid characters, truncated, and with a
        hash of the whole name appended, so that different names have different keys in every process.
    """
    key = re.sub(r"[^\w\-. /]", "_", name)
    path = posixpath.normpath(key)
    if path != key or path.startswith(("..", "/")) or path == ".":
        # MLflow may use a key as a file name.
        key = re.sub(r"^\.+|/", "_", key) or "_"
    if key == name and len(name.encode()) <= KEY_LENGTH:
        return name
    end = "-" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return key.encode()[: KEY_LENGTH - len(end)].decode(errors="ignore") + end
