"""One Ray head with a dashboard for the tests of jobs."""

from collections.abc import Iterator

import pytest

from tests.cluster.head import Head, running_head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with running_head() as head:
        yield head


@pytest.fixture
def token(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has the head's token, as a laptop has that of its cluster."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
