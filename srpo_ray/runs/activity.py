"""Work of a run besides updates, such as an evaluation: a file of its folder that pages and terminals read."""

import json

from srpo_ray.files import write_text
from srpo_ray.runs.folder import RunFolder, read_rows

EVALUATION = "evaluation"
TEST = "test"


def report_activity(folder: RunFolder, name: str, done: int, total: int) -> None:
    """Write the progress of an activity; at its end, remove the file.

    Args:
        folder: Folder of the run.
        name: Name of the work, for people.
        done: Items done.
        total: All items.
    """
    if done < total:
        write_text(folder.activity, json.dumps({"name": name, "done": done, "total": total}) + "\n")
    else:
        end_activity(folder)


def end_activity(folder: RunFolder) -> None:
    """Remove the file: the run makes updates, or a start that was killed has left it."""
    folder.activity.unlink(missing_ok=True)


def read_activity(folder: RunFolder) -> tuple[str, int, int] | None:
    """Read the name, the items done and all items of the current activity; None without one."""
    rows = read_rows(folder.activity)
    return (rows[-1]["name"], rows[-1]["done"], rows[-1]["total"]) if rows else None
