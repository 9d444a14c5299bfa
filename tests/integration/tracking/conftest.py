"""Fixtures that tests of several folders use."""

from tests.helpers.tracking.fixtures import client as client
from tests.helpers.tracking.fixtures import server as server
from tests.helpers.tracking.fixtures import until as until
from tests.helpers.tracking.fixtures import uri as uri
