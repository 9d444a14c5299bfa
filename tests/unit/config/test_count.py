from typing import Any

import pytest

from srpo_ray.config.count import CountRange, largest, smallest
from srpo_ray.config.load import ConfigError, validate
from srpo_ray.config.rewards import PoolConfig
from srpo_ray.config.training import TrainingConfig


@pytest.mark.parametrize(
    ("value", "ends"), [(3, (3, 3)), ({"min": 1, "max": 8}, (1, 8)), ({"min": 2, "max": 2}, (2, 2))]
)
def test_count_is_a_number_or_a_range_and_comes_back_from_a_file_as_it_was(
    value: object, ends: tuple[int, int]
) -> None:
    pool = validate(PoolConfig, {"num_replicas": value}, "test")

    assert (smallest(pool.num_replicas), largest(pool.num_replicas)) == ends
    assert pool.model_dump(mode="json")["num_replicas"] == value
    assert PoolConfig.model_validate(pool.model_dump(mode="json")) == pool


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"min": 3, "max": 2}, "num_replicas: expected min to be at most max, got min=3 and max=2"),
        ({"min": 0, "max": 2}, "num_replicas.min: expected to be greater than or equal to 1; got 0"),
        ({"min": 1}, "num_replicas.max: expected a value, got none"),
        (
            {"min": 1, "mx": 2, "max": 2},
            "num_replicas.mx: expected one of max, min; got an unknown key; did you mean `max`",
        ),
        (0, "num_replicas: expected to be greater than or equal to 1; got 0"),
        ("many", "num_replicas: expected to be a valid integer"),
        ([1, 2], "num_replicas: expected to be a valid integer"),
    ],
)
def test_what_is_no_count_is_named_by_its_key(value: object, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(PoolConfig, {"num_replicas": value}, "test")
    assert complaint in str(caught.value)


def test_pool_of_one_model_each_has_as_many_replicas_of_every_model() -> None:
    count = CountRange(min=1, max=4)
    together, apart = PoolConfig(num_replicas=count), PoolConfig(num_replicas=count, one_model_each=True)

    assert (together.least_replicas(3), together.most_replicas(3)) == (1, 4)
    assert (apart.least_replicas(3), apart.most_replicas(3)) == (3, 12)


@pytest.mark.parametrize("value", ["!spot", "in(a, b)", ""])
def test_labels_are_plain_values(value: str) -> None:
    with pytest.raises(ConfigError, match=r"labels\.role"):
        validate(PoolConfig, {"labels": {"role": value}}, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": 12}, "a multiple of shard_group_size=8, and no range, got 12 to 12 workers"),
        (
            {"num_workers": {"min": 8, "max": 16}, "resources": {"trainer_slot": 1}},
            "a multiple of shard_group_size=8, and no range, got 8 to 16 workers",
        ),
        ({"num_workers": 16, "offload": "weights"}, "no shard_group_size with offload=weights, got 8"),
    ],
)
def test_groups_that_do_not_divide_the_workers_or_are_offloaded_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        TrainingConfig.model_validate({"batch_size": 48, "shard_group_size": 8, **changes})
    assert TrainingConfig(batch_size=48, num_workers=16, shard_group_size=8).shard_group_size == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": 3}, "num_workers to be a multiple of context_parallel=2, and no range, got 3 to 3 workers"),
        (
            {"num_workers": {"min": 2, "max": 4}, "resources": {"trainer_slot": 1}},
            "num_workers to be a multiple of context_parallel=2, and no range, got 2 to 4 workers",
        ),
        ({"num_workers": 4, "batch_size": 3}, "got batch_size=3 and num_workers / context_parallel=2"),
        ({"num_workers": 4, "micro_batch_size": 4}, "a worker's share of 6 prompts"),
    ],
)
def test_workers_that_cannot_share_images_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        TrainingConfig.model_validate({"batch_size": 12, "context_parallel": 2, **changes})


def test_group_of_workers_counts_as_one_worker_for_the_batch() -> None:
    training = TrainingConfig(batch_size=6, num_workers=4, context_parallel=2)
    assert (training.data_workers, training.pass_size) == (2, 3)
    assert [training.data_parallel(rank, 4) for rank in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]
