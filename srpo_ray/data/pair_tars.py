"""Samples of Pick-a-Pic's mirror in tar files, by the convention of webdataset.

The script that writes such files is in huggingface/diffusers at e29f16c,
examples/research_projects/diffusion_orpo/README.md. A key is the row's number in its shard, so it does not identify a
sample, and no uid, `has_label` or `are_different` is kept.
"""

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from srpo_ray.data.image_tars import Member, archive_members
from srpo_ray.data.pair_rows import OtherFormatError, Row
from srpo_ray.data.text_files import TextFileError, decode_text

UNUSABLE = "unusable"
"""Column of a sample that cannot be used, with the reason."""
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


_Sample = dict[str, Member | None]
"""Member's name -> its data; None for a link, which has none."""


def tar_samples(file: Path) -> Iterator[Row]:
    """Read the samples of a tar file as rows of Pick-a-Pic.

    Members of one key that follow each other are a sample, in any order. A key that comes again after another one is
    another sample, as in concatenated shards. So is one whose member comes again: then all samples of the key must be
    complete, because a member that one of them lacks may be that of the next. Members without a key, such as hidden
    files, and of other names belong to no sample.

    Yields:
        `caption`, `jpg_0`, `jpg_1`, `label_0` and `label_1` of a complete sample; `UNUSABLE` alone of another one.

    Raises:
        OtherFormatError: If the file is no complete, uncompressed tar file, or no sample has a certain member.
    """
    try:
        archives = archive_members(file)
    except tarfile.TarError as error:
        raise OtherFormatError(
            f"no complete, uncompressed tar file ({error}); decompress it or copy it again"
        ) from error
    runs = [run for members in archives for run in _runs(file, members)]
    if absent := [name for name in _COLUMNS if not any(sample.get(name) for run in runs for sample in run)]:
        raise OtherFormatError(f"a tar file without {', '.join(absent)}")
    for run in runs:
        yield from _rows(run)


def _runs(file: Path, members: Sequence[tarfile.TarInfo]) -> list[list[_Sample]]:
    """Group consecutive members of one key: a list for each group, with a sample or several."""
    runs: list[list[_Sample]] = []
    current = None
    for member in members:
        parts = _MEMBER.fullmatch(member.name)
        if parts is None or member.isdir():
            continue
        key, name = parts.group(1), parts.group(2).lower()
        if key != current:
            runs.append([{}])
            current = key
        if name not in _COLUMNS:
            continue
        if member.sparse is not None:
            raise OtherFormatError(f"member {member.name!r}, which is stored without its zeros; pack without --sparse")
        if name in runs[-1][-1]:
            runs[-1].append({})
        runs[-1][-1][name] = Member(file, member.offset_data, member.size) if member.isfile() else None
    # The first sample of a group is empty if no member has one of the names.
    return [run for run in runs if run[0]]


def _rows(run: Sequence[_Sample]) -> Iterator[Row]:
    """Read the samples of one key that follow each other."""
    missing = [[name for name in _COLUMNS if not sample.get(name)] for sample in run]
    several = len(run) > 1
    for sample, names in zip(run, missing, strict=True):
        if several and any(missing):
            yield {UNUSABLE: "with a repeated key and a missing member"}
        elif names:
            yield {UNUSABLE: f"without {', '.join(names)}"}
        else:
            yield _row(sample)


def _row(sample: Mapping[str, Member | None]) -> Row:
    """Read a complete sample."""
    return {_COLUMNS[name]: _cell(_COLUMNS[name], member()) for name, member in sample.items() if member}


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
