"""Advantages within groups, and tables of an update that several workers have parts of."""

from dataclasses import replace

import torch

from srpo_ray.algorithms.advantages import group_advantages, rows_of, table_of_update
from tests.helpers.algorithms.stand_ins import make_batch


def test_advantages_are_deviations_within_the_group_clamped() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [7.0, 7.0, 7.0]], dtype=torch.float64)
    found = group_advantages(rewards, 5.0)
    expected = torch.tensor([[-1.0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    one_outlier = torch.tensor([[0.0] * 99 + [1.0]], dtype=torch.float64)
    assert group_advantages(one_outlier, 5.0)[0, -1].item() == 5.0


def test_table_has_each_image_once_in_the_order_of_the_samples_whoever_has_it() -> None:
    mine = [make_batch(samples=[2, 0], children=[1]), make_batch(samples=[1], children=[0, 1])]
    values = [torch.tensor([21.0, 1.0]), torch.tensor([10.0, 11.0])]
    others = {(0, 0): 0.0, (2, 0): 20.0, (2, 1): 21.0}
    table = table_of_update(mine, values, lambda value: [others, value])
    assert table.tolist() == [[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]]
    assert table.dtype == torch.float64
    assert [rows_of(table, batch).tolist() for batch in mine] == [value.tolist() for value in values]


def test_batch_with_one_image_per_sample_is_a_table_of_one_column() -> None:
    batch = make_batch(2)
    plain = replace(batch, draws=replace(batch.draws, children=()))
    for each in (batch, plain):
        table = table_of_update([each], [torch.tensor([5.0, 6.0])], lambda value: [value])
        assert table.tolist() == [[5.0], [6.0]]
        assert rows_of(table, each).tolist() == [5.0, 6.0]
