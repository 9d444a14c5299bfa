"""Virtual environments with the packages of a reward, made once per node and shared by all runs there.

An environment has only the packages that the driver's environment lacks or has in another version. A `.pth` file makes
the driver's packages visible after its own.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from srpo_ray.files import write_text

logger = logging.getLogger(__name__)

READY = "ready.json"
"""File that is written last into an environment; one without it is unfinished and is made again."""
DRIVER_PTH = "srpo_ray_driver.pth"
LAST_LINES = 15
"""Number of pip's last lines in a message."""
_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|Network is unreachable|ConnectTimeout|Connection refused"
    r"|Name or service not known|Failed to establish a new connection|ProxyError|ReadTimeoutError|ConnectionResetError",
    re.IGNORECASE,
)


def environments_folder() -> Path:
    """Folder of the environments of this node: `srpo_ray/environments` in `XDG_CACHE_HOME`, by default `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "srpo_ray" / "environments"


def driver_folders() -> list[str]:
    """Folders of the packages that this interpreter has installed."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [folder for folder in [*user, *site.getsitepackages()] if Path(folder).is_dir()]


def environment_key(packages: Sequence[str], folders: Sequence[str]) -> str:
    """Hash everything that an environment depends on.

    Args:
        packages: Requirements of pip; the order does not matter, and the content of local files does.
        folders: Folders of the driver's packages; their names and versions matter.
    """
    installed = sorted(found.name for folder in folders for found in Path(folder).glob("*.dist-info"))
    files = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in packages if Path(name).is_file()}
    facts = {
        "packages": sorted({" ".join(package.split()) for package in packages}),
        "files": files,
        "python": [sys.implementation.cache_tag, sys.base_prefix],
        "platform": sysconfig.get_platform(),
        "driver": [list(folders), installed],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


def interpreter_of(folder: Path) -> Path:
    """Path of an environment's interpreter."""
    return folder / "bin" / "python"


def provide_environment(packages: Sequence[str], install: Callable[[Path, Sequence[str]], None] | None = None) -> Path:
    """Return the interpreter of an environment with these packages; make the environment if this node has none.

    Several processes may call at once: one makes the environment, and the others wait.

    Args:
        packages: Requirements of pip.
        install: Function that installs packages into a folder; None takes pip.

    Raises:
        ValueError: If the environment cannot be made; the message has pip's last lines.
    """
    folders = driver_folders()
    folder = environments_folder() / environment_key(packages, folders)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_suffix(".lock")):
            if not ((folder / READY).is_file() and interpreter_of(folder).exists()):
                logger.warning("installing %s into %s", ", ".join(packages), folder)
                _make(folder, folders)
                (install or install_packages)(folder, packages)
                write_text(folder / READY, json.dumps({"packages": list(packages)}) + "\n")
    except OSError as error:
        raise ValueError(
            f"expected a folder for Python environments that can be written, got {folder.parent} ({error}); set"
            " XDG_CACHE_HOME on every node, or make the environment yourself and name its interpreter"
            " (`environment.python`)"
        ) from error
    return interpreter_of(folder)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Wait until no other process of this node makes the environment; the system releases the lock of a dead one."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(folder: Path, driver: Sequence[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        # pip of the driver's environment is visible through the `.pth` file.
        venv.EnvBuilder(symlinks=True, with_pip=find_spec("pip") is None).create(folder)
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"expected pip in this environment or the module ensurepip, got neither ({error}); install pip, or the"
            " system's package python3-venv"
        ) from error
    # `addsitedir` reads the `.pth` files of the folder too, and so finds editable installations.
    lines = [f"import site; site.addsitedir({path!r})" for path in driver]
    write_text(packages_folder(folder) / DRIVER_PTH, "\n".join(lines) + "\n")


def packages_folder(folder: Path) -> Path:
    """Folder of an environment's own packages."""
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def install_packages(folder: Path, packages: Sequence[str]) -> None:
    """Install packages with pip, which sees those of the driver and leaves them as they are.

    Raises:
        ValueError: If pip fails; the message has its last lines.
    """
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command = [str(interpreter_of(folder)), "-I", "-m", "pip", "install", *options, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    cause = "this node cannot reach the package index" if _NO_NETWORK.search("\n".join(lines)) else "pip failed"
    cure = (
        "give pip a reachable index or local files (PIP_INDEX_URL, PIP_FIND_LINKS), or make the environment elsewhere"
        " and name its interpreter (`environment.python`)"
        if cause != "pip failed"
        else "correct `environment.packages`"
    )
    last = "\n  ".join(lines[-LAST_LINES:])
    raise ValueError(
        f"expected packages that pip can install, got {list(packages)}, and {cause}; {cure}. Its last lines:\n  {last}"
    )
