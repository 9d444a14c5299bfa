"""Fixtures that tests of several folders use."""

from tests.helpers.inference.fixtures import run_dir as run_dir
from tests.helpers.inference.fixtures import tiny_trained_run as tiny_trained_run
