"""Does the probe's ranking of words say which of them steer a training?

python experiments/word_steering.py [--words detailed,flat,...] [--seeds 0] [--updates 15] [--out runs/word_steering]

Each word is the only positive word of a short SRPO run against one neutral word. Afterwards the same prompts and noise
are sampled with the baseline and the trained weights. Steering is how far the images moved:

- truth: along the word's axis as the probe found it, with its sign, in standard deviations of that attribute over the
  rendered images;
- held_out: mean of score("<word>. <caption>") - score("<caption>") by the held-out reward, in standard deviations of
  its plain score over the rendered images.

Runs that are finished are not repeated, so a stopped experiment continues with the same command.
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from torch import Tensor

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.files import write_text
from srpo_ray.launch.fit import fit
from srpo_ray.launch.preflight import check_inputs, open_run_folder
from srpo_ray.launch.session import ray_session
from srpo_ray.launch.train import reward_pool
from srpo_ray.reports.charts import Dot, Scatter
from srpo_ray.reports.files import write_report
from srpo_ray.reports.report import Charts, Column, Report, Row, Section, Table, Text
from srpo_ray.reports.terminal import print_report
from srpo_ray.reports.words_tables import axis_text
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.trained import read_trained
from srpo_ray.search.publish import hardware
from srpo_ray.tracking.runs import git_commit
from srpo_ray.words.images import ProbeImages, generated, rendered
from srpo_ray.words.probe import RENDERED, WordProbe, parse_words, read_scores, score_words
from srpo_ray.words.rank_correlation import bootstrap_interval, spearman

WORDS = "detailed,intricate,flat,vivid,pale,bright,dark,realistic,cartoon,painting,anime,cyberpunk"
TRAINED, HELD_OUT = "preference", "held_out"
MEASURES = ("truth", "held_out")
SAMPLED = 64
"""Images that steering is measured on: the evaluation prompts, two noises each."""
PREDICTORS = ("score", "strength", "cleanness", "spread")


@dataclass(frozen=True)
class Yardstick:
    """Scales of steering: the probe of the trained reward, and units from the rendered images."""

    found: WordProbe
    held_out: LocalRewards
    attribute_units: dict[str, float]
    held_out_unit: float


def main() -> None:
    """Parse, train what is missing, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", default=WORDS)
    parser.add_argument("--neutral", default="picture", help="negative word of every run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--updates", type=int, default=15)
    parser.add_argument("--lr", type=float, default=8e-6)
    parser.add_argument("--out", type=Path, default=Path("runs/word_steering"))
    parsed = parser.parse_args()
    words = parse_words(parsed.words)
    base = load_run(["configs/small_world.yaml"])
    training = training_config(base, parsed)
    configs = {
        (word, seed): run_config(training, word, parsed.neutral, seed) for seed in parsed.seeds for word in words
    }
    train_missing(training, list(configs.values()))
    yardstick = make_yardstick(base, words)
    baseline = generated(base, SAMPLED)
    runs = []
    for (word, seed), config in configs.items():
        folder = RunFolder(Path(config.run_root) / config.name)
        runs.append({"word": word, "seed": seed, **steering(folder, base, word, baseline, yardstick)})
    report(parsed, yardstick.found, runs)


def make_yardstick(base: RunConfig, words: list[str]) -> Yardstick:
    """Probe the trained reward on rendered images, and measure by how much they differ."""
    images = rendered(RENDERED)
    models = [model for model in base.rewards.models if model.name == TRAINED]
    scorer = LocalRewards.load(models, base.evaluation.held_out)
    plain, differences = score_words(scorer, TRAINED, images, words)
    held_out_plain, _ = score_words(scorer, HELD_OUT, images, words[:1])
    return Yardstick(
        found=read_scores(TRAINED, words, plain, differences, images),
        held_out=scorer,
        attribute_units={name: float(values.std()) for name, values in images.attributes.items()},
        held_out_unit=float(held_out_plain.std()),
    )


def training_config(base: RunConfig, parsed: argparse.Namespace) -> RunConfig:
    """Short runs on the probed reward alone; the runs' own evaluation is made small, as steering is measured here."""
    trained = [model.model_dump(mode="json") for model in base.rewards.models if model.name == TRAINED]
    changes: dict[str, Any] = {
        "run_root": str(parsed.out / "runs"),
        "rewards.models": trained,
        "training.num_updates": parsed.updates,
        "training.optimizer.lr": parsed.lr,
        "training.num_threads": 1,
        "training.checkpoints_kept": 1,
        "evaluation.num_prompts": 2,
        "evaluation.samples_per_prompt": 1,
        "evaluation.num_steps": 4,
        "evaluation.gallery_size": 2,
        "evaluation.interval": parsed.updates,
    }
    return with_absolute_paths(apply(base, changes))


def run_config(training: RunConfig, word: str, neutral: str, seed: int) -> RunConfig:
    """One word against the neutral one."""
    name = f"{re.sub(r'[^A-Za-z0-9]+', '_', word)}_{seed}"
    sets = {"one": {"positive": [word], "negative": [neutral]}}
    return apply(training, {"name": name, "seed": seed, "word_sets": sets, "algorithm.control_words": "one"})


