"""Which control words a reward perceives."""

import argparse
import sys
from pathlib import Path

from srpo_ray.arguments import DEFAULT_RUN
from srpo_ray.commands.inputs import files_and_overrides


def words(parsed: argparse.Namespace) -> int:
    """`words`: rank words, and suggest sets of them."""
    from srpo_ray.config import load_run

    files, overrides = files_and_overrides(parsed.config)
    config = load_run(files or [DEFAULT_RUN], overrides)
    from rich.console import Console

    from srpo_ray.reports.words import pairs_table, word_sets_yaml, words_table, write_study
    from srpo_ray.words.probe import parse_words, probe

    words = parse_words(parsed.words)
    images = Path(parsed.images) if parsed.images else None
    study = probe(config, parsed.reward, words, images=images, generate=parsed.generate, prompts=parsed.prompts)
    folder = Path(parsed.out) if parsed.out else Path(config.run_root) / f"words_{parsed.reward}"
    page = write_study(folder, study, parsed.typed)
    # Into a file or a pipe rich would print 80 columns, too few for the table.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(words_table(study))
    if study.pairs:
        console.print(pairs_table(study))
        print(f"suggested word sets:\n{word_sets_yaml(study)}")
    print(f"page: {page}")
    return 0
