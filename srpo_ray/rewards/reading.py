"""Errors of damaged model files, whatever a library raises: a ValueError with the reward, the file and the cure."""

import json
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

# Libraries do not validate damaged bytes: torch's unpickler pops from an empty stack (IndexError), looks up a memo
# (KeyError), calls a rebuild function with wrong arguments (TypeError) or unpacks a short buffer (struct.error).
# transformers treats values of a JSON file as objects (AttributeError, TypeError) and open_clip asserts shapes. Damaged
# lengths request more memory than there is (MemoryError).
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    pickle.UnpicklingError,
    struct.error,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    ImportError,
    OverflowError,
    MemoryError,
)
"""Exceptions that readers of model files raise on missing or damaged files."""


def reason_of(error: BaseException) -> str:
    """Type and text of a reader's error, in about 300 characters at most."""
    told = error
    if isinstance(error, pickle.UnpicklingError) and isinstance(error.__context__, pickle.UnpicklingError):
        # torch hides the reason behind advice to load without `weights_only`, which would execute code of the file.
        told = error.__context__
    text = " ".join(str(told).split()).split(" Please use ")[0]
    return f"{type(error).__name__}: {text[:300]}"


_OBJECTS = ("config.json", "index.json", "tokenizer.json", "vocab.json")
"""Name endings of JSON files whose top level is an object."""


def _read_by_itself(path: Path) -> None:
    """Raise one of `UNREADABLE` if a file of a model's folder is damaged; files of other types are not checked."""
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name.endswith(_OBJECTS) and not isinstance(content, dict):
            raise ValueError(f"expected a JSON object in {path}")
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):
            pass
    elif path.suffix in (".bin", ".pt", ".pth") and "model" in path.name:
        # Other pickles, such as `training_args.bin`, contain objects that `weights_only` refuses. The meta device reads
        # only the structure, not gigabytes of weights.
        torch.load(path, map_location="meta", weights_only=True)


def local_folder(source: str) -> Path | None:
    """Return the folder itself, or the cached copy of a hub model; None if neither exists.

    Args:
        source: Folder or hub id.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (OSError, HFValidationError):
        return None


def damaged_file(source: str) -> Path | None:
    """Return the first damaged file of a model's folder; None if every file is readable on its own.

    Args:
        source: Folder or hub id.
    """
    folder = local_folder(source)
    for path in sorted(folder.iterdir()) if folder else ():
        try:
            _read_by_itself(path)
        except UNREADABLE:
            return path
    return None


@dataclass(frozen=True)
class Reading:
    """Context manager that converts every error of a library reading a model's files to a ValueError."""

    reward: str
    """Name of the reward."""
    what: str
    """Expected content, such as `a readable CLIP model`."""
    source: str
    """Folder or hub id."""
    cure: str
    """Advice if the source has no damaged file, such as `check the path`."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The tokenizers library raises the bare class Exception.
        if isinstance(error, UNREADABLE) or type(error) is Exception:
            reason = reason_of(error)
            damaged = damaged_file(self.source)
            received = f"the damaged file {damaged} ({reason})" if damaged else reason
            cure = "download it again" if damaged else f"{self.cure}, or download it again"
            raise ValueError(
                f"reward {self.reward!r}: expected {self.what} at {self.source!r}, received {received}; {cure}"
            ) from error
