"""A metadata service for each test that asks for one."""

from collections.abc import Iterator

import pytest

from tests.cluster.metadata_server import MetadataServer


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    served = MetadataServer()
    yield served
    served.close()
