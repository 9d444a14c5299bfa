"""The commands. Nothing heavy is imported before it is needed, so a mistyped config is answered at once."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from srpo_ray.arguments import DEFAULT_RUN, DEFAULT_STUDY, DEFAULT_SWEEP, parse
from srpo_ray.credentials import redact
from srpo_ray.errors import RunFailedError, StudyInterruptedError

if TYPE_CHECKING:
    from srpo_ray.config import RunConfig, StudyConfig, SweepConfig
    from srpo_ray.inference.job import SamplingOptions

StudyT = TypeVar("StudyT", "SweepConfig", "StudyConfig")

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name; None takes the process's own.

    Returns:
        Exit code: 0 done, 1 the run could not go on, 2 an input cannot be used, 130 stopped by Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parse(words)
    try:
        if any(getattr(parsed, name, None) for name in ("cluster", "attach", "stop")) and not parsed.dry_run:
            return _on_cluster(parsed)
        return COMMANDS[parsed.command](parsed)
    except (ValueError, ConnectionError) as error:
        print(f"srpo-ray: {redact(error)}", file=sys.stderr)
        return BAD_INPUT
    except RunFailedError as error:
        print(f"srpo-ray: the run stopped: {redact(error)}", file=sys.stderr)
        return FAILED
    except StudyInterruptedError as error:
        print(f"srpo-ray: {error}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("srpo-ray: stopped; the same command goes on from the last checkpoint or shard", file=sys.stderr)
        return INTERRUPTED


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Config files and `a.b=value` overrides."""
    files = [word for word in words if "=" not in word]
    return files, [word for word in words if "=" in word]


def _train(parsed: argparse.Namespace) -> int:
    from srpo_ray.config import load_run, to_yaml

    files, overrides = _split(parsed.config)
    config = load_run(files, overrides)
    if parsed.dry_run:
        print(to_yaml(config), end="")
        return 0
    from srpo_ray.training.health import warnings
    from srpo_ray.training.launch import train

    _say_inputs(config)
    folder = train(config, parsed.address)
    for warning in warnings(folder):
        print(f"srpo-ray: {warning}", file=sys.stderr)
    print(f"run folder: {folder.path}\nbefore and after: {folder.gallery}")
    return 0


def _plan(parsed: argparse.Namespace) -> int:
    """Exit code 1 says that the run does not fit."""
    from srpo_ray.config import load_run

    config = load_run(*_split(parsed.config))
    from srpo_ray.planning.hardware import Hardware

    hardware = Hardware(parsed.gpu, parsed.gpu_memory, parsed.tflops, parsed.bandwidth, parsed.gpus_per_node)
    import json
    from dataclasses import asdict

    from srpo_ray.planning.advice import advise
    from srpo_ray.planning.plan import make_plan
    from srpo_ray.planning.report import plan_text

    plan = make_plan(config, hardware)
    advice = [] if plan.fits else advise(config, plan)
    print(plan_text(plan, advice), end="")
    if parsed.json:
        figures = {**plan.to_json(), "advice": [asdict(entry) for entry in advice]}
        Path(parsed.json).write_text(json.dumps(figures, indent=1) + "\n")
    return FAILED if plan.fits is False else 0


def _say_inputs(config: "RunConfig") -> None:
    """Say what of the prompts and pictures is left out, repeated or cut, before anything is started."""
    from srpo_ray.training.preflight import check_inputs, input_notes

    check_inputs(config)
    for note in input_notes(config):
        print(f"srpo-ray: {note}", file=sys.stderr)


def _encode(parsed: argparse.Namespace) -> int:
    from srpo_ray.config import ConfigError, load_run, to_yaml

    files, overrides = _split(parsed.config)
    config = load_run(files, overrides)
    if parsed.actors is not None and parsed.actors < 1:
        raise ConfigError(f"--actors: expected at least 1, got {parsed.actors}")
    if parsed.dry_run:
        print(to_yaml(config), end="")
        return 0
    from srpo_ray.training.encode import encode

    _say_inputs(config)
    found = encode(config, parsed.address, parsed.actors)
    done = f"{found.encoded} encoded now" if found.encoded else "none is missing"
    print(f"text features of {found.texts} texts, {done}: {found.folder}")
    return 0


