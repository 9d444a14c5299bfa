"""`srpo-ray evaluate`: compare the tuned model of a run with its base model or another run; evaluate any model."""

import argparse
from pathlib import Path

from srpo_ray.cli.arguments import RL_GUIDANCE, add_contrast, add_sampling, contrast_weight, sampling_options

HELP = "compare a tuned model with its base model on the same prompts and noise, or evaluate a config's model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `evaluate`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RUN|CONFIG",
        help="folder of a run; or config files and overrides, whose base model is evaluated without a run",
    )
    parser.add_argument("--prompts", metavar="FILE", help="prompt file (default: the evaluation prompts of the config)")
    parser.add_argument("--num-prompts", type=int, metavar="N", help="use only the first N prompts")
    parser.add_argument(
        "--out", metavar="DIR", help="output folder (default: RUN/evaluation, or RUN_ROOT/NAME_untrained/evaluation)"
    )
    parser.add_argument("--rl-guidance", nargs="+", default=(), metavar="W", help=f"also evaluate these: {RL_GUIDANCE}")
    add_contrast(parser)
    parser.add_argument("--against", metavar="RUN", help="compare with the tuned model of this run, not the base model")
    parser.add_argument(
        "--held-out", metavar="FILE", help="take evaluation.held_out from this YAML file in place of the run's"
    )
    add_sampling(parser)


def run(parsed: argparse.Namespace) -> int:
    """Draw and score the models' images, print the table, and write the page."""
    options = sampling_options(parsed)
    from srpo_ray.inference.evaluate import evaluate_run
    from srpo_ray.inference.source import open_source
    from srpo_ray.reports.terminal import print_report

    source = open_source(parsed.sources)
    report, page = evaluate_run(
        source,
        Path(parsed.out) if parsed.out else source.folder.path / "evaluation",
        options=options,
        prompts=parsed.prompts,
        num_prompts=parsed.num_prompts,
        rl_guidance=[contrast_weight(text) for text in parsed.rl_guidance],
        contrast_with=Path(parsed.contrast_with) if parsed.contrast_with else None,
        contrast_text=parsed.contrast_text,
        against=Path(parsed.against) if parsed.against else None,
        held_out=parsed.held_out,
        command=parsed.typed,
    )
    print_report(report)
    print(f"page: {page}")
    return 0
