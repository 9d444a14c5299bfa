"""Creation of a sqlite database for MLflow, which runs hundreds of statements."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NO_SYNC = ("PRAGMA synchronous=OFF", "PRAGMA journal_mode=MEMORY")
"""sqlite waits for the disk after each statement by default, and writes a journal file beside the database."""


def create_sqlite_database(file: Path) -> None:
    """Create a database with MLflow's tables, under another name until it is complete.

    A process that is killed meanwhile leaves no incomplete database. Its statements do not wait for the disk, but the
    complete file does. One process at a time may call, see `srpo_ray.tracking.client`.

    Args:
        file: New file in an existing folder.

    Raises:
        MlflowException, OSError, sqlalchemy.exc.SQLAlchemyError: If it cannot be written.
    """
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import URL

    incomplete = file.with_name(f"{file.name}.incomplete")
    incomplete.unlink(missing_ok=True)
    try:
        with _without_sync():
            uri = URL.create("sqlite", database=str(incomplete)).render_as_string()
            SqlAlchemyStore(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
        with incomplete.open("rb") as written:
            os.fsync(written.fileno())
        # `mlflow server` may have created it meanwhile: it knows nothing of the lock.
        if not file.exists():
            incomplete.replace(file)
    finally:
        incomplete.unlink(missing_ok=True)


@contextmanager
def _without_sync() -> Iterator[None]:
    """Let the connections to sqlite that this process opens in the block not wait for the disk."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def set_up(connection: Any, _record: object) -> None:
        for statement in _NO_SYNC:
            connection.execute(statement)

    event.listen(Engine, "connect", set_up)
    try:
        yield
    finally:
        event.remove(Engine, "connect", set_up)
