"""Results that reports are made of."""

import pytest
import torch

from srpo_ray.words.images import rendered
from srpo_ray.words.probe import WordProbe, read_scores
from tests.unit.evaluation.conftest import report_path as report_path
from tests.unit.evaluation.conftest import sweep as sweep
from tests.unit.evaluation.test_comparison import report as report

AXES_OF_WORDS = {
    "flat": ("truth/detail", -1.0, 0.3),
    "detailed": ("truth/detail", 1.0, 0.5),
    "vivid": ("truth/saturation", 0.8, 0.4),
    "muted": ("truth/saturation", -0.7, 0.4),
    "[red]=cyberpunk": ("truth/brightness", 0.05, 1.0),
}
"""Word -> the attribute that its difference follows, by how much, and its noise."""
PROMPTS = ["a vivid sky", "Vivid colours, flat design", "a flatiron", "nothing"]


@pytest.fixture(scope="session")
def word_study() -> WordProbe:
    """A probe of a reward whose words follow known attributes; one word follows nothing."""
    images = rendered(48, seed=7)
    source = torch.Generator().manual_seed(0)
    rows = []
    for axis, strength, noise in AXES_OF_WORDS.values():
        values = images.attributes[axis]
        rows.append(strength * (values - values.mean()) / values.std() + noise * torch.randn(48, generator=source))
    plain = torch.randn(48, generator=source)
    return read_scores("preference", list(AXES_OF_WORDS), plain, torch.stack(rows), images, PROMPTS)
