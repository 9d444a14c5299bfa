"""Rules by which two images of a prompt are chosen as a pair."""

from collections.abc import Mapping
from typing import Literal

Selection = Literal["best_worst", "vote", "dominance"]
"""`best_worst`, `vote` or `dominance`, see `algorithms/pair_choice.py`."""


def check_vote(selection: Selection, gaps: Mapping[str, float | None], key: str = "select") -> None:
    """Check that votes, which have no common scale, are used without the differences of sums of rewards.

    Args:
        selection: Rule of the choice.
        gaps: Name of an option on these differences -> its value; 0 and None leave it out.
        key: Name of the option of the rule, for messages.

    Raises:
        ValueError: If `vote` has such an option.
    """
    given = {name: value for name, value in gaps.items() if value}
    if selection == "vote" and given:
        name, value = next(iter(given.items()))
        raise ValueError(
            f"expected no {name} with {key}=vote, got {value:g}; votes have no common scale, so remove {name}, or set"
            f" {key} to best_worst or dominance"
        )
