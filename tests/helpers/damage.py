"""Damage to files for tests: bytes that a disk, a download or a crash leaves behind."""

from hypothesis import settings
from hypothesis import strategies as st

FUZZ = settings(max_examples=80, deadline=None, derandomize=True, database=None)
"""The same examples in every run."""


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content cut short, with flipped bits, with a block of zeros, or other bytes altogether."""
    place = st.integers(0, len(content) - 1)
    return st.one_of(
        place.map(lambda end: content[:end]),
        st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=4).map(lambda bits: _flipped(content, bits)),
        st.tuples(place, st.integers(1, 64)).map(lambda hole: _zeroed(content, *hole)),
        st.binary(max_size=200),
    )


def _flipped(content: bytes, bits: list[tuple[int, int]]) -> bytes:
    changed = bytearray(content)
    for place, bit in bits:
        changed[place] ^= 1 << bit
    return bytes(changed)


def _zeroed(content: bytes, start: int, length: int) -> bytes:
    hole = content[start : start + length]
    return content[:start] + bytes(len(hole)) + content[start + length :]
