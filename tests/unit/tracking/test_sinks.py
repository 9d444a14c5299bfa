"""Receivers of one spool: their order, their failures, TensorBoard's files, and what a config needs."""

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.config.tracking import TrackingConfig
from srpo_ray.tracking import sinks
from srpo_ray.tracking.sink import DeliveryError, DeliveryThread, deliver_once
from srpo_ray.tracking.sinks import check_sinks, open_sinks
from srpo_ray.tracking.spool import MLFLOW, Spool
from srpo_ray.tracking.tensorboard_sink import TensorBoardSink
from srpo_ray.tracking.wandb_sink import WandbSink
from tests.conftest import SMALL_WORLD
from tests.helpers.tracking.stored_files import tensorboard_events, tensorboard_scalars


class NotedSink:
    """Receiver that notes the steps it gets, and fails as long as `away`."""

    def __init__(self, name: str, away: bool = False) -> None:
        self.name = self.title = name
        self.away = away
        self.steps: list[int] = []
        self.released = 0

    def deliver(self, spool: Spool) -> int:
        if self.away:
            raise DeliveryError("no answer")
        entries = spool.read(100, self.name)
        self.steps += [record["step"] for record, _ in entries]
        if entries:
            spool.acknowledge(entries[-1][1], self.name)
        return len(entries)

    def release(self, spool: Spool) -> None:
        self.released += 1


def metrics(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "metrics", "values": values, "step": step, "time_ms": 1000 * step}


def spool_for(folder: Path, *names: str, steps: int = 3) -> Spool:
    spool = Spool(folder / "s.jsonl", names)
    for step in range(steps):
        spool.append(metrics(step, loss=step / 2))
    return spool


def test_unreachable_sink_blocks_no_other_and_gets_its_records_later(tmp_path: Path) -> None:
    spool = spool_for(tmp_path, "a", "b")
    away, near = NotedSink("a", away=True), NotedSink("b")
    with pytest.raises(DeliveryError, match="a: no answer"):
        deliver_once([away, near], spool)
    assert near.steps == [0, 1, 2]
    spool.close()
    assert spool.path.exists()
    again = Spool(spool.path, ["a", "b"])
    away.away = False
    assert deliver_once([away, near], again) == 3
    again.close()
    assert (away.steps, near.steps) == ([0, 1, 2], [0, 1, 2])
    assert list(tmp_path.iterdir()) == []


def test_records_are_kept_for_a_receiver_that_is_not_connected(tmp_path: Path) -> None:
    spool = spool_for(tmp_path, "a", "b")
    deliver_once([NotedSink("a")], spool)
    spool.close()
    assert [record["step"] for record, _ in Spool(spool.path, ["b"]).read(9, "b")] == [0, 1, 2]


def test_failing_sink_warns_once_and_is_released_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = NotedSink("a", away=True)
    thread = DeliveryThread(away, spool_for(tmp_path, "a"), 0.01)
    thread.stop(0.2)
    assert thread.join(30)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Training continues" in caplog.text
    assert away.released == 1


def test_tensorboard_gets_scalars_images_and_texts(tmp_path: Path) -> None:
    spool = spool_for(tmp_path, "tensorboard")
    picture = tmp_path / "before_after.png"
    Image.new("RGB", (6, 4), "red").save(picture)
    spool.append({"kind": "image", "path": str(picture), "artifact_path": "images", "step": 2, "time_ms": 2000})
    spool.append({"kind": "image", "path": str(tmp_path / "none.png"), "artifact_path": "images", "step": 2})
    spool.append({"kind": "text", "text": "seed: 1\n", "artifact_file": "config.yaml", "step": 2})
    spool.append({"kind": "text", "text": "for MLflow", "artifact_file": "x.txt", "to": MLFLOW})
    sink = TensorBoardSink(tmp_path / "events")
    assert sink.deliver(spool) == 7
    sink.release(spool)
    assert tensorboard_scalars(tmp_path / "events") == {"loss": [(0, 0.0), (1, 0.5), (2, 1.0)]}
    events = tensorboard_events(tmp_path / "events")
    found = {value.tag: value for event in events for value in event.summary.value}
    assert set(found) == {"loss", "images/before_after", "config.yaml/text_summary"}
    assert found["images/before_after"].image.encoded_image_string == picture.read_bytes()
    assert (found["images/before_after"].image.width, found["images/before_after"].image.height) == (6, 4)
    assert found["config.yaml/text_summary"].tensor.string_val == [b"    seed: 1\n"]
    assert [event.wall_time for event in events if event.step == 1] == [1.0]


def test_repeated_delivery_leaves_no_second_point_in_tensorboard(tmp_path: Path) -> None:
    spool = spool_for(tmp_path, "tensorboard")
    for _ in range(2):
        sink = TensorBoardSink(tmp_path / "events")
        sink.deliver(spool)
        sink.release(spool)
        # As if the process had died between the writing and the acknowledgement.
        spool.acknowledge(0, "tensorboard")
    assert tensorboard_scalars(tmp_path / "events") == {"loss": [(0, 0.0), (1, 0.5), (2, 1.0)]}
    # A crash while the last point is written damages it alone.
    (cut,) = (tmp_path / "events").glob("*.0")
    cut.write_bytes(cut.read_bytes()[:-3])
    last = TensorBoardSink(tmp_path / "events")
    last.deliver(spool)
    last.release(spool)
    assert tensorboard_scalars(tmp_path / "events") == {"loss": [(0, 0.0), (1, 0.5), (2, 1.0)]}


def test_config_opens_the_sinks_that_it_names(tmp_path: Path) -> None:
    record = tmp_path / "mlflow_run.json"
    record.write_text('{"run_id": "abc", "uri": "sqlite:///x", "group": "study"}')
    assert open_sinks(load_run([SMALL_WORLD]), record) == []
    both = load_run([SMALL_WORLD], ["tracking.wandb={}", "tracking.tensorboard=true"])
    wandb, tensorboard = open_sinks(both, record)
    assert isinstance(wandb, WandbSink)
    assert isinstance(tensorboard, TensorBoardSink)
    assert wandb._identity.id == "abc"  # pyright: ignore[reportPrivateUsage]
    assert wandb._identity.group == "study"  # pyright: ignore[reportPrivateUsage]


def online() -> TrackingConfig:
    return TrackingConfig.model_validate({"wandb": {"mode": "online"}})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home folder without credentials, on a machine with wandb."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sinks, "find_spec", lambda name: name == "wandb" or None)
    return tmp_path


def test_online_wandb_needs_a_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"WANDB_API_KEY.*api\.wandb\.ai.*wandb login"):
        check_sinks(online())
    (home / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    check_sinks(online())
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    with pytest.raises(ValueError, match=r"wandb\.example"):
        check_sinks(online())
    monkeypatch.setenv("WANDB_API_KEY", "key")
    check_sinks(online())


def test_offline_wandb_needs_the_package_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_sinks(TrackingConfig.model_validate({"wandb": {}}))
    monkeypatch.setattr(sinks, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install wandb"):
        check_sinks(TrackingConfig.model_validate({"wandb": {}}))
    check_sinks(TrackingConfig())


def test_missing_key_ends_the_command_before_anything_starts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = home / "runs"
    assert main(["train", str(SMALL_WORLD), "tracking.wandb={mode: online}", f"run_root={root}"]) == 2
    assert "set WANDB_API_KEY" in capsys.readouterr().err
    assert not root.exists()
