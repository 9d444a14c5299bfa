"""`srpo-ray train`: train one run, or resume it."""

import argparse
import sys
from typing import TYPE_CHECKING

from srpo_ray.cli.arguments import add_config, files_and_overrides, print_note
from srpo_ray.cli.cluster_job import add_start, is_cluster_job, run_cluster_job
from srpo_ray.imports import large_imports

if TYPE_CHECKING:
    from srpo_ray.runs.folder import RunFolder

HELP = "train one run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `train`."""
    add_config(parser)
    add_start(parser)


def run(parsed: argparse.Namespace) -> int:
    """Train a run to its end. A run whose folder has a checkpoint resumes from it."""
    if is_cluster_job(parsed):
        return run_cluster_job(parsed, _results_folder)
    with large_imports():
        from srpo_ray.config import load_run, to_yaml

    config = load_run(*files_and_overrides(parsed.config))
    if parsed.dry_run:
        print(to_yaml(config), end="")
        return 0
    with large_imports():
        from srpo_ray.launch import train as launch
        from srpo_ray.runs.warnings import warnings
        from srpo_ray.search.run_page import PAGE, write_run_page

    folder = launch.train(config, parsed.address, print_note, write_run_page)
    for warning in warnings(folder):
        print(f"srpo-ray: {warning}", file=sys.stderr)
    for line in _test_lines(folder):
        print(line)
    for line in _profile_lines(folder):
        print(line)
    print(f"run folder: {folder.path}\nbefore and after: {folder.gallery}")
    if (folder.path / PAGE).exists():
        print(f"report: {folder.path / PAGE}")
    if config.tracking.register_as:
        from srpo_ray.inference.register import register_run

        print(register_run(config, folder.path, {}) or "registered: nothing")
    return 0


def _test_lines(folder: "RunFolder") -> list[str]:
    """Held-out scores of the base model and of the chosen weights on the test prompts; none without a test."""
    from srpo_ray.evaluation.numbers import number, signed
    from srpo_ray.runs.folder import read_test_means

    means = read_test_means(folder)
    if not means or means[0]["update"] != 0:
        return []
    base, tuned = means[0], means[-1]
    return [
        f"test prompts, weights of update {tuned['update']}: {name} {number(base[name])} -> {number(tuned[name])}"
        f" ({signed(tuned[name] - base[name])})"
        for name in base
        if name.startswith("evaluator/")
    ]


def _profile_lines(folder: "RunFolder") -> list[str]:
    """Location of the traces of profiled updates; none without them."""
    traces = sorted(folder.profile.glob("update_*.json.gz"))
    if not traces:
        return []
    names = ", ".join(trace.name for trace in traces)
    return [f"profile: {names} in {folder.profile}; open it in https://ui.perfetto.dev or chrome://tracing"]


def _results_folder(parsed: argparse.Namespace) -> str:
    from srpo_ray.config import load_run

    config = load_run(*files_and_overrides(parsed.config))
    return f"{config.run_root}/{config.name}"
