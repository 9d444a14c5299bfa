import gc

import pytest

from srpo_ray.imports import without_collection


def fail_within() -> None:
    with without_collection():
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ImportError


def test_collection_stops_for_the_block_and_goes_on_after_it_and_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError):
        fail_within()
    assert gc.isenabled()
