"""Quality of the gradient of one update, for all methods at equal cost in the small world.

python experiments/gradient_quality.py                      # measure what is not finished yet, then print the table
python experiments/gradient_quality.py --workers 2          # two processes of one thread each
python experiments/gradient_quality.py --quick              # a few methods with few updates, about two minutes
python experiments/gradient_quality.py --only ReFL AWM      # some methods
python experiments/gradient_quality.py --report             # print the table of what is finished

Each method's gradients at the base model's weights are compared with the gradient of the expected trained reward of ODE
samples. A finished method is one file under `runs/gradient_quality` and is not measured again. The table is also
written to `table.csv` and `table.json` there. `docs/gradient_quality.md` explains it.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gradient_measure import Options, check_reference, finished, measure_method, measure_reference, prepare
from gradient_methods import METHODS, QUICK, REFERENCES
from gradient_table import csv_text, markdown, rows_of

from srpo_ray.files import write_text

FULL = Options(prompts=192, references=8, blocks=8, evaluations=800, least=2, most=8)
BRIEF = Options(prompts=48, references=4, blocks=4, evaluations=480, least=1, most=8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only report what is finished")
    parser.add_argument("--quick", action="store_true", help="few methods and updates, in a folder of its own")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="METHOD", help="methods (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each (default: 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the results' folder")
    parsed = parser.parse_args(arguments)
    if parsed.workers < 1:
        parser.error(f"expected at least 1 worker, got {parsed.workers}; set --workers to 1 or more")
    root = parsed.runs / ("gradient_quality_quick" if parsed.quick else "gradient_quality")
    options = replace(BRIEF if parsed.quick else FULL, root=str(root))
    names = parsed.only or (list(QUICK) if parsed.quick else list(METHODS))
    if not parsed.report:
        measure(options, names, parsed.workers)
    report(options, names)


def measure(options: Options, names: Sequence[str], workers: int) -> None:
    """Measure what is missing, objective by objective: blocks of the reference, its check, methods."""
    missing = [name for name in names if finished(options, name) is None]
    if missing:
        prepare(options, missing)
    for objective in REFERENCES:
        methods = [name for name in missing if METHODS[name].objective == objective]
        if not methods:
            continue
        indices = range(options.references)
        blocks = [index for index in indices if not options.reference_file(objective, index).exists()]
        run("reference", [partial(measure_reference, options, objective, index) for index in blocks], workers)
        if not options.check_file(objective).exists():
            print(check_reference(options, objective), flush=True)
        methods.sort(key=lambda name: name not in QUICK)
        run("method", [partial(measure_method, options, name) for name in methods], workers)


def run(label: str, tasks: Sequence[Callable[[], str]], workers: int) -> None:
    """Run tasks in processes, and print a line for each finished one, with the time that is left at this rate."""
    started = time.monotonic()
    for done, line in enumerate(_results(tasks, workers), start=1):
        left = (time.monotonic() - started) / done * (len(tasks) - done)
        print(f"[{label} {done}/{len(tasks)}, about {left / 60:.0f} min left] {line}", flush=True)


def _results(tasks: Sequence[Callable[[], str]], workers: int) -> Iterator[str]:
    if workers == 1 or len(tasks) < 2:
        yield from (task() for task in tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(task) for task in tasks]):
            yield future.result()


def report(options: Options, names: Sequence[str]) -> None:
    """Print the table of the finished methods, and write it."""
    found: dict[str, dict[str, Any]] = {name: each for name in names if (each := finished(options, name))}
    if not found:
        raise SystemExit(f"expected finished methods in {options.root}, got none; run without --report first")
    rows = rows_of(found)
    root = Path(options.root)
    write_text(root / "table.json", json.dumps(rows, indent=1) + "\n")
    write_text(root / "table.csv", csv_text(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
