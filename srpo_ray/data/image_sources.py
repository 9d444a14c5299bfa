"""Images with captions that are listed but not read, from a folder or from the members of an archive."""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from srpo_ray.data.image_listing import Listing, count_types
from srpo_ray.data.image_samples import CAPTION_SUFFIXES, Samples
from srpo_ray.data.prompts import caption_of
from srpo_ray.data.text_files import TextFileError, decode_text, parse_json

Read = Callable[[], bytes]
_BLOCK = 2**14


@dataclass(frozen=True)
class Entry:
    """Image that has not been read."""

    name: str
    """File and position in it, for messages."""
    identity: Callable[[], str]
    """Function that returns the cache key of the image, from its path relative to the source and its content."""
    caption: str
    """Caption; empty if there is none."""
    read: Read


def folder_entries(listing: Listing, key: str) -> tuple[list[Entry], Counter[str]]:
    """List the images of a folder, each with its caption from the same folder.

    Args:
        listing: Files of the source.
        key: Config key of the source, for messages.

    Returns:
        The images, and the number of unused files by kind.

    Raises:
        ValueError: If a caption cannot be read, or its image is ambiguous.
    """
    reads: dict[PurePath, Read] = {file: file.read_bytes for file in sorted([*listing.files, *listing.beside])}
    found, left_out = with_captions(reads, set(listing.files), "", key)
    files = [(Path(path), caption) for path, caption in found]
    entries = [
        Entry(str(file), partial(file_identity, listing.name(file), file), caption, file.read_bytes)
        for file, caption in files
    ]
    return entries, left_out


def with_captions(
    reads: Mapping[PurePath, Read], chosen: Container[PurePath], place: str, key: str
) -> tuple[list[tuple[PurePath, str]], Counter[str]]:
    """Pair the images among files with their captions, and read the captions.

    Args:
        reads: File -> function that reads it.
        chosen: Files that the source names; only these are returned or counted.
        place: Prefix of names in messages.
        key: Config key of the source, for messages.

    Returns:
        Paths of images with their captions, `""` if there is none, and the number of unused files by kind.
    """
    samples = Samples(reads)
    found: list[tuple[PurePath, str]] = []
    left_out: Counter[str] = Counter()
    used: set[PurePath] = set()
    for image in samples.images:
        if image not in chosen:
            continue
        used.add(image)
        try:
            path, further = samples.caption(image), samples.is_further(image)
        except ValueError as error:
            raise ValueError(f"{key}: {place}{image}: {error}") from error
        if further:
            left_out["further image(s) of a sample that has its image"] += 1
            continue
        if path is not None:
            used.add(path)
        found.append((image, "" if path is None else _caption(reads[path], f"{place}{path}", key)))
    unused = [path for path in reads if path in chosen and path not in used]
    captions = [path for path in unused if path.suffix.lower() in CAPTION_SUFFIXES]
    for path in captions:
        has_image = samples.has_image(path)
        left_out["caption file(s) beside the one in use" if has_image else "caption(s) without an image"] += 1
    return found, left_out + count_types(path for path in unused if path not in captions)


def fingerprint(file: Path, offset: int, size: int) -> str:
    """Return the size of a range of a file and the SHA-256 of its first and last 16 KiB.

    The rest is not read: images differ in their headers and at their ends, and data sets are large.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        for place in (offset, offset + max(0, size - _BLOCK)):
            opened.seek(place)
            digest.update(opened.read(min(size, _BLOCK)))
    return f"{size} {digest.hexdigest()}"


def file_identity(name: str, file: Path) -> str:
    """Return the cache key of an image file: its path relative to the source, and a hash of its beginning and end.

    Raises:
        OSError: If the file cannot be read.
    """
    return f"{name} {fingerprint(file, 0, file.stat().st_size)}"


def _caption(read: Read, name: str, key: str) -> str:
    try:
        text = decode_text(read())
        return caption_of(parse_json(text) if name.lower().endswith(".json") else text)
    except (OSError, TextFileError) as error:
        raise ValueError(f"{key}: expected a readable caption, got {name} ({error}); correct or remove it") from error
