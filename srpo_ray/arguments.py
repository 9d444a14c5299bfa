"""What the commands are given. Parsing imports nothing heavy, so `--help` answers at once."""

import argparse
import shlex
from collections.abc import Sequence

from srpo_ray.credentials import redact

DEFAULT_EXPERIMENTS = {
    "sweep": "configs/experiments/small_world_sweep.yaml",
    "compare": "configs/experiments/paper_table.yaml",
}
"""Command that runs an experiment -> file that it takes if none is given."""
DEFAULT_RUN = "configs/small_world.yaml"
LAST_JOB = "last"
_CONFIG = "CONFIG|KEY=VALUE"
_RL_GUIDANCE = "velocity base + W (tuned - base): 0 baseline, 1 tuned, above 1 beyond it"


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words after the program's name.

    Args:
        words: What was typed.

    Returns:
        The arguments of one command, its name as `command`, and what was typed as `typed`.
    """
    parser = argparse.ArgumentParser(prog="srpo-ray", description="Align FLUX with human preference by SRPO.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _train(commands.add_parser("train", help="train one run"))
    _encode(commands.add_parser("encode", help="compute text features of a config's prompts ahead of training"))
    _experiment(commands.add_parser("sweep", help="search settings of a method, train the best with several seeds"))
    comparison = "compare methods: search each, train with several seeds, and ablate one"
    _experiment(commands.add_parser("compare", help=comparison))
    _plan(commands.add_parser("plan", help="say what a run will hold, send and take, before anything is started"))
    _sample(commands.add_parser("sample", help="draw images with a trained run"))
    _evaluate(commands.add_parser("evaluate", help="compare a tuned model with the baseline one on the same noise"))
    _export(commands.add_parser("export", help="write a trained run for diffusers and ComfyUI, with a model card"))
    _replay(commands.add_parser("replay", help="send to MLflow what it could not take while a run went on"))
    _words(commands.add_parser("words", help="measure which control words a reward perceives, without training"))
    _watch_spot(commands.add_parser("watch-spot", help="drain the Ray node of a spot machine at the cloud's notice"))
    parsed = parser.parse_args(words)
    # Kept in reports, which people pass on.
    parsed.typed = redact(shlex.join([parser.prog, *words]))
    return parsed


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="+", metavar=_CONFIG, help="config files, then a.b=value; later ones win")
    _add_start(parser)


def _encode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="+", metavar=_CONFIG, help="config files, then a.b=value")
    parser.add_argument("--actors", type=int, metavar="N", help="processes (default: one per GPU of the cluster)")
    _add_start(parser)


def _experiment(parser: argparse.ArgumentParser) -> None:
    """Arguments of a command that runs an experiment file."""
    default = DEFAULT_EXPERIMENTS[parser.prog.rpartition(" ")[2]]
    parser.add_argument(
        "config",
        nargs="*",
        metavar="EXPERIMENT|KEY=VALUE",
        help=f"experiment file (default {default}), then a.b=value for its base config, experiment.a=value for itself",
    )
    parser.add_argument("--resume", metavar="DIR", help="resume the experiment in this folder")
    _add_start(parser)


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="+", metavar=_CONFIG, help="config files, then a.b=value")
    parser.add_argument("--gpu", metavar="NAME", help="kind of GPU, such as H100, A100-80GB or L40S")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="memory of one GPU (default: the named one's)")
    parser.add_argument("--tflops", type=float, help="measured TFLOP/s of one GPU (default: a share of the peak)")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="what one worker receives from the others")
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="trainers on one host (default 8)")
    parser.add_argument("--json", metavar="FILE", help="write every figure there too")


def _sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run")
    parser.add_argument("texts", nargs="*", metavar="PROMPT", help="prompts, each in quotes")
    parser.add_argument("--prompts", metavar="FILE", help="prompt file, in place of or after the prompts given here")
    parser.add_argument(
        "--out",
        metavar="PNG|DIR",
        help="grid of all images, or folder of images and contact sheets (default: RUN/samples.png for few, RUN/"
        "samples for many)",
    )
    parser.add_argument("--rl-guidance", type=float, default=1.0, metavar="W", help=f"{_RL_GUIDANCE} (default 1)")
    _add_sampling(parser)
    parser.set_defaults(seed=0)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run")
    parser.add_argument("--prompts", metavar="FILE", help="prompt file (default: the run's evaluation prompts)")
    parser.add_argument("--num-prompts", type=int, metavar="N", help="use the first N prompts only")
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: RUN/evaluation)")
    parser.add_argument(
        "--rl-guidance", type=float, nargs="+", default=(), metavar="W", help=f"also draw at these: {_RL_GUIDANCE}"
    )
    parser.add_argument("--against", metavar="RUN", help="compare with this run's tuned model, not the baseline one")
    _add_sampling(parser)


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run")
    parser.add_argument("--out", metavar="DIR", help="folder to write (default: RUN/export)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the weights (default: the run's model.dtype)"
    )


def _replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run")
    parser.add_argument("--uri", help="where the MLflow store is now (default: where it was)")


def _words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="*", metavar=_CONFIG, help=f"config files (default {DEFAULT_RUN}), then a.b=value"
    )
    parser.add_argument("--reward", required=True, metavar="NAME", help="a trained or held-out reward of the config")
    parser.add_argument("--words", required=True, metavar="WORDS", help="word,word,... or a .txt file of one a line")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--images", metavar="DIR", help="try words on these images; captions: .txt or .json beside")
    images.add_argument("--generate", type=int, metavar="N", help="try words on N images of the config's model")
    parser.add_argument("--prompts", metavar="FILE", help="prompt file in which to count the words")
    parser.add_argument("--out", metavar="DIR", help="folder for page, JSON and CSV (default: RUN_ROOT/words_NAME)")


def _watch_spot(parser: argparse.ArgumentParser) -> None:
    clouds = ("auto", "aws", "gcp", "azure")
    parser.add_argument("--cloud", choices=clouds, default="auto", help="whose machine this is (default: ask each)")
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="S", help="seconds between two looks (default 2)"
    )
    parser.add_argument("--metadata-url", metavar="URL", help="metadata service (default: that of all three clouds)")
    parser.add_argument("--node-id", metavar="HEX", help="Ray's id of the node (default: the only one of this machine)")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    from_run = "default: as the run was evaluated"
    parser.add_argument("--samples-per-prompt", type=int, metavar="N", help="images per prompt, each from own noise")
    parser.add_argument("--seed", type=int, help=f"seed of the noise ({from_run}; sample: 0)")
    parser.add_argument("--steps", type=int, help=f"Euler steps ({from_run})")
    parser.add_argument("--guidance-scale", type=float, help=f"guidance embedding ({from_run})")
    parser.add_argument("--batch-size", type=int, metavar="N", help=f"images per call of a worker ({from_run})")
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes that draw (default: one per GPU)")
    parser.add_argument("--address", help="Ray cluster (`auto`, HOST:PORT); default RAY_ADDRESS, else this machine")


def _add_start(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that start something on Ray."""
    parser.add_argument("--address", help="Ray cluster (`auto`, HOST:PORT); default RAY_ADDRESS, else a local Ray")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    parser.add_argument(
        "--cluster", metavar="FILE|URL", help="run as a job there: the file given to `ray up`, or http://HOST:8265"
    )
    for option, what in (("--attach", "follow this job (default: the last), start none"), ("--stop", "stop this job")):
        parser.add_argument(option, nargs="?", const=LAST_JOB, metavar="JOB", help=f"with --cluster: {what}")
