"""Values that a searcher draws for the trials of an arm. The process of a trial imports this, so torch is not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srpo_ray.config.conditions import searched_values_of
from srpo_ray.config.search import SearchDimension
from srpo_ray.search.space import decode


@dataclass(frozen=True)
class Draws:
    """Values that a searcher draws for the trials of an arm, and the changes to the base config that they make."""

    space: Mapping[str, SearchDimension]
    fixed: Mapping[str, Any]
    """Changes of all trials."""
    last: Mapping[str, Any]
    """Those of them that no drawn value replaces."""

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the searched paths by the parameters of a Ray Tune trial."""
        return searched_values_of(self.space, decode(params))

    def changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All changes of the trial with these values."""
        return {**self.fixed, **values, **self.last}
