"""`srpo-ray sample`: draw images of prompts with a trained run."""

import argparse
from pathlib import Path

from srpo_ray.cli.arguments import RL_GUIDANCE, add_contrast, add_sampling, contrast_weight, sampling_options

HELP = "draw images with a trained run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `sample`."""
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run")
    parser.add_argument("texts", nargs="*", metavar="PROMPT", help="prompts, each in quotes")
    parser.add_argument("--prompts", metavar="FILE", help="prompt file; its prompts follow those given here")
    parser.add_argument(
        "--out",
        metavar="PNG|DIR",
        help="one grid of all images (PNG), or a folder of images and contact sheets (default: RUN/samples.png for few"
        " images, RUN/samples for many)",
    )
    parser.add_argument("--rl-guidance", default="1", metavar="W", help=f"{RL_GUIDANCE} (default 1)")
    add_contrast(parser)
    add_sampling(parser)
    parser.set_defaults(seed=0)


def run(parsed: argparse.Namespace) -> int:
    """Draw the images and print where they are."""
    from srpo_ray.data.prompt_rows import PromptRows
    from srpo_ray.data.prompts import check_texts, read_prompts

    check_texts(parsed.texts, "the command line", "PROMPT")
    rows = PromptRows.plain(parsed.texts)
    if parsed.prompts:
        rows += read_prompts(parsed.prompts, "--prompts").rows
    if not len(rows):
        raise ValueError("expected something to draw, got no prompt; give prompts in quotes or --prompts FILE")
    options = sampling_options(parsed)
    from srpo_ray.inference.sample import sample_run

    path = sample_run(
        Path(parsed.run_dir),
        rows,
        Path(parsed.out) if parsed.out else None,
        options=options,
        rl_guidance=contrast_weight(parsed.rl_guidance),
        contrast_with=Path(parsed.contrast_with) if parsed.contrast_with else None,
    )
    print(path)
    return 0
