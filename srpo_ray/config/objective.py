"""Metrics of evaluations by which runs and weights are chosen, or which may fall by a limit."""

import difflib
from typing import Annotated

from pydantic import AfterValidator, Field

VOTES = "votes"
"""Objective of an experiment that people decide: the strength of a run in their votes."""
_GROUPS = ("evaluator", "truth", "image")
"""Groups of the metrics of an evaluation that no run is trained to raise."""
_PEOPLE = ("detail", "natural", "light", "vivid", "mean")
TRUTHS = (
    *("detail", "saturation", "brightness", "vignette"),
    *(f"{part}_accuracy" for part in ("color", "shape", "background", "count", "position", "content")),
    *(f"utility/{group}/{name}" for group in ("validation", "test") for name in _PEOPLE),
)
"""Names of the metrics `truth/NAME` of small-world images, see `small_world.truth` and `small_world.tastes`."""


def check_objective(objective: str) -> str:
    """Refuse the training reward as the objective, and names that are no metric of an evaluation.

    Raises:
        ValueError: If the metric is a score of the models that are trained on, or of no known group.
    """
    if objective.strip().partition("/")[0].casefold() == "reward":
        raise ValueError(
            f"expected a score that no run is trained to raise, such as evaluator/held_out, got {objective!r}; the best"
            " by it would be what hacks its reward best"
        )
    group, _, name = objective.partition("/")
    if objective != VOTES and (group not in _GROUPS or not name):
        raise ValueError(
            f"expected a metric {', '.join(f'{each}/NAME' for each in _GROUPS)}, or {VOTES} in an experiment, got"
            f" {objective!r}; choose one, such as evaluator/held_out (docs/evaluation.md)"
        )
    return objective


Objective = Annotated[str, Field(min_length=1), AfterValidator(check_objective)]
"""Metric of an evaluation by which runs or weights are chosen; no score of a model that is trained on."""


def check_truth(key: str, metric: str) -> None:
    """Refuse a metric `truth/NAME` that no evaluation has; other metrics pass.

    Args:
        key: Config key that names it, for the message.
        metric: The metric.

    Raises:
        ValueError: If there is no such truth.
    """
    group, _, name = metric.partition("/")
    if group == "truth" and name not in TRUTHS:
        near = difflib.get_close_matches(name, TRUTHS, n=1)
        meant = f" (did you mean truth/{near[0]}?)" if near else ""
        raise ValueError(
            f"{key}: expected a truth of the small world, {', '.join(TRUTHS)}, got {metric!r}{meant}, which no"
            " evaluation has; choose one"
        )


def check_limited(metric: str) -> None:
    """Refuse names that are no metric of an evaluation; a limit may also be on a trained reward.

    Raises:
        ValueError: If the metric is of no known group.
    """
    groups = (*_GROUPS, "reward")
    group, _, name = metric.partition("/")
    if group not in groups or not name:
        raise ValueError(
            f"max_fall: expected a metric {' or '.join(f'{each}/NAME' for each in groups)}, got {metric!r}, which no"
            " evaluation has, so that every trial would break the limit; choose one (docs/evaluation.md)"
        )
