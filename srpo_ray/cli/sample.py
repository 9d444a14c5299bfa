"""`srpo-ray sample`: draw images of prompts with a trained run, or with the model of a config."""

import argparse
from pathlib import Path

from srpo_ray.cli.arguments import (
    RL_GUIDANCE,
    add_contrast,
    add_sampling,
    contrast_weight,
    sampling_options,
    split_source,
)

HELP = "draw images with a trained run, or with the model of a config"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `sample`."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|CONFIG PROMPT",
        help="folder of a run, or config files (.yaml) and overrides (a.b=value) of a base model; then prompts, each in"
        " quotes",
    )
    parser.add_argument("--prompts", metavar="FILE", help="prompt file; its prompts follow those given here")
    parser.add_argument(
        "--out",
        metavar="PNG|DIR",
        help="one grid of all images (PNG), or a folder of images and contact sheets (default: RUN/samples.png for few"
        " images, RUN/samples for many; RUN_ROOT/NAME_untrained in place of RUN for a config)",
    )
    parser.add_argument("--rl-guidance", metavar="W", help=f"{RL_GUIDANCE} (default: 1, if there is a tuned model)")
    add_contrast(parser)
    add_sampling(parser)
    parser.set_defaults(seed=0)


def run(parsed: argparse.Namespace) -> int:
    """Draw the images and print where they are."""
    from srpo_ray.data.prompt_rows import PromptRows
    from srpo_ray.data.prompts import check_texts, read_prompts

    source, texts = split_source(parsed.words)
    check_texts(texts, "the command line", "PROMPT")
    rows = PromptRows.plain(texts)
    if parsed.prompts:
        rows += read_prompts(parsed.prompts, "--prompts").rows
    if not len(rows):
        raise ValueError("expected something to draw, got no prompt; give prompts in quotes or --prompts FILE")
    options = sampling_options(parsed)
    from srpo_ray.inference.sample import sample_run
    from srpo_ray.inference.source import open_source

    path = sample_run(
        open_source(source),
        rows,
        Path(parsed.out) if parsed.out else None,
        options=options,
        rl_guidance=contrast_weight(parsed.rl_guidance) if parsed.rl_guidance else None,
        contrast_with=Path(parsed.contrast_with) if parsed.contrast_with else None,
        contrast_text=parsed.contrast_text,
    )
    print(path)
    return 0
