"""Weights & Biases (W&B) as a receiver: one W&B run for each run, continued by later processes.

wandb's helper process stores and uploads the records. It dies with the process that logs, and loses what it has not
stored. So records are acknowledged only after `finish`, and a process that was killed leaves all of its records to the
next one. The records are numbered, and the number is W&B's step: W&B ignores a number that it has already.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from srpo_ray.config.tracking import WandbConfig
from srpo_ray.credentials import redact
from srpo_ray.files import read_json, write_text
from srpo_ray.imports import by_one_thread
from srpo_ray.tracking.sink import DeliveryError
from srpo_ray.tracking.spool import Record, Spool
from srpo_ray.tracking.system_metrics import PREFIX

_RECORDS_PER_READ = 200
_UPDATE = "update"
_TEXTS = "texts"
_CONNECT_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 20.0
_EXIT_CODES = {"FINISHED": 0, "KILLED": 0, "FAILED": 1}


@dataclass(frozen=True)
class WandbRun:
    """Identity of a W&B run and what it shows of its run."""

    id: str
    """Id that later processes of the run use too."""
    name: str
    group: str | None
    """Name of the experiment that the run is a part of."""
    config: Mapping[str, Any]
    """Nested values; W&B shows them under dotted keys."""


class WandbSink:
    """Sends metrics, images and texts to W&B, or stores them for `wandb sync`.

    Args:
        settings: Section `tracking.wandb`.
        run: The W&B run.
        folder: Folder of the run; wandb writes below it.
        system_metrics: True lets W&B sample the machine. Samples of the tracker are not sent, as W&B has a place for
            its own ones only.
    """

    name = "wandb"

    def __init__(self, settings: WandbConfig, run: WandbRun, folder: Path, *, system_metrics: bool) -> None:
        self.title = f"W&B ({settings.mode}, project {settings.project})"
        self._settings = settings
        self._identity = run
        self._folder = folder
        self._system_metrics = system_metrics
        self._state = folder / "wandb" / "sent.json"
        self._run: Any = None
        self._records = 0
        """Records sent so far, in all processes of the run."""
        self._sent: int | None = None
        """Offset of the spool up to which records were sent but not yet acknowledged."""

    def deliver(self, spool: Spool) -> int:
        """See `Sink.deliver`. The status of the run, its last record, makes W&B store everything."""
        count, status = 0, None
        with self._failing_as_a_whole():
            while entries := spool.read(_RECORDS_PER_READ, self.name, self._sent):
                self._open()
                for record, offset in entries:
                    self._send(record)
                    self._records += 1
                    self._sent = offset
                    status = record.get("status", status)
                count += len(entries)
        if status:
            self._finish(spool, _EXIT_CODES[status])
        return count

    def release(self, spool: Spool) -> None:
        """See `Sink.release`. W&B shows the run as failed until a later process continues it or sends its status."""
        self._finish(spool, _EXIT_CODES["FAILED"])

    def _finish(self, spool: Spool, exit_code: int) -> None:
        """Let wandb store everything that was sent, and acknowledge it."""
        if self._run is None:
            return
        with self._failing_as_a_whole():
            place = Path(self._run.dir).parent
            before = _stored_bytes(place)
            self._run.finish(exit_code=exit_code)
            if self._settings.mode == "offline":
                _wait_for_last_bytes(place, before)
            # First of all: a record that is sent again gets the number that it had, and so is no second one.
            state = {"records": self._records, "folders": [*_read_state(self._state)["folders"], place.name]}
            write_text(self._state, json.dumps(state) + "\n")
            if self._sent is not None:
                spool.acknowledge(self._sent, self.name)
        self._run, self._sent = None, None

    @contextmanager
    def _failing_as_a_whole(self) -> Iterator[None]:
        """Turn errors of wandb into a `DeliveryError`, after which all unacknowledged records are sent again."""
        try:
            yield
        # wandb's errors have no common base class, and none of them may end the delivery.
        except Exception as error:
            self._run, self._sent = None, None
            raise DeliveryError(redact(error)) from error

    def _open(self) -> None:
        """Open the W&B run, or continue it."""
        if self._run:
            return
        wandb = _import()
        state = _read_state(self._state)
        self._records = state["records"]
        if self._settings.mode == "offline":
            # A process that was killed has left it. All of its records are sent again.
            for place in (self._folder / "wandb").glob("offline-run-*"):
                if place.name not in state["folders"]:
                    shutil.rmtree(place, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        run = self._identity
        self._run = wandb.init(
            id=run.id,
            resume="allow",
            mode=self._settings.mode,
            project=self._settings.project,
            entity=self._settings.entity,
            name=run.name,
            group=run.group,
            config=dict(run.config),
            tags=self._settings.tags,
            notes=self._settings.notes,
            dir=str(self._folder),
            # Trials of a sweep share a process.
            reinit="create_new",
            settings=_settings(wandb, stats=self._system_metrics),
        )
        # Metrics of one update come in several records, and a test of earlier weights after later updates.
        self._run.define_metric("*", step_metric=_UPDATE)

    def _send(self, record: Record) -> None:
        row: dict[str, Any] = {}
        match record:
            case {"to": receiver} if receiver != self.name:
                return
            case {"kind": "metrics", "values": values}:
                row = {name: value for name, value in values.items() if not name.startswith(PREFIX)}
            case {"kind": "image", "path": path, "artifact_path": folder} if Path(path).exists():
                row = {f"{folder}/{Path(path).stem}": _import().Image(path)}
            case {"kind": "text", "text": text, "artifact_file": name}:
                # Not beside wandb's own `config.yaml`.
                file = write_text(Path(self._run.dir) / _TEXTS / PurePosixPath(name).name, text)
                self._run.save(str(file), base_path=self._run.dir, policy="now")
            case _:
                return
        if row:
            self._run.log({**row, _UPDATE: record.get("step", 0)}, step=self._records, commit=True)


def _wait_for_last_bytes(place: Path, before: int) -> None:
    """Wait until wandb's helper has written the end of an offline run, which it may do just after `finish`.

    Args:
        place: Folder of the offline run.
        before: Size of its file before `finish`.

    Raises:
        TimeoutError: If the helper writes nothing.
    """
    deadline = time.monotonic() + _FINISH_TIMEOUT_S
    while _stored_bytes(place) <= before:
        if time.monotonic() > deadline:
            raise TimeoutError(f"wandb did not store the end of the run in {place}")
        time.sleep(0.01)


def _stored_bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.glob("*.wandb"))


def _settings(wandb: Any, *, stats: bool) -> Any:
    """Settings of a W&B run that send no more than the records: no console, code, git state or packages."""
    chosen: dict[str, Any] = {
        "console": "off",
        "silent": True,
        "disable_git": True,
        "disable_code": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        "x_disable_stats": not stats,
        "init_timeout": _CONNECT_TIMEOUT_S,
        "finish_timeout": _FINISH_TIMEOUT_S,
        "finish_timeout_raises": True,
    }
    if os.environ.get("WANDB_BASE_URL"):
        # wandb reads its environment once for each process.
        chosen["base_url"] = os.environ["WANDB_BASE_URL"]
    # Earlier versions lack some of them.
    return wandb.Settings(**{name: value for name, value in chosen.items() if name in wandb.Settings.model_fields})


def _read_state(path: Path) -> dict[str, Any]:
    """Read the number of stored records, and the names of W&B's folders that are complete."""
    return read_json(path) if path.exists() else {"records": 0, "folders": []}


def _import() -> Any:
    # Reports of wandb's errors to its makers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with by_one_thread():
        import wandb  # pyright: ignore[reportMissingImports]

    return wandb
