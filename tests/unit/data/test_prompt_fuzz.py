"""Damaged and random prompt files give prompts or an error that names the file."""

import io
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_ray.data.prompts import load_prompts

PROMPTS = ["a red circle", "ein grüner Kreis", "红色的圆 😀"]
bounded = settings(max_examples=100, deadline=None, derandomize=True)


def parquet() -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2, 3], "prompt": PROMPTS}), file)
    return file.getvalue()


WHOLE = {
    ".txt": "\r\n".join(PROMPTS).encode("utf-16"),
    ".json": '[{"prompt": "a \\ud83d\\ude00", "n": [1e5, null]}, "ein grüner Kreis"]'.encode(),
    ".jsonl": '"a red circle"\n{"caption": "ein grüner Kreis", "n": -1}\n'.encode(),
    ".csv": 'id,prompt\n1,"a ""red"" circle"\n2,"ein\nKreis"\n'.encode("utf-8-sig"),
    ".tsv": "Prompt \tid\na red circle\t1\n红色的圆\t2\n".encode(),
    ".parquet": parquet(),
}


def outcome(path: Path) -> list[str] | ValueError:
    """The prompts of a file, or the message of its refusal."""
    try:
        return load_prompts(str(path))
    except ValueError as error:
        return error


def check(suffix: str, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        path = Path(file.name)
        path.write_bytes(content)
        found = outcome(path)
    if isinstance(found, ValueError):
        assert type(found) is ValueError
        assert str(found).startswith("data.prompts: ")
        assert str(path) in str(found)
        found = [str(found)]
    assert found
    for text in found:
        assert text.strip()
        assert "\0" not in text
        text.encode()


@pytest.mark.parametrize("suffix", WHOLE)
@given(content=st.binary(max_size=200))
@bounded
def test_random_bytes_are_read_or_refused(suffix: str, content: bytes) -> None:
    check(suffix, content)


@pytest.mark.parametrize("suffix", [suffix for suffix in WHOLE if suffix != ".parquet"])
@given(content=st.text(st.sampled_from('a",;\t\n\r{}[]: \0\x1b\\ud80\ufeff\u2028') | st.characters(), max_size=60))
@bounded
def test_random_texts_are_read_or_refused(suffix: str, content: str) -> None:
    check(suffix, content.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("suffix", WHOLE)
@given(data=st.data())
@bounded
def test_truncated_files_are_read_or_refused(suffix: str, data: st.DataObject) -> None:
    whole = WHOLE[suffix]
    check(suffix, whole[: data.draw(st.integers(0, len(whole)))])


@pytest.mark.parametrize("suffix", WHOLE)
@given(data=st.data())
@bounded
def test_files_with_flipped_bits_are_read_or_refused(suffix: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[suffix])
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=4)):
        content[bit // 8] ^= 1 << bit % 8
    check(suffix, bytes(content))
