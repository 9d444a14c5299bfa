"""What an algorithm needs of the other sections."""

from typing import ClassVar, Literal

import pytest
from pydantic import create_model

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.algorithms.base import AlgorithmSection, Calls, Needs
from tests.conftest import SMALL_WORLD


class AveragedConfig(AlgorithmSection):
    """An algorithm that samples from the moving average."""

    code: ClassVar[str] = "nowhere:None"
    needs: ClassVar[Needs] = Needs(roles=frozenset({"ema"}))
    type: Literal["averaged"] = "averaged"

    def calls(self, num_steps: int) -> Calls:
        """A rollout."""
        return Calls(float(num_steps))


def test_algorithm_that_samples_from_the_average_is_refused_without_one() -> None:
    kind = create_model("Averaged", __base__=RunConfig, algorithm=(AveragedConfig, AveragedConfig()))
    values = load_run([SMALL_WORLD]).model_dump(exclude={"algorithm"})
    with pytest.raises(
        ValueError, match=r"expected training.ema with algorithm.type=averaged.* set training.ema to {}"
    ):
        kind.model_validate(values)
    kind.model_validate({**values, "training": {**values["training"], "ema": {}}})
