"""Images in tar files, read in place: only the members' offsets are in memory."""

import os
import posixpath
import tarfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from srpo_ray.data.image_listing import HIDDEN, Listing, is_hidden
from srpo_ray.data.image_sources import Entry, fingerprint, with_captions

TAR = ".tar"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """Data of a tar member: a byte range of the archive's file."""

    file: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Read the data."""
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            return opened.read(self.size)

    def identity(self, name: str) -> str:
        """Cache key of the data."""
        return f"{name} {fingerprint(self.file, self.offset, self.size)}"


def tar_entries(listing: Listing, files: list[Path], key: str) -> tuple[list[Entry], Counter[str]]:
    """List the images of tar files, each with its caption from the same archive and folder.

    Concatenated archives (`cat a.tar b.tar`) are read one after the other.

    Args:
        listing: Files of the source.
        files: Tar files among them.
        key: Config key of the source, for messages.

    Returns:
        The images, and the number of unused members by kind.

    Raises:
        ValueError: If a file is not a complete, uncompressed tar file, or a caption cannot be used.
    """
    entries: list[Entry] = []
    left_out: Counter[str] = Counter()
    for file in files:
        archives, not_read = _archives(file, key)
        left_out += not_read
        for number, reads in enumerate(archives):
            part = f"archive {number + 1}: " if number else ""
            found, unused = with_captions(reads, reads, f"{file}: {part}", key)
            left_out += unused
            for path, caption in found:
                identity = partial(reads[path].identity, f"{listing.name(file)} {part}{path}")
                entries.append(Entry(f"{file}: {part}{path}", identity, caption, reads[path]))
    return entries, left_out


def archive_members(file: Path) -> list[list[tarfile.TarInfo]]:
    """List the members of each archive in a file, which may be several concatenated ones.

    Raises:
        tarfile.ReadError: If the file is not a complete, uncompressed tar file, or cannot be read.
    """
    archives: list[list[tarfile.TarInfo]] = []
    try:
        with file.open("rb") as opened:
            start: int | None = 0
            while start is not None:
                opened.seek(start)
                members, end = _members(opened)
                archives.append(members)
                start = _next_archive(opened, end)
    # Invalid or too large numbers in headers raise the last four.
    except (OSError, tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise tarfile.ReadError(str(error)) from error
    return archives


def _archives(file: Path, key: str) -> tuple[list[dict[PurePath, Member]], Counter[str]]:
    """Members of each archive in a file by name, and the number of those that are skipped, by kind."""
    left_out: Counter[str] = Counter()
    try:
        archives = [_by_name(file, members, left_out) for members in archive_members(file)]
    except tarfile.TarError as error:
        raise ValueError(
            f"{key}: expected a complete, uncompressed tar file, got {file} ({error}); unpack it or copy it again"
        ) from error
    return archives, left_out


def _members(opened: BinaryIO) -> tuple[list[tarfile.TarInfo], int]:
    """Return the members of the archive at the current position, and the offset of its end mark.

    Raises:
        tarfile.ReadError: If the archive is truncated, or does not begin here.
    """
    members: list[tarfile.TarInfo] = []
    place = opened.tell()
    with tarfile.TarFile(fileobj=opened, mode="r") as archive:
        for member in archive:
            # A damaged size may be negative, which would send tarfile backwards in an endless loop.
            if member.size < 0 or archive.offset <= place:
                raise tarfile.ReadError(f"the size of member {member.name!r} is damaged")
            place = archive.offset
            members.append(member)
        end = archive.offset
    # tarfile treats an unreadable header as the end; a real end is a block of zeros.
    opened.seek(end)
    block = opened.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        rest = opened.seek(0, os.SEEK_END) - end
        raise tarfile.ReadError(f"after {len(members)} members, {rest} bytes follow that are no tar file's end")
    return members, end


def _next_archive(opened: BinaryIO, end: int) -> int | None:
    """Offset of the block with the next nonzero byte; None if there is none."""
    opened.seek(end)
    while chunk := opened.read(_CHUNK):
        rest = chunk.lstrip(b"\0")
        if rest:
            place = opened.tell() - len(rest)
            return place - (place - end) % tarfile.BLOCKSIZE
    return None


def _by_name(file: Path, members: list[tarfile.TarInfo], left_out: Counter[str]) -> dict[PurePath, Member]:
    files = {posixpath.normpath(member.name): member for member in members if member.isfile()}
    links = {posixpath.normpath(member.name): member for member in members if member.islnk() or member.issym()}
    reads: dict[PurePath, Member] = {}
    for member in members:
        path = PurePosixPath(posixpath.normpath(member.name))
        if member.isdir():
            continue
        if is_hidden(path):
            left_out[HIDDEN] += 1
            continue
        target = _target(member, files, links)
        if target is None:
            left_out["link(s) or special file(s) without data in the archive"] += 1
            continue
        if target.sparse is not None:
            raise tarfile.ReadError(f"member {member.name!r} is stored without its zeros; pack without --sparse")
        # As in extraction, a later member replaces an earlier one of the same name.
        left_out["member(s) replaced by a later one of the same name"] += path in reads
        reads[path] = Member(file, target.offset_data, target.size)
    return reads


def _target(
    member: tarfile.TarInfo, files: dict[str, tarfile.TarInfo], links: dict[str, tarfile.TarInfo]
) -> tarfile.TarInfo | None:
    """Return the member with the data of this one, which may be a link; None without data in the archive."""
    for _ in range(len(links) + 1):
        if member.isfile():
            return member
        if not (member.islnk() or member.issym()):
            return None
        # The target of a symbolic link is relative to its folder, that of a hard link to the archive's root.
        folder = posixpath.dirname(member.name) if member.issym() else ""
        name = posixpath.normpath(posixpath.join(folder, member.linkname))
        found = files.get(name) or links.get(name)
        if found is None or found is member:
            return None
        member = found
    return None
