"""`srpo-ray rank`: make a pair file from a model's own images, or from another pair file, ranked by reward models."""

import argparse
from dataclasses import replace
from pathlib import Path

from srpo_ray.cli.arguments import RL_GUIDANCE, add_sampling, contrast_weight, sampling_options

HELP = "rank sampled images, or those of a pair file, by the reward models to pairs"
_SAMPLING = (
    "prompts",
    "num_prompts",
    "rl_guidance",
    "samples_per_prompt",
    "seed",
    "resolution",
    "steps",
    "guidance_scale",
)
"""Arguments of sampled images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `rank`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RUN|CONFIG",
        help="folder of a run, whose tuned model samples; or config files and overrides, whose base model does; with"
        " --pairs, only the reward models are used",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the images and of pairs.jsonl")
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="sample nothing: rank the two images of each pair of this .jsonl file, which stay where they are",
    )
    parser.add_argument(
        "--keep-labels",
        action="store_true",
        help="with --pairs: keep the preferred images of the file, and leave out the pairs that the rewards contradict",
    )
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
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="write the confidence tanh(d / (2 T)) of a pair whose sums differ by d (default: no confidence)",
    )
    parser.add_argument("--rl-guidance", metavar="W", help=f"{RL_GUIDANCE} (default 1 if there is a tuned model)")
    add_sampling(parser)


def run(parsed: argparse.Namespace) -> int:
    """Rank sampled images or those of a pair file, and print the new file."""
    if parsed.pairs:
        return _rank_file(parsed)
    if parsed.keep_labels:
        raise ValueError("--keep-labels: expected --pairs with it, got none; name a pair file, or leave it out")
    options = sampling_options(parsed)
    from srpo_ray.inference.rank import rank_to_pairs

    made = rank_to_pairs(
        parsed.sources,
        Path(parsed.out),
        options=options if parsed.seed is not None else replace(options, seed=0),
        prompts=parsed.prompts,
        num_prompts=parsed.num_prompts,
        selection=parsed.select,
        min_gap=parsed.min_gap,
        temperature=parsed.temperature,
        rl_guidance=contrast_weight(parsed.rl_guidance) if parsed.rl_guidance else None,
    )
    left_out = made.prompts - made.pairs
    print(
        f"{made.file}: {made.pairs} pairs of {made.prompts} prompts; {left_out} without two images that differ enough"
    )
    return 0


def _rank_file(parsed: argparse.Namespace) -> int:
    given = [f"--{name.replace('_', '-')}" for name in _SAMPLING if getattr(parsed, name) is not None]
    if given:
        raise ValueError(
            f"--pairs: expected no option of sampled images with it, got {', '.join(given)}; leave out either"
        )
    options = sampling_options(parsed)
    from srpo_ray.inference.rank_file import rank_pair_file

    print(
        rank_pair_file(
            parsed.sources,
            Path(parsed.pairs),
            Path(parsed.out),
            options=options,
            selection=parsed.select,
            min_gap=parsed.min_gap,
            temperature=parsed.temperature,
            keep_labels=parsed.keep_labels,
        )
    )
    return 0
