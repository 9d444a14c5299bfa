"""What is made of a finished run: pictures, a comparison with the untrained model, weights for others."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srpo_ray.inference.job import SamplingOptions


def sample(parsed: argparse.Namespace) -> int:
    """`sample`: pictures of prompts."""
    from srpo_ray.data.prompts import check_texts, load_prompts

    check_texts(parsed.texts, "the command line", "PROMPT")
    texts = [*parsed.texts, *(load_prompts(parsed.prompts, "--prompts") if parsed.prompts else ())]
    if not texts:
        raise ValueError("expected something to draw, got no prompt; give prompts in quotes or --prompts FILE")
    options = _sampling_options(parsed)
    from srpo_ray.inference.sample import sample_run

    out = Path(parsed.out) if parsed.out else None
    print(sample_run(Path(parsed.run_dir), texts, out, options=options, rl_guidance=parsed.rl_guidance))
    return 0


def evaluate(parsed: argparse.Namespace) -> int:
    """`evaluate`: tuned against untrained on the same noise."""
    options = _sampling_options(parsed)
    from srpo_ray.inference.evaluate import evaluate_run
    from srpo_ray.reports.terminal import print_report

    report, page = evaluate_run(
        Path(parsed.run_dir),
        Path(parsed.out) if parsed.out else Path(parsed.run_dir) / "evaluation",
        options=options,
        prompts=parsed.prompts,
        num_prompts=parsed.num_prompts,
        rl_guidance=parsed.rl_guidance,
        against=Path(parsed.against) if parsed.against else None,
        command=parsed.typed,
    )
    print_report(report)
    print(f"page: {page}")
    return 0


def _sampling_options(parsed: argparse.Namespace) -> "SamplingOptions":
    from srpo_ray.inference.job import SamplingOptions

    return SamplingOptions(
        samples_per_prompt=parsed.samples_per_prompt,
        num_steps=parsed.steps,
        guidance_scale=parsed.guidance_scale,
        seed=parsed.seed,
        batch_size=parsed.batch_size,
        num_workers=parsed.num_workers,
        address=parsed.address,
    )


def export(parsed: argparse.Namespace) -> int:
    """`export`: weights for diffusers and ComfyUI."""
    import torch

    from srpo_ray.training.export import export_run

    out = Path(parsed.out) if parsed.out else Path(parsed.run_dir) / "export"
    dtype = getattr(torch, parsed.dtype) if parsed.dtype else None
    print(*export_run(Path(parsed.run_dir), out, dtype), sep="\n")
    return 0


def replay(parsed: argparse.Namespace) -> int:
    """`replay`: what MLflow did not get while the run went on."""
    from srpo_ray.tracking.run import replay_run
    from srpo_ray.training.run_folder import RunFolder

    folder = RunFolder(parsed.run_dir)
    print(f"{replay_run(folder.tracker_record, folder.tracker_spool, parsed.uri)} records sent")
    return 0
