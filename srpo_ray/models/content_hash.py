"""Content hashes of files and of a pipeline's parts, independent of location and modification time."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from srpo_ray.models.paths import pipeline_file

COMMIT = "commit"
"""Key of a hub pipeline's only hash, which is its commit."""

_WHOLE = 2**22
_BLOCKS, _BLOCK = 64, 2**16


def parts_identity(path: str, parts: Sequence[str]) -> str:
    """Compute the identity of some parts of a pipeline, as 32 hexadecimal digits.

    For a folder, it depends on the names, sizes and contents of the parts' files, not on location or modification time.
    Of a file above 4 MiB, 64 blocks are read, evenly spaced from the first byte to the last: any training changes
    weights everywhere. For a hub id, it depends on the commit.

    Args:
        path: Folder or hub id of a pipeline.
        parts: Folders inside it, for example `("vae",)`.

    Raises:
        ValueError: If a hub id's commit is neither cached nor available from the hub.
    """
    if Path(path).is_dir():
        files = [file for part in parts for file in sorted((Path(path) / part).rglob("*")) if file.is_file()]
        identity = [[str(file.relative_to(path)), file.stat().st_size, _content(file)] for file in files]
    else:
        identity = [path, _commit(path), *parts]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def content_hash(path: Path) -> str:
    """Compute size and SHA-256 of a file, as `"4731320 bytes b5bb9d80..."`; above 4 MiB, 64 blocks are hashed.

    Raises:
        OSError: If the file cannot be read.
    """
    return f"{path.stat().st_size} bytes {_content(path)}"


def folder_hashes(folder: Path, parts: Sequence[str] = (".",)) -> dict[str, str]:
    """Compute relative name -> `content_hash` for the files in some parts of a folder, without hidden files.

    Raises:
        OSError: If a file cannot be read.
    """
    found = {file.relative_to(folder): file for part in parts for file in (folder / part).rglob("*") if file.is_file()}
    return {
        name.as_posix(): content_hash(file)
        for name, file in sorted(found.items())
        if not any(piece.startswith(".") for piece in name.parts)
    }


def pipeline_hashes(path: str, parts: Sequence[str]) -> dict[str, str]:
    """Compute `folder_hashes` of a pipeline's parts; for a hub id `{COMMIT: ...}`.

    Args:
        path: Folder or hub id of a pipeline.
        parts: Folders inside it, for example `("vae",)`.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a hub id's commit is neither cached nor available from the hub.
    """
    return folder_hashes(Path(path), parts) if Path(path).is_dir() else {COMMIT: _commit(path)}


def _content(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        if size <= _WHOLE:
            digest.update(opened.read())
        else:
            for number in range(_BLOCKS):
                opened.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()


def _commit(hub_id: str) -> str:
    # A cached commit is not downloaded again; without a network, the cached one is used.
    return pipeline_file(hub_id, "model_index.json").parent.name
