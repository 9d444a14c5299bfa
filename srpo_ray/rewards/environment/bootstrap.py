"""First script of a reward's process. It runs with the environment's interpreter and imports no package itself.

The interpreter starts isolated (`python -I`), so `sys.path` has the standard library and the environment's packages.
This script adds the project's own folders, and this package alone instead of the folder that it is installed in.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import TypedDict


class Setting(TypedDict):
    """Folders of the process that starts this one."""

    package: str
    """Folder of this package."""
    project: list[str]
    """Entries of its `sys.path` that belong to neither its interpreter nor its installed packages."""
    shared: list[str]
    """Folders of its installed packages."""


def extended(path: list[str], setting: Setting) -> list[str]:
    """Add the project's folders to a path: after the environment's packages and before those that it shares."""
    shared = [index for index, entry in enumerate(path) if entry in setting["shared"]]
    place = min(shared, default=len(path))
    new = [entry for entry in setting["project"] if entry not in path]
    return [*path[:place], *new, *path[place:]]


def provide_package(folder: str) -> None:
    """Make `import srpo_ray` find this package, whatever the environment has installed."""
    spec = importlib.util.spec_from_file_location(
        "srpo_ray", Path(folder) / "__init__.py", submodule_search_locations=[folder]
    )
    assert spec, "the file exists, because this file is in its folder"
    assert spec.loader, "it is a file of Python"
    package = importlib.util.module_from_spec(spec)
    sys.modules["srpo_ray"] = package
    spec.loader.exec_module(package)


def main(connection: str, lifeline: str, setting: str) -> None:
    """Serve a reward until the other process closes the connection.

    Args:
        connection: Descriptor of the socket to the other process.
        lifeline: Descriptor of a pipe that is closed when the other process ends.
        setting: Folders of the other process, in JSON.
    """
    folders: Setting = json.loads(setting)
    sys.path[:] = extended(sys.path, folders)
    provide_package(folders["package"])
    from srpo_ray.rewards.environment.child import serve

    serve(int(connection), int(lifeline))


if __name__ == "__main__":
    main(*sys.argv[1:])
