import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import services, worker

from srpo_ray.config import load_run
from srpo_ray.launch import network
from srpo_ray.launch.local_ray import on_loopback
from srpo_ray.launch.network import choose_interface
from srpo_ray.training.worker import train_worker
from srpo_ray.training.worker_arguments import WorkerArguments
from tests.conftest import SMALL_WORLD


def interface_of(name: str, *addresses: str) -> dict[str, list[object]]:
    return {name: [SimpleNamespace(address=address) for address in addresses]}


def test_gloo_takes_the_interface_that_has_rays_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    interfaces = interface_of("lo", "127.0.0.1") | interface_of("ens5", "fe80::1", "10.0.0.7") | interface_of("docker0")
    monkeypatch.setattr(network.psutil, "net_if_addrs", lambda: interfaces)
    # Set and deleted, so that what is chosen is taken back after the test.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ens5"


def test_interface_that_a_person_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_address_of_no_interface_leaves_the_choice_to_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "203.0.113.9")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_loopback_is_for_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_global_node", None)
    outside = services.get_node_ip_address()
    with on_loopback():
        assert services.get_node_ip_address() == "127.0.0.1"
    assert services.get_node_ip_address() == outside


def test_host_that_does_not_see_the_runs_folder_is_named(tmp_path: Path) -> None:
    config = load_run([SMALL_WORLD], [f"run_root={tmp_path}"])
    arguments = WorkerArguments(config, str(tmp_path / "run"), None, "sqlite:///unused.db", "unused")
    with pytest.raises(ValueError, match=f"run_root: expected a folder that every node sees.*{socket.gethostname()}"):
        train_worker({"arguments": arguments})
    assert not list(tmp_path.iterdir())
