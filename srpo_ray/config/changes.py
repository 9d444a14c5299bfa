"""Changes to a run config that an experiment's file gives: dotted paths and their values."""

from typing import Annotated, Any

from pydantic import AfterValidator


def check_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Refuse keys that the experiment sets itself.

    Raises:
        ValueError: If there is one.
    """
    for path in ("name", "run_root", "seed", "start_from"):
        if path in changes:
            raise ValueError(
                f"expected no `{path}` among the changes of one arm, got one; the experiment names the runs and their"
                " folders, and `seeds` gives the seeds"
            )
    return changes


Changes = Annotated[dict[str, Any], AfterValidator(check_changes)]
"""Dotted config paths and their values."""
