"""The command line. Parsing imports nothing heavy, so `--help` and a mistyped config answer at once."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from srpo_ray.errors import RunFailedError, StudyInterruptedError

if TYPE_CHECKING:
    from srpo_ray.config import RunConfig, StudyConfig, SweepConfig

StudyT = TypeVar("StudyT", "SweepConfig", "StudyConfig")

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
DEFAULT_SWEEP = "configs/sweep/small_world.yaml"
DEFAULT_STUDY = "configs/study/paper_table.yaml"
DEFAULT_RUN = "configs/small_world.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name; None takes the process's own.

    Returns:
        Exit code: 0 done, 1 the run could not go on, 2 an input cannot be used, 130 stopped by Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser().parse_args(words)
    parsed.command = shlex.join(["srpo-ray", *words])
    try:
        return parsed.run(parsed)
    except (ValueError, ConnectionError) as error:
        print(f"srpo-ray: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunFailedError as error:
        print(f"srpo-ray: the run stopped: {error}", file=sys.stderr)
        return FAILED
    except StudyInterruptedError as error:
        print(f"srpo-ray: {error}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("srpo-ray: stopped; the same command goes on from the last checkpoint or shard", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="srpo-ray", description="Align FLUX with human preference by SRPO.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train one run")
    train.add_argument("config", nargs="+", metavar="CONFIG|KEY=VALUE", help="config files, then a.b=value")
    _add_shared(train)
    train.set_defaults(run=_train)

    encode = commands.add_parser("encode", help="compute text features of a config's prompts ahead of training")
    encode.add_argument("config", nargs="+", metavar="CONFIG|KEY=VALUE", help="config files, then a.b=value")
    encode.add_argument("--actors", type=int, metavar="N", help="processes (default: one per GPU of the cluster)")
    _add_shared(encode)
    encode.set_defaults(run=_encode)

    for name, does, default, run in (
        ("sweep", "search settings, compare, report", DEFAULT_SWEEP, _sweep),
        ("study", "tune methods, train each with several seeds, take one apart", DEFAULT_STUDY, _study),
    ):
        several = commands.add_parser(name, help=does)
        several.add_argument(
            "config",
            nargs="*",
            metavar=f"{name.upper()}|KEY=VALUE",
            help=f"{name} file (default {default}), then a.b=value for its base config or {name}.a=value for itself",
        )
        several.add_argument("--resume", metavar="DIR", help=f"go on with the {name} in this folder")
        _add_shared(several)
        several.set_defaults(run=run)

    sample = commands.add_parser("sample", help="draw pictures with a trained run")
    sample.add_argument("run_dir", metavar="RUN", help="folder of the run")
    sample.add_argument("prompts", nargs="+", metavar="PROMPT", help="prompts, each in quotes")
    sample.add_argument("--out", metavar="PNG", help="picture to write (default: RUN/samples.png)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    sample.add_argument("--steps", type=int, default=20, help="Euler steps (default 20)")
    sample.add_argument("--guidance-scale", type=float, default=3.5, help="guidance (default 3.5)")
    sample.set_defaults(run=_sample)

    export = commands.add_parser("export", help="write a trained run for diffusers and ComfyUI, with a model card")
    export.add_argument("run_dir", metavar="RUN", help="folder of the run")
    export.add_argument("--out", metavar="DIR", help="folder to write (default: RUN/export)")
    export.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the weights (default: the run's model.dtype)"
    )
    export.set_defaults(run=_export)

    words = commands.add_parser("words", help="measure which control words a reward perceives, without training")
    words.add_argument(
        "config", nargs="*", metavar="CONFIG|KEY=VALUE", help=f"config files (default {DEFAULT_RUN}), then a.b=value"
    )
    words.add_argument("--reward", required=True, metavar="NAME", help="a trained or held-out reward of the config")
    words.add_argument("--words", required=True, metavar="WORDS", help="word,word,... or a .txt file of one a line")
    pictures = words.add_mutually_exclusive_group()
    pictures.add_argument("--images", metavar="DIR", help="try words on these pictures; captions: .txt beside them")
    pictures.add_argument("--generate", type=int, metavar="N", help="try words on N pictures of the config's model")
    words.add_argument("--prompts", metavar="FILE", help="prompt file in which to count the words")
    words.add_argument("--out", metavar="DIR", help="folder for page, JSON and CSV (default: RUN_ROOT/words_NAME)")
    words.set_defaults(run=_words)
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", help="Ray cluster (`auto`, HOST:PORT); default RAY_ADDRESS, else a local Ray")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")


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
    report = run_sweep(sweep, base, parsed.address, shlex.join(["python", "experiments/sweep.py", *parsed.config]))
    print(f"report: {report}\nbest config: {report.with_name('best.yaml')}")
    return 0


def _study(parsed: argparse.Namespace) -> int:
    from srpo_ray.config import StudyConfig, load_study

    study, base = _load_or_resume(parsed, StudyConfig, load_study, DEFAULT_STUDY)
    if parsed.dry_run:
        return _print_configs("the study", study, base)
    from srpo_ray.tuning.study import run_study

    _say_inputs(base)
    report = run_study(
        study, base, parsed.address, shlex.join(["python", "experiments/paper_table.py", *parsed.config])
    )
    print(f"report: {report}")
    return 0


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


def _sample(parsed: argparse.Namespace) -> int:
    from srpo_ray.training.sample import sample_run

    out = Path(parsed.out) if parsed.out else Path(parsed.run_dir) / "samples.png"
    print(
        sample_run(
            Path(parsed.run_dir),
            parsed.prompts,
            out,
            seed=parsed.seed,
            num_steps=parsed.steps,
            guidance_scale=parsed.guidance_scale,
        )
    )
    return 0


def _export(parsed: argparse.Namespace) -> int:
    import torch

    from srpo_ray.training.export import export_run

    out = Path(parsed.out) if parsed.out else Path(parsed.run_dir) / "export"
    dtype = getattr(torch, parsed.dtype) if parsed.dtype else None
    print(*export_run(Path(parsed.run_dir), out, dtype), sep="\n")
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
    page = write_study(folder, study, parsed.command)
    # Into a file or a pipe rich would print 80 columns, too few for the table.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(words_table(study))
    if study.pairs:
        console.print(pairs_table(study))
        print(f"suggested word sets:\n{word_sets_yaml(study)}")
    print(f"page: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
