"""Pair file from another one: its pairs relabelled by reward models, or without those that the models contradict."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from srpo_ray.algorithms.pair_choice import PairJudgement, Selection, judge_pairs
from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.data.pair_images import relative_path
from srpo_ray.data.pairs import EMBEDDED, JudgedRow, PairFile, read_pair_file
from srpo_ray.files import write_text
from srpo_ray.inference.draw import run_chunks
from srpo_ray.inference.held_out import check_prompts
from srpo_ray.inference.job import Row, SamplingOptions, check_selection
from srpo_ray.inference.pair_images import SCORING, PairImagesJob
from srpo_ray.inference.rank import confidence_column
from srpo_ray.runs.folder import RunFolder

PAIRS = "pairs.jsonl"
_KEY = "--pairs"
_Reason = Literal["no winner", "close", "tie", "contradicted", "repeated"]
_WORDS: dict[_Reason, str] = {
    "no winner": "that {selection} does not tell apart",
    "close": "with a gap below {gap:g}",
    "tie": "without a preference in the file",
    "contradicted": "whose label the rewards contradict",
    "repeated": "of images and a prompt that an earlier row has",
}


@dataclass(frozen=True)
class RankedFile:
    """Result of ranking a pair file."""

    file: Path
    """The new pair file."""
    rows: int
    """Pairs of the old one."""
    pairs: int
    """Pairs of the new one."""
    turned: int
    """Pairs whose other image is the preferred one now, ties of the old file not counted."""
    left_out: Counter[str]
    """Reason -> pairs of the old file that the new one has not."""

    def __str__(self) -> str:
        reasons = [f"{count} {reason}" for reason, count in sorted(self.left_out.items())]
        rest = f"; left out: {', '.join(reasons)}" if reasons else ""
        return f"{self.file}: {self.pairs} of {self.rows} pairs, {self.turned} with another preferred image{rest}"


def rank_pair_file(
    sources: Sequence[str],
    pairs: Path,
    out: Path,
    *,
    options: SamplingOptions,
    selection: Selection = "best_worst",
    min_gap: float = 0.0,
    temperature: float | None = None,
    keep_labels: bool = False,
) -> RankedFile:
    """Score the images of a pair file with the trained reward models of a config, and write the pairs that they judge.

    A repeated call scores only what is missing. Held-out models do not score. The new rows have `preferred` and `other`
    (the same image files, relative to the new file), `prompt`, and the `scores` of both by each reward model.

    Args:
        sources: Folder of a run, or config files and overrides, for the rewards and `evaluation.preprocessing`.
        pairs: File to rank.
        out: Output folder.
        options: Batch size, number of workers and address; other options are of sampling.
        selection: Rule of the winner of two images, see `judge_pairs`.
        min_gap: Least difference of the weighted sums of the rewards, at least 0.
        temperature: T above 0 writes the `confidence` tanh(d / (2 T)) of a pair whose weighted sums differ by d, also
            in place of the old file's; None writes none.
        keep_labels: Keep the preferred images of the file, and leave out the pairs of which the rewards prefer the
            other image. False takes the rewards' winner, ties of the file included.

    Raises:
        ValueError: If an input cannot be used, or no pair is left.
        RunFailedError: If scoring fails.
        CommandInterruptedError: If Ctrl-C stops it.
    """
    check_selection(selection, min_gap, temperature)
    _check_file(pairs, out)
    config = _rewards_of(sources, options)
    file = read_pair_file(Path(pairs).absolute(), _KEY)
    _check_captions(file, pairs, keep_labels=keep_labels)
    check_prompts(config, tuple(dict.fromkeys(row.prompt for row in file.rows)), _KEY)
    job = PairImagesJob.of(config, file, out.resolve())
    rows = run_chunks(job, SCORING, options.num_workers, options.address)
    scores = _scores(job, file, [[row[f"reward/{name}"] for name in config.rewards.factors] for row in rows])
    weights = torch.tensor(list(config.rewards.factors.values()), dtype=torch.float64)
    judged = judge_pairs(scores, weights, selection, min_gap)
    reasons = _reasons(file, judged, keep_labels=keep_labels)
    left_out = Counter(_WORDS[reason].format(selection=selection, gap=min_gap) for reason in reasons if reason)
    chosen = [index for index, reason in enumerate(reasons) if reason is None]
    if not chosen:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise ValueError(
            f"{_KEY}: expected a pair that the rewards judge, got none in {pairs} ({listed}); lower --min-gap, or"
            " choose another --select"
        )
    winners = {index: int(judged.winner[index]) for index in chosen}
    lines = [
        _line(job, file, scores, index, winner, kept=keep_labels)
        | confidence_column(scores[index, [winner, 1 - winner]] @ weights, temperature)
        for index, winner in winners.items()
    ]
    write_text(job.folder / PAIRS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    turned = sum(winner for index, winner in winners.items() if not _is_tie(file.rows[index]))
    return RankedFile(job.folder / PAIRS, len(file.rows), len(chosen), turned, left_out)


def _check_file(pairs: Path, out: Path) -> None:
    if str(pairs).startswith(EMBEDDED):
        raise ValueError(f"{_KEY}: expected a .jsonl file, got {pairs}, whose images are not files; name a file")
    if (out / PAIRS).resolve() == pairs.resolve():
        raise ValueError(f"--out: expected another folder than that of --pairs, got {out}; {PAIRS} would be replaced")


def _rewards_of(sources: Sequence[str], options: SamplingOptions) -> RunConfig:
    """Read the config of a run or of files, and apply the options; only the reward models of the training score."""
    if len(sources) == 1 and Path(sources[0]).is_dir():
        sources = [str(RunFolder(sources[0]).config)]
    files = [source for source in sources if "=" not in source]
    config = options.over(with_absolute_paths(load_run(files, [source for source in sources if "=" in source])))
    if not config.rewards.models:
        raise ValueError("rewards.models: expected models that rank the images, got none; name at least one")
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"held_out": ()})})


def _check_captions(file: PairFile, path: Path, *, keep_labels: bool) -> None:
    own = sum("other_prompt" in columns for columns in file.columns)
    if own and not keep_labels:
        raise ValueError(
            f"{_KEY}: expected one caption for both images of a pair, got other_prompt in {own} of {len(file.rows)}"
            f" rows of {path}, and scores against different texts do not compare images; remove it, or choose"
            " --keep-labels"
        )


def _scores(job: PairImagesJob, file: PairFile, values: Sequence[Sequence[float]]) -> torch.Tensor:
    """Arrange the scores of all items by pair `[P, 2, R]`."""
    place = {item: index for index, item in enumerate(job.items)}
    by_item = torch.tensor(values, dtype=torch.float64)
    return by_item[torch.tensor([[place[index, row.prompt] for index in row.images] for row in file.rows])]


def _is_tie(row: JudgedRow) -> bool:
    return row.labels[0] == row.labels[1]


def _reasons(file: PairFile, judged: PairJudgement, *, keep_labels: bool) -> list[_Reason | None]:
    """Give the reason for leaving out each pair; None keeps it."""
    seen: set[tuple[frozenset[int], str]] = set()
    reasons: list[_Reason | None] = []
    for row, winner, close in zip(file.rows, judged.winner.tolist(), judged.close.tolist(), strict=True):
        pair = frozenset(row.images), row.prompt
        if keep_labels and _is_tie(row):
            reason = "tie"
        elif winner < 0:
            reason = "no winner"
        elif keep_labels and winner:
            reason = "contradicted"
        elif close:
            reason = "close"
        else:
            # Two people may agree on a pair, but the rewards have one opinion.
            reason = "repeated" if not keep_labels and pair in seen else None
            seen.add(pair)
        reasons.append(reason)
    return reasons


def _line(job: PairImagesJob, file: PairFile, scores: torch.Tensor, index: int, winner: int, *, kept: bool) -> Row:
    """Build one row of the new file, whose preferred image is the winner."""
    sides = [winner, 1 - winner]
    files = [file.files[file.rows[index].images[side]] for side in sides]
    images = [relative_path(name, job.folder) for name in files]
    both = {name: scores[index, sides, place].tolist() for place, name in enumerate(job.config.rewards.factors)}
    # Confidence and annotator belong to the label of the old file.
    columns = file.columns[index] if kept else {"prompt": file.rows[index].prompt}
    return {"preferred": images[0], "other": images[1], **columns, "scores": both}
