"""What a Ray that the program starts itself lets in."""

import ipaddress
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.ray
def test_every_port_of_a_local_ray_is_on_loopback() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.training.listening"]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True)
    listening = json.loads(found.stdout)
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert not [(name, ip) for name, ip in listening if not _is_loopback(ip)]


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
