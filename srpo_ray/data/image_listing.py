"""Listing of the files of an image source: a folder and its subfolders, a glob pattern, or one file."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import DirEntry, scandir
from pathlib import Path, PurePath

from srpo_ray.decode_image import SUFFIXES

HIDDEN = "hidden file(s) or folder(s)"
_LOOP = "link(s) to a folder that is already read or contains the source"
_NO_FILE = "broken link(s) or special file(s)"
_MOST_TYPES = 5


@dataclass(frozen=True)
class Listing:
    """Files of a source, in order."""

    root: Path
    """Folder that names of files are relative to."""
    files: list[Path]
    beside: list[Path]
    """Other files in the folders of the images that a pattern or file names; captions may be among them."""
    left_out: Counter[str]
    """Kinds of files that are not read -> number of them; see `describe`."""

    def name(self, file: Path) -> str:
        """Path of a file relative to the root, with slashes."""
        return file.relative_to(self.root).as_posix()


def list_source(source: str, key: str) -> Listing:
    """List the files of a source; hidden ones (`.name`, `__MACOSX`) are skipped and counted.

    Args:
        source: A folder, which is read with its subfolders; a glob pattern of files and folders; or one file.
        key: Config key of the source, for messages.

    Raises:
        ValueError: If a folder cannot be read or the pattern is invalid.
    """
    path = Path(source)
    try:
        if path.is_dir():
            left_out: Counter[str] = Counter()
            return Listing(path, sorted(_below(path, left_out, _marks_around(path))), [], left_out)
        if path.is_file():
            return Listing(path.parent, [path], _beside([path]), Counter())
        return _matching(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{key}: expected a readable folder, file or pattern, got {source!r} ({error}); check the path and its"
            " permissions"
        ) from error


def is_hidden(path: PurePath) -> bool:
    """Test if a part of a path is a hidden name, as archivers, editors and operating systems create."""
    return any(_is_hidden_name(part) for part in path.parts)


def count_types(files: Iterable[PurePath]) -> Counter[str]:
    """Count files by suffix."""
    return Counter(f"{file.suffix.lower()} file(s)" if file.suffix else "file(s) without a suffix" for file in files)


def describe(left_out: Counter[str]) -> str:
    """Describe in English the files that are not read, with the most frequent types: `2 .md files`."""
    types = [(label, count) for label, count in left_out.most_common() if label.startswith(".")]
    rest = sum(count for _, count in types[_MOST_TYPES:])
    items = [item for item in left_out.items() if item not in types] + types[:_MOST_TYPES]
    items += [("file(s) of other types", rest)]
    return ", ".join(f"{count} {label.replace('(s)', 's' if count > 1 else '')}" for label, count in items if count)


def _is_hidden_name(name: str) -> bool:
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def _matching(pattern: Path) -> Listing:
    parts = pattern.parts
    # A path without any of these characters is not a pattern, and no file exists there.
    magic = next((i for i, part in enumerate(parts) if any(character in part for character in "*?[")), None)
    if magic is None:
        return Listing(pattern.parent, [], [], Counter())
    root = Path(*parts[:magic])
    left_out: Counter[str] = Counter()
    files: list[Path] = []
    walked: set[Path] = set()
    seen = _marks_around(root)
    for match in sorted(root.glob(str(Path(*parts[magic:])))):
        if walked.intersection(match.parents):
            continue
        if is_hidden(match.relative_to(root)):
            left_out[HIDDEN] += 1
            walked.add(match)
        elif match.is_dir():
            walked.add(match)
            files += _below(match, left_out, seen)
        elif match.is_file():
            files.append(match)
        else:
            left_out[_NO_FILE] += 1
    return Listing(root, sorted(files), _beside(files), left_out)


def _beside(files: list[Path]) -> list[Path]:
    folders = sorted({file.parent for file in files if file.suffix.lower() in SUFFIXES})
    found = {path for folder in folders for path in folder.iterdir() if not _is_hidden_name(path.name)}
    return sorted(path for path in found - set(files) if path.is_file())


def _below(folder: Path, left_out: Counter[str], seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, linked ones included, each folder once."""
    waiting = deque([folder])
    while waiting:
        current = waiting.popleft()
        mark = _mark(current)
        if mark in seen:
            left_out[_LOOP] += current.is_symlink()
            continue
        seen.add(mark)
        for child in sorted(scandir(current), key=_name):
            path = current / child.name
            # `scandir` knows the type of an entry, but raises for a link to itself; for a path the tests return False.
            entry = path if child.is_symlink() else child
            if _is_hidden_name(child.name):
                left_out[HIDDEN] += 1
            elif entry.is_dir():
                # Links last, so that a folder is listed under its own path and not under a link's.
                (waiting.append if child.is_symlink() else waiting.appendleft)(path)
            elif entry.is_file():
                yield path
            else:
                left_out[_NO_FILE] += 1


def _name(child: DirEntry[str]) -> str:
    return child.name


def _mark(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _marks_around(folder: Path) -> set[tuple[int, int]]:
    return {_mark(parent) for parent in folder.resolve().parents}
