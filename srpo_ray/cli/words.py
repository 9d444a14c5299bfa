"""`srpo-ray words`: rank control words by how strongly a reward model perceives them."""

import argparse
from pathlib import Path

from srpo_ray.cli.arguments import add_config, files_and_overrides

HELP = "measure which control words a reward perceives, without training"
DEFAULT = "configs/small_world.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `words`."""
    add_config(parser, DEFAULT)
    parser.add_argument("--reward", required=True, metavar="NAME", help="a trained or held-out reward of the config")
    parser.add_argument(
        "--words", required=True, metavar="WORDS", help="words separated by commas, or a .txt file with one per line"
    )
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--images", metavar="DIR", help="test words on these images; captions are .txt or .json files beside them"
    )
    images.add_argument("--generate", type=int, metavar="N", help="test words on N images of the config's model")
    parser.add_argument("--prompts", metavar="FILE", help="prompt file in which to count the words")
    parser.add_argument("--out", metavar="DIR", help="folder for page, JSON and CSV (default: RUN_ROOT/words_NAME)")


def run(parsed: argparse.Namespace) -> int:
    """Rank the words, suggest word sets, and write the page."""
    from srpo_ray.config import load_run

    files, overrides = files_and_overrides(parsed.config)
    config = load_run(files or [DEFAULT], overrides)
    from srpo_ray.reports.files import write_report
    from srpo_ray.reports.grids import word_strips
    from srpo_ray.reports.terminal import print_report
    from srpo_ray.reports.words import word_sets_yaml, words_report
    from srpo_ray.words.probe import parse_words, probe

    words = parse_words(parsed.words)
    images = Path(parsed.images) if parsed.images else None
    word_probe = probe(config, parsed.reward, words, images=images, generate=parsed.generate, prompts=parsed.prompts)
    folder = Path(parsed.out) if parsed.out else Path(config.run_root) / f"words_{parsed.reward}"
    report = words_report(word_probe, word_strips(word_probe), parsed.typed)
    page = write_report(folder, report)
    print_report(report)
    if word_probe.pairs:
        print(f"suggested word sets:\n{word_sets_yaml(word_probe)}")
    print(f"page: {page}")
    return 0