def train_missing(training: RunConfig, configs: list[RunConfig]) -> None:
    """Train what is not finished, on one pool."""
    check_inputs(training)
    commit = git_commit(Path.cwd())
    folders = [(config, open_run_folder(config, Path(config.run_root).resolve() / config.name)) for config in configs]
    missing = [(config, folder) for config, folder in folders if not folder.finished.exists()]
    if not missing:
        return
    with ray_session(None), reward_pool(training, "rewards_word_steering") as pool:
        for number, (config, folder) in enumerate(missing, 1):
            print(f"training {config.name}, {number} of {len(missing)}", flush=True)
            fit(config, folder, pool, name=config.name, commit=commit)


def steering(
    folder: RunFolder, base: RunConfig, word: str, baseline: ProbeImages, yardstick: Yardstick
) -> dict[str, float]:
    """Measure how far a run moved the images towards its word, and keep the result in the run's folder."""
    kept = folder.path / "steering.json"
    if kept.exists():
        return json.loads(kept.read_text())
    trained = generated(base, len(baseline.images), weights=read_trained(folder.path).weights)
    reading = yardstick.found.readings[yardstick.found.words.index(word)]
    moved = trained.attributes[reading.axis].mean() - baseline.attributes[reading.axis].mean()
    before, after = (_held_out_difference(yardstick, images, word) for images in (baseline, trained))
    result = {
        "truth": reading.direction * float(moved) / yardstick.attribute_units[reading.axis],
        "held_out": float(after.mean() - before.mean()) / yardstick.held_out_unit,
    }
    write_text(kept, json.dumps(result))
    return result


def _held_out_difference(yardstick: Yardstick, images: ProbeImages, word: str) -> Tensor:
    return score_words(yardstick.held_out, HELD_OUT, images, [word])[1][0]


def report(parsed: argparse.Namespace, found: WordProbe, runs: list[dict[str, Any]]) -> None:
    """Print both tables and write steering.json and steering.html."""
    rows = []
    for word, reading in zip(found.words, found.readings, strict=True):
        mine = [run for run in runs if run["word"] == word]
        row = {name: getattr(reading, name) for name in PREDICTORS}
        steered = {name: mean(run[name] for run in mine) for name in MEASURES}
        rows.append({"word": word, "axis": axis_text(reading), **row, **steered})
    agreements = [_agreement(rows, predictor, measure) for measure in MEASURES for predictor in PREDICTORS]
    result = {
        "hardware": hardware(),
        "commit": git_commit(Path.cwd()),
        "updates": parsed.updates,
        "lr": parsed.lr,
        "neutral": parsed.neutral,
        "seeds": parsed.seeds,
        "words": rows,
        "agreements": agreements,
        "runs": runs,
    }
    page = steering_report(result, rows, agreements)
    print_report(page)
    print(f"page: {write_report(parsed.out, page)}")


def _agreement(rows: list[dict[str, Any]], predictor: str, measure: str) -> dict[str, Any]:
    one, other = [row[predictor] for row in rows], [row[measure] for row in rows]
    low, high = bootstrap_interval(one, other)
    return {"predictor": predictor, "measure": measure, "spearman": spearman(one, other), "low": low, "high": high}


def steering_report(result: dict[str, Any], rows: list[dict[str, Any]], agreements: list[dict[str, Any]]) -> Report:
    """The report: how far each word steered, against the probe's score."""
    settings = f"{result['updates']} updates at lr {result['lr']}, each word against “{result['neutral']}”"
    machine = f"{result['hardware']} · commit {result['commit'] or 'unknown'}"
    steered = words_table(rows)
    ranked = agreements_table(agreements)
    spearman_text = Text("Spearman's, with the interval that 90% of redrawn sets of words fall in.")
    return Report(
        title="Do ranked words steer?",
        headline="Does the probe say which words steer?",
        sections=[
            *(Section(f"Steering by {each}", [Charts([scatter(rows, each)], "wide")]) for each in MEASURES),
            Section("Rank correlation", [spearman_text, ranked]),
        ],
        subtitle=f"{settings}, seeds {', '.join(map(str, result['seeds']))} · {machine}",
        page="steering.html",
        files={"steering.json": result},
        terminal=[steered, ranked],
    )


def words_table(rows: list[dict[str, Any]]) -> Table:
    """Words in the probe's order, and how far a run with each moved the images."""
    columns = [
        Column(name, numeric=False) if name in ("word", "axis") else Column(name, text="{:.3f}".format)
        for name in rows[0]
    ]
    title = "words in the probe's order, and how far a run with each moved the images"
    return Table(columns, [Row(row) for row in rows], head="word", title=title)


def agreements_table(agreements: list[dict[str, Any]]) -> Table:
    """Rank correlations of the probe's numbers with steering."""
    columns = [
        Column("predictor", "probe's", numeric=False),
        Column("measure", "steering by", numeric=False),
        Column("spearman", "correlation", "{:+.2f}".format),
        Column("low", "5%", "{:+.2f}".format),
        Column("high", "95%", "{:+.2f}".format),
    ]
    title = "Spearman's rank correlation, 90% interval over words"
    return Table(columns, [Row(each) for each in agreements], head="predictor", title=title)


def scatter(rows: list[dict[str, Any]], measure: str) -> Scatter:
    """Probe's score against steering, one dot per word."""
    dots = [
        Dot(
            row["score"],
            row[measure],
            row["word"],
            f"{row['word']}: {row['score']:.2f}, {row[measure]:+.2f}",
            labelled=True,
        )
        for row in rows
    ]
    description = f"Steering by {measure} against the probe's score"
    return Scatter("", description, dots, baseline=0.0, x_title="probe's score", size="wide")


if __name__ == "__main__":
    main()
