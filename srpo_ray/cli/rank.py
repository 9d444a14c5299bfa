"""`srpo-ray rank`: make a pair file from a model's own images, ranked by reward models."""

import argparse
from pathlib import Path

from srpo_ray.cli.arguments import RL_GUIDANCE, add_sampling, contrast_weight, sampling_options

HELP = "sample images and rank them by the reward models to pairs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `rank`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RUN|CONFIG",
        help="folder of a run, whose tuned model samples; or config files and overrides, whose base model does",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the images and of pairs.jsonl")
    parser.add_argument("--prompts", metavar="FILE", help="prompt file (default: the training prompts)")
    parser.add_argument("--num-prompts", type=int, metavar="N", help="use only the first N prompts")
    parser.add_argument(
        "--select",
        default="best_worst",
        choices=("best_worst", "vote", "dominance"),
        help="highest and lowest sum of the rewards; most and fewest votes of the models; or the largest difference"
        " that no model contradicts (default best_worst)",
    )
    parser.add_argument(
        "--min-gap", type=float, default=0.0, metavar="D", help="least difference of the sums of a pair (default 0)"
    )
    parser.add_argument("--rl-guidance", metavar="W", help=f"for a run: {RL_GUIDANCE} (default 1)")
    add_sampling(parser)
    parser.set_defaults(seed=0)


def run(parsed: argparse.Namespace) -> int:
    """Sample, score and choose, and print the file."""
    options = sampling_options(parsed)
    from srpo_ray.inference.rank import rank_to_pairs

    made = rank_to_pairs(
        parsed.sources,
        Path(parsed.out),
        options=options,
        prompts=parsed.prompts,
        num_prompts=parsed.num_prompts,
        selection=parsed.select,
        min_gap=parsed.min_gap,
        rl_guidance=contrast_weight(parsed.rl_guidance) if parsed.rl_guidance else None,
    )
    left_out = made.prompts - made.pairs
    print(
        f"{made.file}: {made.pairs} pairs of {made.prompts} prompts; {left_out} without two images that differ enough"
    )
    return 0
