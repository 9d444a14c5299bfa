"""Computation of a run's text features ahead of the run, by Ray Data on all GPUs of a cluster."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import ray
import ray.data
from ray.exceptions import RayError
from tqdm import tqdm

from srpo_ray.config import RunConfig
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.cuda import require_cuda
from srpo_ray.data.cache.shards import ROWS
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.texts import read_texts
from srpo_ray.errors import RunFailedError
from srpo_ray.launch.session import ray_session

CPU_ACTORS = 2
"""Maximum number of actors without a GPU: each keeps the text encoders in memory."""


@dataclass(frozen=True)
class Encoded:
    """Result of `encode`."""

    texts: int
    """Number of distinct texts of the run."""
    encoded: int
    """Number of texts whose features this call computed."""
    folder: Path
    """Folder of the cache with all features."""


class EncodePart:
    """Ray Data actor that loads the text encoders once and writes one shard per call.

    Args:
        config: The run.
        gpu: True if Ray has reserved a GPU for the actor.
    """

    def __init__(self, config: RunConfig, gpu: bool) -> None:
        self._config = config
        self._gpu = gpu

    @cached_property
    def _encode(self) -> Callable[[list[str]], object]:
        # Load with the first part, not in the constructor: Ray Data retries a failing constructor without limit.
        if self._gpu:
            require_cuda("encode")
        return TextCache.of(self._config).load_encoder("cuda" if self._gpu else "cpu")

    def __call__(self, batch: pyarrow.Table) -> dict[str, Any]:
        """Encode the parts of a batch, and return the number of texts of each part."""
        parts = batch.column("texts").to_pylist()
        for part in parts:
            self._encode(part)
        return {"encoded": np.array([len(part) for part in parts])}


def encode(config: RunConfig, address: str | None = None, num_actors: int | None = None) -> Encoded:
    """Encode all texts of a run that the cache lacks: prompts, captions of real images, evaluation prompts.

    Each part is written as soon as it is complete, so a call after Ctrl-C or a crash resumes from there.

    Args:
        config: The run.
        address: Address of a Ray cluster; None uses `RAY_ADDRESS` or starts a local Ray.
        num_actors: Number of actors; None uses one per GPU, or without a GPU one per CPU up to `CPU_ACTORS`.

    Raises:
        ValueError: If an input cannot be used.
        RunFailedError: If an actor failed.
    """
    config = with_absolute_paths(config)
    texts = read_texts(config)
    wanted = texts.encoded
    cache = TextCache.of(config)
    missing = cache.missing(wanted)
    if missing:
        with ray_session(address):
            _encode_parts(config, missing, num_actors)
    return Encoded(len(set(wanted)), len(missing), cache.store.folder)


def _encode_parts(config: RunConfig, missing: Sequence[str], num_actors: int | None) -> None:
    parts = [list(missing[start : start + ROWS]) for start in range(0, len(missing), ROWS)]
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cpus = int(ray.cluster_resources().get("CPU", 1))
    actors = min(num_actors or gpus or min(cpus, CPU_ACTORS), len(parts))
    context = ray.data.DataContext.get_current()
    # One progress bar of prompts replaces those of Ray Data's stages.
    context.enable_progress_bars = False
    # Raise the original exception, once.
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    rows: list[Any] = [{"texts": part} for part in parts]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        EncodePart,
        fn_constructor_args=(config, gpus > 0),
        batch_size=1,
        batch_format="pyarrow",
        # Start with the first actor: on a busy cluster the others may have to wait for their GPUs.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_gpus=1 if gpus else None,
        num_cpus=None if gpus else 1,
    )
    try:
        with tqdm(total=len(missing), desc="encoding", unit="prompt") as bar:
            for row in done.iter_rows():
                bar.update(int(row["encoded"]))
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from error
        raise RunFailedError(f"{type(cause).__name__}: {cause}") from error
