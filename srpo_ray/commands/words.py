"""Which control words a reward perceives."""

import argparse
from pathlib import Path

from srpo_ray.arguments import DEFAULT_RUN
from srpo_ray.commands.inputs import files_and_overrides


def words(parsed: argparse.Namespace) -> int:
    """`words`: rank words, and suggest sets of them."""
    from srpo_ray.config import load_run

    files, overrides = files_and_overrides(parsed.config)
    config = load_run(files or [DEFAULT_RUN], overrides)
    from srpo_ray.reports.files import write_report
    from srpo_ray.reports.grids import word_strips
    from srpo_ray.reports.terminal import print_report
    from srpo_ray.reports.words import word_sets_yaml, words_report
    from srpo_ray.words.probe import parse_words, probe

    words = parse_words(parsed.words)
    images = Path(parsed.images) if parsed.images else None
    study = probe(config, parsed.reward, words, images=images, generate=parsed.generate, prompts=parsed.prompts)
    folder = Path(parsed.out) if parsed.out else Path(config.run_root) / f"words_{parsed.reward}"
    report = words_report(study, word_strips(study), parsed.typed)
    page = write_report(folder, report)
    print_report(report)
    if study.pairs:
        print(f"suggested word sets:\n{word_sets_yaml(study)}")
    print(f"page: {page}")
    return 0
