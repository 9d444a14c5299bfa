"""Helper commands of a job on the cluster's head; light imports, so they start fast.

python -m srpo_ray.cluster.on_head link                     # write this job's results to the head's `runs` folder
python -m srpo_ray.cluster.on_head send FOLDER [PATTERN ...]  # print the small files of a results folder
"""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

RUNS = Path("runs")
MARK = "srpo-ray-file "
"""Prefix of the line of a printed file."""

PATTERNS = ("*.html", "*.yaml", "*.csv", "*.json", "*.jsonl", "images/*")
"""Patterns of the files that are sent: reports, tables and images, but no weights or checkpoints."""

MAX_BYTES = 64 * 2**20
"""Maximum size of a file that is sent, in bytes."""


def home_runs() -> Path:
    """Return the folder of results on a cluster: `runs` in the tree copied by `ray up`, a link to shared storage."""
    return Path.home() / "srpo_ray" / "runs"


def link() -> None:
    """Link `runs` of the working folder to the head's: a job's working folder is deleted when the job ends."""
    home_runs().mkdir(parents=True, exist_ok=True)
    if not RUNS.exists():
        RUNS.symlink_to(home_runs())
    print(f"results of relative paths: {home_runs().resolve()}")


def send(folder: Path, patterns: Sequence[str] = PATTERNS) -> Iterator[str]:
    """Yield the small files of a results folder, each as a line of JSON with name, hash and content.

    Args:
        folder: Folder of the results; a relative path is relative to the parent of the head's `runs`.
        patterns: Patterns of the files.
    """
    folder = home_runs().parent / folder
    for file in sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file()):
        if file.stat().st_size > MAX_BYTES:
            continue
        content = file.read_bytes()
        line = {
            "name": file.relative_to(folder).as_posix(),
            "sha256": hashlib.sha256(content).hexdigest(),
            "content": base64.b64encode(content).decode(),
        }
        yield MARK + json.dumps(line)


if __name__ == "__main__":
    if sys.argv[1] == "link":
        link()
    else:
        for line in send(Path(sys.argv[2]), sys.argv[3:] or PATTERNS):
            print(line)
