"""Folders and ballots with images that tests of votes know."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from srpo_ray.config import load_run, to_yaml
from srpo_ray.runs.folder import RunFolder, append_row, save_images
from srpo_ray.votes.ballot import BASE, Ballot, Item, Shown, digest_of
from srpo_ray.votes.ledger import Choice, Vote
from tests.conftest import SMALL_WORLD

METRIC = "evaluator/held_out"


def ballot(folder: Path, systems: Sequence[str], prompts: int = 4) -> Ballot:
    """A ballot without files: each system has another colour; the metric is the system's place plus the prompt's."""
    items = {f"item{index}": Item(f"item{index}", index, f"prompt {index}") for index in range(prompts)}
    images, scores = {}, {}
    for place, system in enumerate(systems):
        for item in items.values():
            color = (40 * place, 10 * item.prompt_index, 0)
            picture = Image.new("RGB", (4, 4), color)
            images[system, item.key] = Shown(digest_of(picture), lambda picture=picture: picture)
            scores[system, item.key] = float(place)
    return Ballot(folder, "mine", systems, items, images, {METRIC: scores})


def vote(
    of: Ballot, rater: str, prompt: int, left: str, right: str, choice: Choice, *, number: int = 0, repeat_of: str = ""
) -> Vote:
    """A vote on a ballot of `ballot`."""
    item = f"item{prompt}"
    return Vote(
        id=f"{rater}-{prompt}-{left}-{right}-{number}",
        time="2030-01-01T00:00:00+00:00",
        rater=rater,
        item=item,
        prompt_index=prompt,
        prompt=f"prompt {prompt}",
        left=left,
        right=right,
        left_image=of.images[left, item].digest,
        right_image=of.images[right, item].digest,
        choice=choice,
        repeat_of=repeat_of or None,
        seconds=2.0,
    )


def write_run(
    folder: Path,
    name: str,
    shades: Mapping[str, float],
    seed: int = 7,
    prompts: int = 3,
    overrides: Sequence[str] = (),
) -> RunFolder:
    """A finished run of the small world with images of one grey; `shades` gives those of `base` and `tuned`."""
    run = RunFolder(folder)
    run.make()
    given = [f"name={name}", f"evaluation.seed={seed}", "evaluation.num_prompts=8", *overrides]
    config = load_run([SMALL_WORLD], given)
    run.config.write_text(to_yaml(config))
    files = {BASE: run.base_images, "tuned": run.tuned_images}
    for system, file in files.items():
        save_images(file, {index: torch.full((3, 8, 8), shades[system] + index / 50) for index in range(prompts)})
    for update, system in enumerate(files):
        values = [shades[system] + index / 50 for index in range(8)]
        append_row(run.scores, {"update": update, "num_prompts": 8, "scores": {METRIC: values}})
    run.finished.write_text(json.dumps({"update": 1}))
    return run
