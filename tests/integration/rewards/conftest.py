"""Fixtures that tests of several folders use."""

from tests.helpers.rewards.fixtures import clip_configs as clip_configs
from tests.helpers.rewards.fixtures import clip_pool as clip_pool
from tests.helpers.rewards.fixtures import pool as pool
from tests.helpers.rewards.fixtures import scripted_config as scripted_config
