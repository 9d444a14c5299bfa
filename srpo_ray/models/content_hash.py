"""Identities of files and of a pipeline's parts: hashes of content, independent of place and modification time."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from srpo_ray.models.paths import pipeline_file

COMMIT = "commit"
"""Name of the only part of a pipeline on the hub, whose hash is its commit."""

_WHOLE = 2**22
_BLOCKS, _BLOCK = 64, 2**16


def parts_identity(path: str, parts: Sequence[str]) -> str:
    """Identity of some parts of a pipeline, as 32 hexadecimal digits.

    Of a folder, names, sizes and contents of the parts' files count, not where they are or when they were written. Of
    files beyond 4 MiB 64 blocks are read, spread from the first byte to the last: any training changes weights
    everywhere. Of a hub id, its commit counts.

    Args:
        path: Folder or hub id of a pipeline.
        parts: Folders inside it, for example `("vae",)`.

    Raises:
        ValueError: If a hub id's commit is neither cached nor to be had.
    """
    if Path(path).is_dir():
        files = [file for part in parts for file in sorted((Path(path) / part).rglob("*")) if file.is_file()]
        identity = [[str(file.relative_to(path)), file.stat().st_size, _content(file)] for file in files]
    else:
        identity = [path, _commit(path), *parts]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def content_hash(path: Path) -> str:
    """Size and SHA-256 of a file, such as `"4731320 bytes b5bb9d80..."`; of a file beyond 4 MiB 64 blocks are read.

    Raises:
        OSError: If it cannot be read.
    """
    return f"{path.stat().st_size} bytes {_content(path)}"


def folder_hashes(folder: Path, parts: Sequence[str] = (".",)) -> dict[str, str]:
    """Relative name -> `content_hash` of the files in some parts of a folder, without hidden files.

    Raises:
        OSError: If one cannot be read.
    """
    found = {file.relative_to(folder): file for part in parts for file in (folder / part).rglob("*") if file.is_file()}
    return {
        name.as_posix(): content_hash(file)
        for name, file in sorted(found.items())
        if not any(piece.startswith(".") for piece in name.parts)
    }


def pipeline_hashes(path: str, parts: Sequence[str]) -> dict[str, str]:
    """`folder_hashes` of a pipeline's parts; of a hub id `{COMMIT: ...}`.

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
    # Of a commit that is cached no byte is loaded again; without a network the cached one is taken.
    return pipeline_file(hub_id, "model_index.json").parent.name
