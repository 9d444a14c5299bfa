"""Fixtures that tests of several folders use."""

from tests.helpers.rewards.fixtures import clip_configs as clip_configs
