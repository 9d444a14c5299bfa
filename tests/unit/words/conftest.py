"""The small world's preference reward, probed once per test run."""

import pytest

from srpo_ray.config import load_run
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.words.images import ProbeImages, rendered
from srpo_ray.words.probe import WordProbe, read_scores, score_words
from tests.conftest import SMALL_WORLD

WORDS = ["cyberpunk", "dark", "flat", "vivid", "detailed", "bright", "muted", "textured"]
PROMPTS = ["a vivid sky", "Vivid colours, flat design", "a flatiron", "nothing"]


@pytest.fixture(scope="session")
def images() -> ProbeImages:
    return rendered(192, seed=7)


@pytest.fixture(scope="session")
def scorer() -> LocalRewards:
    return LocalRewards.load(load_run([SMALL_WORLD]).rewards.models)


@pytest.fixture(scope="session")
def small_world_study(images: ProbeImages, scorer: LocalRewards) -> WordProbe:
    plain, differences = score_words(scorer, "preference", images, WORDS)
    return read_scores("preference", WORDS, plain, differences, images, PROMPTS)
