"""Dispatch of the commands, and their exit codes."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Protocol

from srpo_ray import __version__
from srpo_ray.cli import (
    compare,
    encode,
    evaluate,
    export,
    init,
    pairs,
    plan,
    prompts,
    rank,
    replay,
    sample,
    sweep,
    train,
    vote,
    watch,
    watch_spot,
    words,
)
from srpo_ray.credentials import redact
from srpo_ray.errors import CommandInterruptedError, RunFailedError

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


class Command(Protocol):
    """Module of one command."""

    @property
    def HELP(self) -> str:  # noqa: N802 # a constant of the module
        """Line about the command in `srpo-ray --help`."""
        ...

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, parsed: argparse.Namespace) -> int:
        """Run the command and return its exit code."""
        ...


COMMANDS: dict[str, Command] = {
    "init": init,
    "train": train,
    "encode": encode,
    "sweep": sweep,
    "compare": compare,
    "plan": plan,
    "prompts": prompts,
    "pairs": pairs,
    "sample": sample,
    "evaluate": evaluate,
    "rank": rank,
    "vote": vote,
    "export": export,
    "replay": replay,
    "words": words,
    "watch": watch,
    "watch-spot": watch_spot,
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Args:
        arguments: Words after the program's name.

    Returns:
        Arguments of one command, its name as `command`, and the whole command line without credentials as `typed`.
    """
    parser = argparse.ArgumentParser(prog="srpo-ray", description="Align FLUX with human preferences using SRPO.")
    parser.add_argument("--version", action="version", version=f"srpo-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP))
    parsed, rest = parser.parse_known_args(arguments)
    if rest:
        # A word behind an unknown option may be its value.
        late = not any(word.startswith("-") for word in rest)
        cure = "; write files, overrides and prompts before the options" if late else ""
        parser.error(f"unrecognized arguments: {shlex.join(rest)}{cure}")
    # Reports show the command line, and people pass reports on.
    parsed.typed = redact(shlex.join([parser.prog, *arguments]))
    return parsed


def run_command(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name.

    Returns:
        Exit code, as for `srpo_ray.cli.main`.

    Raises:
        KeyboardInterrupt: If Ctrl-C has stopped a command that has no message of its own for it.
    """
    parsed = parse(arguments)
    try:
        return COMMANDS[parsed.command].run(parsed)
    except (ValueError, ConnectionError) as error:
        print(f"srpo-ray: {redact(error)}", file=sys.stderr)
        return BAD_INPUT
    except RunFailedError as error:
        print(f"srpo-ray: the run stopped: {redact(error)}", file=sys.stderr)
        return FAILED
    except CommandInterruptedError as error:
        print(f"srpo-ray: {error}", file=sys.stderr)
        return INTERRUPTED
