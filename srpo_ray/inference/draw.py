"""Resumable execution of a job: existing images and rows are not made again."""

import json
import logging
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from tqdm import tqdm

from srpo_ray.errors import CommandInterruptedError
from srpo_ray.files import read_json, write_text
from srpo_ray.inference.cut_texts import job_notes
from srpo_ray.inference.job import WEIGHTS, SamplingJob
from srpo_ray.inference.work import Job, Row, Work, Worker
from srpo_ray.runs.folder import append_row, read_rows
from srpo_ray.runs.folder_lock import folder_lock
from srpo_ray.runs.inputs import changed_inputs, merged_inputs

logger = logging.getLogger(__name__)

ROWS, JOB = "rows.jsonl", "job.json"
_SHOWN = 3
Rows = Generator[Row, None, None]


def draw_all(job: SamplingJob, num_workers: int | None, address: str | None) -> list[Row]:
    """Sample every image of a job that its folder lacks, see `run_chunks`; one row per image by prompt, sample, model.

    Raises:
        ValueError: As `run_chunks`.
        RunFailedError: If sampling or scoring fails.
        CommandInterruptedError: If Ctrl-C stops it.
    """
    return run_chunks(job, Work(_encode, _sampler, job_notes), num_workers, address)


def run_chunks(job: Job, work: Work, num_workers: int | None, address: str | None) -> list[Row]:
    """Process every chunk of a job whose rows or images its folder lacks.

    A single local worker runs in this process without Ray. Several workers, or a cluster's, use Ray Data.

    Args:
        job: The job.
        work: Its processing.
        num_workers: Number of processes; None uses one per GPU, or one without GPUs.
        address: Address of a Ray cluster; None uses `RAY_ADDRESS`, or this machine.

    Returns:
        One row per image, in the order of the chunks.

    Raises:
        ValueError: If the folder cannot be written, belongs to another job or is in use, or an input cannot be used.
        RunFailedError: If the processing fails.
        CommandInterruptedError: If Ctrl-C stops it.
    """
    open_folder(job)
    with folder_lock(job.folder):
        return _run_chunks(job, work, num_workers, address)


def _run_chunks(job: Job, work: Work, num_workers: int | None, address: str | None) -> list[Row]:
    places = [place for chunk in job.chunks for place in job.places(chunk)]
    wanted = set(places)
    found = {place: row for row in read_rows(job.folder / ROWS) if (place := job.place_of(row)) in wanted}
    found = {place: row for place, row in found.items() if job.has_image(place)}
    # This also drops a truncated line.
    write_text(job.folder / ROWS, "".join(json.dumps(row) + "\n" for row in found.values()))
    chunks = [chunk for chunk in job.chunks if not all(place in found for place in job.places(chunk))]
    if chunks and work.notes is not None:
        for note in work.notes(job):
            logger.warning("%s", note)
    with tqdm(total=len(places), initial=len(found), unit="image", disable=None) as bar:
        try:
            with closing(_rows(job, work, chunks, num_workers, address)) as rows:
                for row in rows:
                    append_row(job.folder / ROWS, row)
                    bar.update(job.place_of(row) not in found)
                    found[job.place_of(row)] = row
        except KeyboardInterrupt:
            raise CommandInterruptedError(
                f"stopped after {len(found)} of {len(places)} images; run the same command again to resume"
            ) from None
    return [found[place] for place in places]


def _rows(job: Job, work: Work, chunks: Sequence[list[int]], num_workers: int | None, address: str | None) -> Rows:
    if not chunks:
        return
    cluster = address or os.environ.get("RAY_ADDRESS")
    if not cluster and min(num_workers or torch.cuda.device_count(), len(chunks)) <= 1:
        worker = work.open(job)
        for chunk in chunks:
            yield from worker.draw(chunk)
        return
    from srpo_ray.inference.distribute import run_on_ray

    yield from run_on_ray(job, work, chunks, num_workers, address)


def _encode(job: SamplingJob) -> None:
    """Write the text features to the cache, so that no worker loads a text encoder."""
    from srpo_ray.inference.sampler import encode

    encode(job)


def _sampler(job: SamplingJob) -> Worker:
    # The import takes seconds, and a job whose images are all there needs none.
    from srpo_ray.inference.sampler import Sampler

    return Sampler(job)


def open_folder(job: Job) -> None:
    """Create the job's folder, or check that it belongs to this job.

    Raises:
        ValueError: If it cannot be written, or has images of another job: other settings, weights or files.
    """
    file = job.folder / JOB
    asked = json.loads(json.dumps(job.description))
    try:
        before = read_json(file) if file.exists() else asked
        others = _differences(before, asked) if isinstance(before, dict) else [JOB]
        if not file.exists() and (job.folder / ROWS).exists():
            others = [f"origin ({JOB} is missing)"]
        if not others:
            asked["inputs"] = merged_inputs(before.get("inputs", {}), asked["inputs"])
            write_text(file, json.dumps(asked, indent=2, ensure_ascii=False) + "\n")
    # A ValueError means that the description is not JSON.
    except (OSError, ValueError) as error:
        raise ValueError(f"--out: expected a writable folder, got {job.folder} ({error}); choose another") from error
    if others:
        shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        again = any(name.endswith(f".{WEIGHTS}") for name in others)
        reason = "; the run was trained again or further since then" if again else ""
        raise ValueError(
            f"--out: expected a new folder or the one of this same command, got {job.folder}, which has images of"
            f" other {shown}{reason}; choose another folder or remove this one"
        )


def _differences(before: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """List the names of different entries of two descriptions, except reward files with a hash in only one of them."""
    known, wanted = (_flat({**each, "inputs": None}) for each in (before, asked))
    changed = changed_inputs(before.get("inputs", {}), asked["inputs"])
    return [
        *(name for name in wanted | known if known.get(name) != wanted.get(name)),
        *(text for _, text in changed),
    ]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten to dotted names: `{"models": {"base": {"rl_guidance": 0}}}` -> `{"models.base.rl_guidance": 0}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = _flat(value) if isinstance(value, Mapping) else {}
        flat |= {f"{key}.{name}": inner for name, inner in nested.items()} or {key: value}
    return flat
