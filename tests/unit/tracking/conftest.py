"""Fixtures that tests of several folders use."""

from tests.helpers.tracking.fixtures import client as client
from tests.helpers.tracking.fixtures import uri as uri
