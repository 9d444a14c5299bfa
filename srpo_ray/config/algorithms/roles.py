"""Roles of weights."""

from typing import Literal

Role = Literal["policy", "reference", "old", "ema", "contrast", "start"]
"""Weights that a phase uses: the trained ones (`policy`), the initial ones (`reference`), an older copy (`old`), or the
exponential moving average (`ema`). Evaluations alone use those of `evaluation.contrast_with` (`contrast`), and those
before the first update (`start`)."""
