"""Images with captions, listed and not read: of a folder, or of the members of an archive."""

import json
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from srpo_ray.data.image_listing import Listing, count_types
from srpo_ray.data.image_samples import CAPTION_SUFFIXES, Samples
from srpo_ray.data.prompts import prompt_of

Read = Callable[[], bytes]


@dataclass(frozen=True)
class Entry:
    """One image that has not been read."""

    name: str
    """Its file, and its place in it, for messages."""
    identity: str
    """Cache key of what is computed from it: path below the source, size and time of change."""
    caption: str
    """Empty where there is none."""
    read: Read


def folder_entries(listing: Listing, key: str) -> tuple[list[Entry], Counter[str]]:
    """Images among files, each with its caption from the same folder.

    Args:
        listing: Files of the source.
        key: Config key that the source came from, for messages.

    Returns:
        The images, and the number of files of each kind that are not used.

    Raises:
        ValueError: If a caption cannot be read, or it is not clear which image it belongs to.
    """
    reads: dict[PurePath, Read] = {file: file.read_bytes for file in sorted([*listing.files, *listing.beside])}
    found, left_out = with_captions(reads, set(listing.files), "", key)
    files = [(Path(path), caption) for path, caption in found]
    entries = [
        Entry(str(file), f"{listing.name(file)} {stamp(file)}", caption, file.read_bytes) for file, caption in files
    ]
    return entries, left_out


def with_captions(
    reads: Mapping[PurePath, Read], chosen: Container[PurePath], place: str, key: str
) -> tuple[list[tuple[PurePath, str]], Counter[str]]:
    """Images of some files with their captions, which are read.

    Args:
        reads: All files and how to read them.
        chosen: Those that the source names; only images among them are returned, and only they are counted.
        place: Put before names in messages.
        key: Config key that the source came from, for messages.

    Returns:
        Paths of images with their captions, `""` where there is none, and the number of files that are not used.
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


def stamp(file: Path) -> str:
    """Size and time of change of a file."""
    stat = file.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _caption(read: Read, name: str, key: str) -> str:
    try:
        text = read().decode("utf-8-sig")
        caption = prompt_of(json.loads(text) if name.lower().endswith(".json") else text) or ""
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{key}: expected a readable caption, got {name} ({error}); correct or remove it") from error
    if "\0" in text or "\0" in caption:
        raise ValueError(
            f"{key}: expected a readable caption, got {name}, which has a NUL character; save it as UTF-8 text"
        )
    return caption
