"""Fixtures that tests of several folders use."""

from tests.helpers.cluster.fixtures import head as head
from tests.helpers.cluster.fixtures import token as token
