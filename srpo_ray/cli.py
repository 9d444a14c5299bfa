"""The command line: which command was typed, and how it ends."""

import argparse
import sys
from collections.abc import Callable, Sequence

from srpo_ray.arguments import parse
from srpo_ray.commands import cluster, run, search, trained, words
from srpo_ray.credentials import redact
from srpo_ray.errors import RunFailedError, StudyInterruptedError

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": run.train,
    "encode": run.encode,
    "plan": run.plan,
    "sweep": search.sweep,
    "compare": search.compare,
    "sample": trained.sample,
    "evaluate": trained.evaluate,
    "export": trained.export,
    "replay": trained.replay,
    "words": words.words,
    "watch-spot": cluster.watch_spot,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name; None takes the process's own.

    Returns:
        Exit code: 0 done, 1 the run could not go on, 2 an input cannot be used, 130 stopped by Ctrl-C.
    """
    parsed = parse(list(sys.argv[1:] if arguments is None else arguments))
    try:
        if any(getattr(parsed, name, None) for name in ("cluster", "attach", "stop")) and not parsed.dry_run:
            return cluster.on_cluster(parsed)
        return COMMANDS[parsed.command](parsed)
    except (ValueError, ConnectionError) as error:
        print(f"srpo-ray: {redact(error)}", file=sys.stderr)
        return BAD_INPUT
    except RunFailedError as error:
        print(f"srpo-ray: the run stopped: {redact(error)}", file=sys.stderr)
        return FAILED
    except StudyInterruptedError as error:
        print(f"srpo-ray: {error}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("srpo-ray: stopped; the same command goes on from the last checkpoint or shard", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
