"""`srpo-ray export`: write the weights of a trained run for diffusers and ComfyUI."""

import argparse
from pathlib import Path

HELP = "write a trained run for diffusers and ComfyUI, with a model card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `export`."""
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run")
    parser.add_argument("--out", metavar="DIR", help="output folder (default: RUN/export)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="data type of the weights (default: the run's model.dtype)"
    )


def run(parsed: argparse.Namespace) -> int:
    """Export the weights and print the files."""
    import torch

    from srpo_ray.inference.export import export_run

    out = Path(parsed.out) if parsed.out else Path(parsed.run_dir) / "export"
    dtype = getattr(torch, parsed.dtype) if parsed.dtype else None
    print(*export_run(Path(parsed.run_dir), out, dtype), sep="\n")
    return 0
