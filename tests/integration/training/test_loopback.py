"""A local Ray: it accepts connections from this machine only, and its first workers can be used."""

import ipaddress
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def local_ray() -> dict[str, Any]:
    """Observations of a process that has started a Ray."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.helpers.training.listening"]
    # A folder of its own, else `auto` may be the Ray of other tests; a short one, as sockets lie in it.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        found = subprocess.run(
            command,
            cwd=ROOT,
            env=environment | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return json.loads(found.stdout)


def test_every_port_of_a_local_ray_is_on_loopback(local_ray: dict[str, Any]) -> None:
    assert {"gcs_server", "raylet"} <= {name for name, _ in local_ray["listening"]}
    assert not [(name, ip) for name, ip in local_ray["listening"] if not _is_loopback(ip)]


def test_another_command_joins_a_local_ray_as_auto(local_ray: dict[str, Any]) -> None:
    assert local_ray["joined"] == local_ray["node"]


def test_first_actor_needs_no_new_process_and_has_the_variables_of_the_session(local_ray: dict[str, Any]) -> None:
    assert local_ray["known"]
    assert local_ray["environment"]["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.2"
    assert local_ray["environment"]["TOKENIZERS_PARALLELISM"] == "false"


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
