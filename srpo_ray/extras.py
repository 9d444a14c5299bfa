"""Optional packages: the extras that install them, and the message about a missing one."""

import importlib.util


def require_package(package: str, extra: str, option: str, otherwise: str) -> None:
    """Check that an optional package is installed, without importing it.

    Args:
        package: Name to import.
        extra: Extra of this project that installs it.
        option: Config key or command-line option that needs it, with its value.
        otherwise: What to do without it.

    Raises:
        ValueError: If it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"expected the package {package} for {option}, got none; run `pip install 'srpo_ray[{extra}]'` on every"
            f" machine of the run, or {otherwise}"
        )
