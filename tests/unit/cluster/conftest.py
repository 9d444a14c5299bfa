"""Fixtures that tests of several folders use."""

from tests.helpers.cluster.fixtures import server as server