def _sweep(parsed: argparse.Namespace) -> int:
    from srpo_ray.config import SweepConfig, load_sweep

    sweep, base = _load_or_resume(parsed, SweepConfig, load_sweep, DEFAULT_SWEEP)
    if parsed.dry_run:
        return _print_configs("the sweep", sweep, base)
    from srpo_ray.tuning.sweep import run_sweep

    _say_inputs(base)
    report = run_sweep(sweep, base, parsed.address, _typed("experiments/sweep.py", parsed))
    print(f"report: {report}\nbest config: {report.with_name('best.yaml')}")
    return 0


def _study(parsed: argparse.Namespace) -> int:
    from srpo_ray.config import StudyConfig, load_study

    study, base = _load_or_resume(parsed, StudyConfig, load_study, DEFAULT_STUDY)
    if parsed.dry_run:
        return _print_configs("the study", study, base)
    from srpo_ray.tuning.study import run_study

    _say_inputs(base)
    report = run_study(study, base, parsed.address, _typed("experiments/paper_table.py", parsed))
    print(f"report: {report}")
    return 0


def _typed(script: str, parsed: argparse.Namespace) -> str:
    """The command that the report shows."""
    return redact(shlex.join(["python", script, *parsed.config]))


def _load_or_resume(
    parsed: argparse.Namespace,
    schema: type[StudyT],
    load: "Callable[[str, Sequence[str]], tuple[StudyT, RunConfig]]",
    default: str,
) -> "tuple[StudyT, RunConfig]":
    """The configs of a sweep or study, from its file and overrides or from the folder that it was begun in."""
    from srpo_ray.config import ConfigError

    files, overrides = _split(parsed.config)
    if parsed.resume:
        if files or overrides:
            raise ConfigError("--resume takes the configs in its folder, so give no file or override beside it")
        from srpo_ray.tuning.folder import load_study_folder

        return load_study_folder(Path(parsed.resume), schema)
    if len(files) > 1:
        raise ConfigError(f"expected one file, got {len(files)}: {', '.join(files)}; give values as a.b=value")
    return load(files[0] if files else default, overrides)


def _print_configs(what: str, config: "SweepConfig | StudyConfig", base: "RunConfig") -> int:
    from srpo_ray.config import to_yaml

    print(f"# {what}\n{to_yaml(config)}---\n# the config that its runs start from\n{to_yaml(base)}", end="")
    return 0


def _on_cluster(parsed: argparse.Namespace) -> int:
    """Load what the command would, so that a mistake is answered here, then run it as a job there."""
    from srpo_ray.config import ConfigError

    if not parsed.cluster:
        raise ConfigError("expected --cluster beside --attach or --stop, got none; a job is one of a cluster")
    if parsed.address:
        raise ConfigError("expected --cluster or --address, got both; --address is for a node of the cluster itself")
    folder = None if parsed.attach or parsed.stop else _results_folder(parsed)
    from srpo_ray.cluster.command import run_on_cluster

    return run_on_cluster(parsed, folder)


def _results_folder(parsed: argparse.Namespace) -> str | None:
    from srpo_ray.config import StudyConfig, SweepConfig, load_run, load_study, load_sweep

    if getattr(parsed, "resume", None):
        return parsed.resume
    if parsed.command == "sweep":
        study, base = _load_or_resume(parsed, SweepConfig, load_sweep, DEFAULT_SWEEP)
    elif parsed.command == "study":
        study, base = _load_or_resume(parsed, StudyConfig, load_study, DEFAULT_STUDY)
    else:
        study = base = load_run(*_split(parsed.config))
    return None if parsed.command == "encode" else f"{base.run_root}/{study.name}"


