"""Argument groups that several commands share, and their conversion to the values that the package takes."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srpo_ray.config import RunConfig
    from srpo_ray.inference.job import SamplingOptions
    from srpo_ray.models.contrast import ContrastWeight

CONFIG = "CONFIG|KEY=VALUE"
_OVERRIDE = re.compile(r"[a-z_]\w*(\.\w+)*=")
RL_GUIDANCE = (
    "velocity base + W (tuned - base): 0 is the base model, 1 the tuned one, above 1 extrapolates; 1,1.5@0.6 is 1.5 at"
    " sigmas of at most 0.6"
)


def add_config(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the config files and overrides of one run.

    Args:
        parser: Parser of the command.
        default: File that is read if none is given. None requires one.
    """
    which = "config files" if default is None else f"config files (default {default})"
    parser.add_argument(
        "config",
        nargs="+" if default is None else "*",
        metavar=CONFIG,
        help=f"{which}, then overrides such as a.b=value; later ones win",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling images."""
    from_run = "default: the evaluation setting of the run or config"
    parser.add_argument("--samples-per-prompt", type=int, metavar="N", help="images per prompt, each from other noise")
    parser.add_argument("--seed", type=int, help=f"seed of the noise ({from_run}; sample: 0)")
    parser.add_argument("--resolution", metavar="SIZE", help=f"1024 for squares, or HEIGHTxWIDTH ({from_run})")
    parser.add_argument("--steps", type=int, help=f"number of Euler steps ({from_run})")
    parser.add_argument("--guidance-scale", type=float, help=f"guidance scale ({from_run})")
    parser.add_argument("--batch-size", type=int, metavar="N", help=f"images per call of a worker ({from_run})")
    parser.add_argument("--num-workers", type=int, metavar="N", help="worker processes (default: one per GPU)")
    add_address(parser, "this machine")


def add_contrast(parser: argparse.ArgumentParser) -> None:
    """Add the other model of `--rl-guidance`, and the text that it reads."""
    parser.add_argument(
        "--contrast-with",
        metavar="RUN|LORA",
        help="the tuned model of this run, or the pipeline with this LoRA, replaces the base model in --rl-guidance",
    )
    parser.add_argument(
        "--contrast-text",
        type=float,
        default=1.0,
        metavar="S",
        help="text of the base model, or of the other run, in --rl-guidance: features empty + S (prompt - empty); 1 is"
        " the prompt (default), 0 the empty prompt, -0.5 that of CHATS",
    )


def contrast_weight(text: str) -> "ContrastWeight":
    """Weight of `--rl-guidance`.

    Raises:
        ValueError: As `ContrastWeight.parse`.
    """
    from srpo_ray.models.contrast import ContrastWeight

    return ContrastWeight.parse("--rl-guidance", text)


def add_address(parser: argparse.ArgumentParser, fallback: str) -> None:
    """Add the address of the Ray cluster; `fallback` names what is used without one."""
    parser.add_argument(
        "--address", help=f"Ray cluster: `auto` or HOST:PORT (default: RAY_ADDRESS, without it {fallback})"
    )


def sampling_options(parsed: argparse.Namespace) -> "SamplingOptions":
    """Options of `add_sampling`."""
    from srpo_ray.config.size import parse_size
    from srpo_ray.inference.job import SamplingOptions

    return SamplingOptions(
        samples_per_prompt=parsed.samples_per_prompt,
        resolution=None if parsed.resolution is None else parse_size("--resolution", parsed.resolution),
        num_steps=parsed.steps,
        guidance_scale=parsed.guidance_scale,
        seed=parsed.seed,
        batch_size=parsed.batch_size,
        num_workers=parsed.num_workers,
        address=parsed.address,
    )


def files_and_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into config files and `a.b=value` overrides."""
    files = [word for word in words if "=" not in word]
    return files, [word for word in words if "=" in word]


def split_source(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into the source of a model and the prompts that follow it.

    Args:
        words: Folder of a run, then prompts; or config files (`.yaml`, `.yml`) and overrides (`a.b=value`), then
            prompts.
    """
    source = list(words[:1])
    if not source or Path(source[0]).is_dir():
        return source, list(words[1:])
    for word in words[1:]:
        if not (Path(word).suffix in (".yaml", ".yml") or _OVERRIDE.match(word)):
            break
        source.append(word)
    return source, list(words[len(source) :])


def report_text_issues(config: "RunConfig") -> None:
    """Check the inputs of a run, and print which prompts and images are left out, repeated or truncated."""
    from srpo_ray.launch.preflight import check_inputs, text_notes

    check_inputs(config)
    for note in text_notes(config):
        print_note(note)


def print_note(note: str) -> None:
    """Print a note on the inputs of a run."""
    print(f"srpo-ray: {note}", file=sys.stderr)
