"""Command line of `srpo-ray`: one file per command. No command imports torch, Ray or pydantic before it runs."""

import sys
from collections.abc import Sequence

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name. None reads those of the process.

    Returns:
        Exit code: 0 success, 1 the run failed, 2 bad input, 130 interrupted by Ctrl-C.
    """
    try:
        # The import of all commands takes long enough to be interrupted too.
        from srpo_ray.cli.dispatch import run_command

        return run_command(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        print("srpo-ray: stopped; the same command continues from the last checkpoint or shard", file=sys.stderr)
        return _INTERRUPTED
