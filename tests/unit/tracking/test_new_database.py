"""New sqlite database: the tables of MLflow's own, complete or absent, and without a wait for the disk in between."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.tracking.client import connect, create_database, delivery_errors, import_client
from srpo_ray.tracking.new_database import create_sqlite_database


def content(file: Path) -> dict[str, Any]:
    """Tables and indices of a database, and the rows with which MLflow begins."""
    with sqlite3.connect(file) as connection:
        statements = connection.execute("SELECT name, COALESCE(sql, '') FROM sqlite_master").fetchall()
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        rows = {name: connection.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()[0] for name in sorted(names)}
        experiments = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
        version = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    # The order of a table's constraints varies from creation to creation.
    schema = {name: sorted(line.strip(" ,\t") for line in sql.splitlines()) for name, sql in statements}
    return {"schema": schema, "rows": rows, "experiments": experiments, "version": version}


def test_database_is_the_one_that_mlflow_creates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = tmp_path / "100% ours?.db", tmp_path / "theirs.db"
    import_client(f"sqlite:///{theirs}")
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{theirs}")
    create_sqlite_database(ours)
    assert content(ours) == content(theirs)
    assert content(ours)["rows"]["experiments"] == 1
    assert sorted(file.name for file in tmp_path.glob("*ours*")) == [ours.name]


def test_only_the_creation_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/runs.db"
    import_client(uri)
    import sqlalchemy
    from mlflow.store.tracking import sqlalchemy_store

    def settings(of: str) -> list[Any]:
        with sqlalchemy.create_engine(of).connect() as connection:
            names = ("synchronous", "journal_mode")
            return [connection.execute(sqlalchemy.text(f"PRAGMA {name}")).scalar() for name in names]

    during: list[list[Any]] = []

    class Recorded(sqlalchemy_store.SqlAlchemyStore):
        def __init__(self, of: str, artifacts: str) -> None:
            during.append(settings(of))
            super().__init__(of, artifacts)

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", Recorded)
    create_sqlite_database(tmp_path / "runs.db")
    assert during == [[0, "memory"]]
    assert settings(uri) == [2, "delete"]


def test_killed_creation_leaves_no_database_and_the_next_one_succeeds(tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    code = f"from srpo_ray.tracking.client import create_database; create_database('sqlite:///{file}')"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not any(each.stat().st_size for each in tmp_path.glob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not file.exists()
    create_database(f"sqlite:///{file}")
    assert content(file)["rows"]["experiments"] == 1
    assert not list(tmp_path.glob("*.incomplete"))


def test_database_that_a_server_creates_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "runs.db"
    import_client(f"sqlite:///{file}")
    from mlflow.store.tracking import sqlalchemy_store

    class Slow(sqlalchemy_store.SqlAlchemyStore):
        def __init__(self, of: str, artifacts: str) -> None:
            super().__init__(of, artifacts)
            file.write_bytes(b"of another program")

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", Slow)
    create_sqlite_database(file)
    assert file.read_bytes() == b"of another program"
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_known_database_keeps_its_runs(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/runs.db"
    known = connect(uri).create_experiment("known")
    create_database(uri)
    found = connect(uri).get_experiment_by_name("known")
    assert found is not None
    assert found.experiment_id == known


def test_creation_that_fails_leaves_nothing_and_the_connection_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/runs.db"
    import_client(uri)
    from mlflow.store.tracking import sqlalchemy_store

    def full(of: str, _artifacts: str) -> None:
        Path(of.removeprefix("sqlite:///")).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", full)
    create_database(uri)
    assert [file.name for file in tmp_path.iterdir()] == ["runs.db.lock"]
    with pytest.raises(delivery_errors(), match="No space left"):
        connect(uri)
