"""Check of the first gains: the limit of each row's log-odds, the reported gain, rounding, and NaN."""

from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.preference_checks import check_first_gains
from srpo_ray.algorithms.preference_rows import slopes_of
from srpo_ray.algorithms.preference_sources import Judged
from srpo_ray.config.algorithms.preference import PreferenceConfig

BETA, FACTOR = 50.0, 10.0
CONFIDENCE = [1.0, 0.5, 0.01]
SIZE = torch.full((3,), 1e-3)
"""Errors so small that rounding explains no gain of these tests but 0."""


def slopes_of_rows(options: dict[str, Any]) -> Tensor:
    confidence = torch.tensor(CONFIDENCE)
    judged = Judged((), (), (torch.ones(3), -torch.ones(3)), confidence)
    return slopes_of(PreferenceConfig(beta=BETA, **options), judged)


@pytest.mark.parametrize(
    ("options", "slopes"),
    [
        ({}, [BETA / 2] * 3),
        ({"confidence_slope": FACTOR}, [FACTOR * each * BETA / 2 for each in CONFIDENCE]),
        ({"loss": "ipo"}, [BETA / 2] * 3),
        ({"loss": "kto", "source": "labels"}, [BETA] * 3),
    ],
    ids=["dpo", "dpo with the confidence of rows", "ipo", "kto"],
)
@pytest.mark.parametrize("row", range(3))
def test_gain_is_refused_just_above_0_005_of_log_odds_of_its_row(
    options: dict[str, Any], slopes: list[float], row: int
) -> None:
    gain = 0.995 * 0.005 / torch.tensor(slopes)
    check_first_gains([gain, -gain], [SIZE, SIZE], slopes_of_rows(options))
    gain[row] *= 1.01
    for gains in ([gain, torch.zeros(3)], [torch.zeros(3), -gain]):
        with pytest.raises(ValueError, match="equals the policy before the first update"):
            check_first_gains(gains, [SIZE, SIZE], slopes_of_rows(options))


def test_gain_up_to_a_thousandth_of_the_error_is_rounding() -> None:
    gain, slope = torch.tensor([0.5]), torch.tensor([50.0])
    check_first_gains([gain], [gain / 0.99e-3], slope)
    with pytest.raises(ValueError, match=r"differ by up to 0\.5;"):
        check_first_gains([gain], [gain / 1.01e-3], slope)


def test_message_has_the_largest_gain_of_the_refused_rows() -> None:
    gain, slopes = torch.tensor([3.0, 0.02]), torch.tensor([1e-6, 50.0])
    with pytest.raises(ValueError, match=r"differ by up to 0\.02;"):
        check_first_gains([gain], [torch.ones(2)], slopes)


@pytest.mark.parametrize("slope", [1e-6, 50.0])
def test_gain_that_is_not_a_number_is_refused(slope: float) -> None:
    with pytest.raises(ValueError, match="got nan or infinity"):
        check_first_gains([torch.tensor([0.0, nan])], [torch.tensor([1.0, nan])], torch.full((2,), slope))
