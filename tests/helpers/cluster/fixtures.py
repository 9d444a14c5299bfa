"""One Ray head with a dashboard for the tests of jobs, and a metadata service for each test that asks for one."""

from collections.abc import Iterator

import pytest

from tests.helpers.cluster.head import Head, running_head
from tests.helpers.cluster.metadata_server import MetadataServer


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as head:
        yield head


@pytest.fixture
def token(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has the head's token, as a laptop has that of its cluster."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    served = MetadataServer()
    yield served
    served.close()
