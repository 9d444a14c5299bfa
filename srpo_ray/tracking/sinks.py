"""Receivers beside MLflow that a config asks for, and the checks of what they need."""

import netrc
import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from srpo_ray.config import RunConfig
from srpo_ray.config.tracking import TrackingConfig
from srpo_ray.tracking.record import read_record
from srpo_ray.tracking.sink import Sink
from srpo_ray.tracking.tensorboard_sink import TensorBoardSink
from srpo_ray.tracking.wandb_sink import WandbRun, WandbSink

_WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com", "forge.coreweave.com")
"""Hosts of W&B's own server, under which `wandb login` stores a key."""


def open_sinks(config: RunConfig, record: Path) -> list[Sink]:
    """Create the receivers beside MLflow. They connect at the first delivery.

    Args:
        config: The run.
        record: File that `start_run` wrote, in the folder of the run.
    """
    tracking, folder = config.tracking, record.parent
    sinks: list[Sink] = []
    if tracking.wandb:
        known = read_record(record)
        run = WandbRun(known["run_id"], config.name, known.get("group"), config.model_dump(mode="json"))
        sinks.append(WandbSink(tracking.wandb, run, folder, system_metrics=tracking.system_metrics))
    if tracking.tensorboard:
        sinks.append(TensorBoardSink(folder / "tensorboard"))
    return sinks


def check_sinks(config: TrackingConfig) -> None:
    """Check that this machine has what the receivers need.

    Raises:
        ValueError: If a package or an API key is missing.
    """
    if not config.wandb:
        return
    if find_spec("wandb") is None:
        raise ValueError(
            "expected the package wandb with tracking.wandb, got none; install it with `pip install wandb`, or remove"
            " tracking.wandb"
        )
    if config.wandb.mode == "online" and not _has_key():
        raise ValueError(
            "expected an API key for tracking.wandb.mode=online, got no WANDB_API_KEY and no entry for"
            f" {_hosts()[0]} in the netrc file; set WANDB_API_KEY, run `wandb login`, or choose the mode offline"
        )


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    given = os.environ.get("NETRC")
    files = [Path(given)] if given else [Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()]
    try:
        return any(netrc.netrc(file).authenticators(host) for file in files if file.exists() for host in _hosts())
    except (netrc.NetrcParseError, OSError):
        return False


def _hosts() -> tuple[str, ...]:
    given = os.environ.get("WANDB_BASE_URL")
    return (urlsplit(given).netloc,) if given else _WANDB_HOSTS
