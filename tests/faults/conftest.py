"""A Ray of several nodes on this machine, whose processes and nodes tests take away."""

import os
import uuid
from collections.abc import Iterator

import pytest

from tests.faults.nodes import Nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two trainer nodes, and a head with the reward pool and the driver."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Nodes(mark=uuid.uuid4().hex)
    try:
        cluster.fill()
        yield cluster
    finally:
        cluster.close()
