"""Rules by which two images of a prompt are chosen as a pair."""

from typing import Literal

Selection = Literal["best_worst", "vote", "dominance"]
"""`best_worst`, `vote` or `dominance`, see `algorithms/pair_choice.py`."""