def _sample(parsed: argparse.Namespace) -> int:
    from srpo_ray.data.prompts import load_prompts

    texts = [*parsed.texts, *(load_prompts(parsed.prompts, "--prompts") if parsed.prompts else ())]
    if not texts:
        raise ValueError("expected something to draw, got no prompt; give prompts in quotes or --prompts FILE")
    options = _sampling_options(parsed)
    from srpo_ray.inference.sample import sample_run

    out = Path(parsed.out) if parsed.out else None
    print(sample_run(Path(parsed.run_dir), texts, out, options=options, rl_guidance=parsed.rl_guidance))
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    options = _sampling_options(parsed)
    from srpo_ray.evaluation.paired_report import evaluation_table
    from srpo_ray.inference.evaluate import evaluate_run

    evaluation, page = evaluate_run(
        Path(parsed.run_dir),
        Path(parsed.out) if parsed.out else Path(parsed.run_dir) / "evaluation",
        options=options,
        prompts=parsed.prompts,
        num_prompts=parsed.num_prompts,
        rl_guidance=parsed.rl_guidance,
        against=Path(parsed.against) if parsed.against else None,
        command=parsed.typed,
    )
    # Into a file or a pipe rich would print 80 columns, too few for the table.
    Console(width=None if sys.stdout.isatty() else 120).print(evaluation_table(evaluation))
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


def _export(parsed: argparse.Namespace) -> int:
    import torch

    from srpo_ray.training.export import export_run

    out = Path(parsed.out) if parsed.out else Path(parsed.run_dir) / "export"
    dtype = getattr(torch, parsed.dtype) if parsed.dtype else None
    print(*export_run(Path(parsed.run_dir), out, dtype), sep="\n")
    return 0


def _replay(parsed: argparse.Namespace) -> int:
    from srpo_ray.tracking.run import replay_run
    from srpo_ray.training.run_folder import RunFolder

    folder = RunFolder(parsed.run_dir)
    print(f"{replay_run(folder.tracker_record, folder.tracker_spool, parsed.uri)} records sent")
    return 0


def _words(parsed: argparse.Namespace) -> int:
    from srpo_ray.config import load_run

    files, overrides = _split(parsed.config)
    config = load_run(files or [DEFAULT_RUN], overrides)
    from rich.console import Console

    from srpo_ray.words.probe import parse_words, probe
    from srpo_ray.words.report import pairs_table, word_sets_yaml, words_table, write_study

    words = parse_words(parsed.words)
    images = Path(parsed.images) if parsed.images else None
    study = probe(config, parsed.reward, words, images=images, generate=parsed.generate, prompts=parsed.prompts)
    folder = Path(parsed.out) if parsed.out else Path(config.run_root) / f"words_{parsed.reward}"
    page = write_study(folder, study, parsed.typed)
    # Into a file or a pipe rich would print 80 columns, too few for the table.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(words_table(study))
    if study.pairs:
        console.print(pairs_table(study))
        print(f"suggested word sets:\n{word_sets_yaml(study)}")
    print(f"page: {page}")
    return 0


def _watch_spot(parsed: argparse.Namespace) -> int:
    import logging

    from srpo_ray.cluster.metadata import DEFAULT_URL, find_metadata
    from srpo_ray.cluster.spot import find_node, watch

    if parsed.interval <= 0:
        raise ValueError(f"--interval: expected seconds above 0, got {parsed.interval:g}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s watch-spot: %(message)s")
    cloud, metadata = find_metadata(parsed.cloud, parsed.metadata_url or DEFAULT_URL)
    node = find_node(parsed.node_id)
    logging.info("watching for %s's notice; Ray node %s of %s", cloud, node.node_id, node.gcs_address)
    watch(metadata, node, parsed.interval)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "encode": _encode,
    "sweep": _sweep,
    "study": _study,
    "plan": _plan,
    "sample": _sample,
    "evaluate": _evaluate,
    "export": _export,
    "replay": _replay,
    "words": _words,
    "watch-spot": _watch_spot,
}


if __name__ == "__main__":
    sys.exit(main())
