"""What a job does on the cluster's head beside the command itself; reads nothing heavy, so it begins at once.

python -m srpo_ray.cluster.on_head link           # results of this job go where those of the head's shell go
python -m srpo_ray.cluster.on_head send FOLDER    # print the small files of a results folder
"""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

RUNS = Path("runs")
MARK = "srpo-ray-file "
"""What a printed file's line begins with."""

PATTERNS = ("*.html", "*.yaml", "*.csv", "*.json", "*.jsonl", "images/*")
"""What a person reads of a results folder; weights and checkpoints stay where they are."""

MAX_BYTES = 64 * 2**20
"""Largest file that is sent."""


def home_runs() -> Path:
    """The folder of results on a cluster: that of the tree which `ray up` put there, a link to shared storage."""
    return Path.home() / "srpo_ray" / "runs"


def link() -> None:
    """Make `runs` of the working folder the head's own: a job's working folder goes when the job ends."""
    home_runs().mkdir(parents=True, exist_ok=True)
    if not RUNS.exists():
        RUNS.symlink_to(home_runs())
    print(f"results of relative paths: {home_runs().resolve()}")


def send(folder: Path) -> Iterator[str]:
    """The small files of a results folder, each as a line of JSON with name, hash and content.

    Args:
        folder: The folder; a relative one is seen from beside the head's `runs`.
    """
    folder = home_runs().parent / folder
    for file in sorted(path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()):
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
        for line in send(Path(sys.argv[2])):
            print(line)
