"""Samples of Pick-a-Pic's mirror in tar files, by the convention of webdataset.

The script that writes such files is in huggingface/diffusers, examples/research_projects/diffusion_orpo/README.md. A
key is the row's number in its shard, so it does not identify a sample, and no uid, `has_label` or `are_different` is
kept.
"""

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from srpo_ray.data.image_tars import Member, archive_members
from srpo_ray.data.pair_rows import OtherFormatError, Row
from srpo_ray.data.text_files import TextFileError, decode_text

MISSING = "missing members"
"""Column of an incomplete sample with the names of its missing members."""
_COLUMNS = {
    "original_prompt.txt": "caption",
    "jpg_0.jpg": "jpg_0",
    "jpg_1.jpg": "jpg_1",
    "label_0.txt": "label_0",
    "label_1.txt": "label_1",
}
"""Member of a sample -> column of Pick-a-Pic."""
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
"""Key of a sample, up to the first dot of the file's name, and the member's name in the sample."""


def tar_samples(file: Path) -> Iterator[Row]:
    """Read the samples of a tar file as rows of Pick-a-Pic.

    Members of one key that follow each other are a sample, in any order. A key that comes again after another one is
    another sample, as in concatenated shards. Members without a key, such as hidden files, belong to no sample.

    Yields:
        `caption`, `jpg_0`, `jpg_1`, `label_0` and `label_1` of a complete sample; `MISSING` alone of another one.

    Raises:
        OtherFormatError: If the file is no complete, uncompressed tar file, or no sample has a certain member.
    """
    try:
        archives = archive_members(file)
    except tarfile.TarError as error:
        raise OtherFormatError(f"no complete, uncompressed tar file ({error})") from error
    samples = [sample for members in archives for sample in _samples(file, members)]
    if absent := [name for name in _COLUMNS if not any(name in sample for sample in samples)]:
        raise OtherFormatError(f"a tar file without {', '.join(absent)}")
    yield from map(_row, samples)


def _samples(file: Path, members: Sequence[tarfile.TarInfo]) -> list[dict[str, Member]]:
    """Group consecutive members by key; a link has no data and leaves its sample incomplete."""
    samples: list[dict[str, Member]] = []
    current = None
    for member in members:
        parts = _MEMBER.fullmatch(member.name)
        if parts is None or member.isdir():
            continue
        if member.sparse is not None:
            raise OtherFormatError(f"member {member.name!r}, which is stored without its zeros")
        key, name = parts.group(1), parts.group(2).lower()
        if key != current or name in samples[-1]:
            samples.append({})
            current = key
        if member.isfile():
            samples[-1][name] = Member(file, member.offset_data, member.size)
    return samples


def _row(sample: Mapping[str, Member]) -> Row:
    if missing := [name for name in _COLUMNS if name not in sample]:
        return {MISSING: ", ".join(missing)}
    return {column: _cell(column, sample[name]()) for name, column in _COLUMNS.items()}


def _cell(column: str, content: bytes) -> Any:
    """Return the value of a member; content of another type stays as it is, so that its row is counted."""
    if column.startswith("jpg"):
        return content
    try:
        text = decode_text(content)
    except TextFileError:
        return content
    if column == "caption":
        return text
    # The script writes labels by `str`, so a missing one is the text None.
    if text.strip() == "None":
        return None
    try:
        return float(text)
    except ValueError:
        return text
