"""Hashes of the files that a run reads, recorded at its start: resuming with a changed file is an error."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from srpo_ray.config import RunConfig
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.texts import Texts, read_texts
from srpo_ray.files import write_text
from srpo_ray.runs.input_files import (
    CODE,
    LORA_START,
    MODEL,
    Source,
    contrast_sources,
    decoder_sources,
    lora_sources,
    model_source,
    reward_sources,
)

logger = logging.getLogger(__name__)

Inputs = dict[str, dict[str, dict[str, str]]]
"""Config key -> source as in the config, or its images -> part of the source -> hash of its content."""

_INPUTS = TypeAdapter(Inputs)
IMAGES = "names and contents"
CONTROL_WORDS = "control words"
"""Part of a prompt file: the words of its prompts."""
_SHOWN = 3


def input_hashes(*configs: RunConfig) -> Inputs:
    """Hash everything that runs read: prompts, captions, the model and the reward models.

    The hash of a file above 4 MiB covers 64 blocks, that of a real image its beginning and its end. The hash of a hub
    id is its commit. A reward from the hub has no hash until it is in the cache.

    Args:
        configs: Runs; a source that several of them share is read once.

    Raises:
        ValueError: If a file cannot be used.
    """
    inputs: Inputs = {}
    # The texts depend on these keys only.
    by_texts = {
        (config.data, config.algorithm.judged, config.algorithm.uses_own_captions, *_evaluated_keys(config)): config
        for config in configs
    }
    for config in by_texts.values():
        texts = read_texts(config)
        for found in (text_hashes(config, texts), _image_hashes(config, texts)):
            for key, source, parts in _entries(found):
                inputs.setdefault(key, {}).setdefault(source, {}).update(parts)
    for config in configs:
        _add_files(
            inputs,
            [
                model_source(config),
                *lora_sources(config),
                *contrast_sources(config),
                *decoder_sources(config),
                *reward_sources(config),
            ],
        )
    return inputs


def _evaluated_keys(config: RunConfig) -> tuple[object, ...]:
    """Keys of section `evaluation` that determine the texts of a run."""
    return config.evaluation.prompts, config.evaluation.num_prompts, config.evaluation.test


def model_hashes(config: RunConfig) -> dict[str, str]:
    """Hash the pipeline that a run tunes: part -> hash.

    Raises:
        ValueError: If it cannot be read.
    """
    inputs: Inputs = {}
    _add_files(inputs, [model_source(config)])
    return inputs[MODEL][config.model.path]


def lora_hashes(config: RunConfig) -> dict[str, str]:
    """Hash the LoRA that a run starts from: file -> hash; empty if it starts from none.

    Raises:
        ValueError: If it cannot be read.
    """
    inputs: Inputs = {}
    _add_files(inputs, lora_sources(config))
    return {name: value for parts in inputs.get(LORA_START, {}).values() for name, value in parts.items()}


def contrast_hashes(config: RunConfig) -> Inputs:
    """Hash the other model of the contrast in evaluations; empty if it is the base model.

    Raises:
        ValueError: If it cannot be read.
    """
    inputs: Inputs = {}
    _add_files(inputs, contrast_sources(config))
    return inputs


def reward_hashes(config: RunConfig) -> Inputs:
    """Hash the reward models of a run, trained and held-out.

    Raises:
        ValueError: If a file cannot be read.
    """
    inputs: Inputs = {}
    _add_files(inputs, reward_sources(config))
    return inputs


def text_hashes(config: RunConfig, texts: Texts) -> Inputs:
    """Hash the prompts of a run, with their conditioning and control words, and its captions.

    Args:
        config: The run.
        texts: Texts of the run, from `read_texts`.
    """
    evaluation, test = config.evaluation, config.evaluation.test
    inputs: Inputs = {
        "evaluation.prompts": {evaluation.prompts: _row_hashes(_first(evaluation.num_prompts), texts.validation)}
    }
    if test:
        inputs["evaluation.test.prompts"] = {test.prompts: _row_hashes(_first(test.num_prompts), texts.test)}
    if config.data.reads_prompts:
        inputs["data.prompts"] = {config.data.prompts: _row_hashes("prompts", texts.training)}
    if config.data.images and texts.images:
        inputs["data.images"] = {config.data.images: {"captions": _hash(texts.images.captions)}}
    if config.data.pairs and texts.judged:
        inputs["data.pairs"] = {config.data.pairs: {"judgements": _hash(texts.judged.judgements)}}
    return inputs


def _row_hashes(name: str, rows: PromptRows) -> dict[str, str]:
    """Hash prompts, and their conditioning and control words if any prompt has them."""
    hashes = {name: _hash(rows.prompts)}
    if rows.rewritten:
        hashes["conditioning"] = _hash(rows.conditioning)
    if rows.has_words:
        hashes[CONTROL_WORDS] = _hash([json.dumps([words.positive, words.negative]) for words in rows.words])
    return hashes


def _first(count: int | None) -> str:
    return "prompts" if count is None else f"first {count} prompts"


def _image_hashes(config: RunConfig, texts: Texts) -> Inputs:
    """Hash the identities of a run's real or judged images, as a separate source that workers do not read again."""
    sources = {
        "data.images": (config.data.images, texts.images),
        "data.pairs": (config.data.pairs, texts.judged and texts.judged.images),
    }
    return {
        key: {f"images of {source}": {IMAGES: _hash(images.identities)}}
        for key, (source, images) in sources.items()
        if source and images
    }


def read_inputs(record: Path) -> Inputs:
    """Read the recorded hashes; empty without a record.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        return _INPUTS.validate_json(record.read_bytes()) if record.exists() else {}
    except (OSError, ValidationError) as error:
        raise ValueError(
            f"expected {record} to contain the hashes of the files that were read, got {error}; restore it from a"
            f" backup, or remove {record.parent} to start from scratch"
        ) from error


def keep_inputs(record: Path, inputs: Inputs, *, has_results: bool, cure: str) -> None:
    """Compare inputs with the recorded ones, and record those that are new.

    Args:
        record: File of the recorded hashes.
        inputs: Hashes of the files as they are now.
        has_results: True if results of the recorded inputs exist, which changed inputs must not continue.
        cure: Alternative to restoring the files, for the message.

    Raises:
        ValueError: If a file has changed, or there are results but no record.
    """
    if has_results and not record.exists():
        raise ValueError(
            f"expected {record.name} in {record.parent}, got results without it, so changed prompts or weights could"
            f" not be detected; restore the file, or {cure}"
        )
    require_same_inputs(record, inputs, cure)
    known = read_inputs(record)
    merged = merged_inputs(known, inputs)
    if merged != known:
        write_text(record, json.dumps(merged, indent=1, ensure_ascii=False) + "\n")


def merged_inputs(known: Inputs, inputs: Inputs) -> Inputs:
    """Add hashes of sources that had none to the known hashes."""
    merged = {key: sources | _with_hashes(known.get(key, {})) for key, sources in inputs.items()}
    return known | merged


def require_same_inputs(record: Path, inputs: Inputs, cure: str) -> None:
    """Compare hashes with the recorded ones. A source without a hash on either side is not compared.

    Args:
        record: File of the recorded hashes; if it does not exist, nothing is compared.
        inputs: Hashes of the files as they are now.
        cure: Alternative to restoring the files, for the message.

    Raises:
        ValueError: If a file has changed; the message names the config key and the file.
    """
    changed = changed_inputs(read_inputs(record), inputs)
    code = [text for key, text in changed if key.endswith(f".{CODE}")]
    if code:
        logger.warning("%s: the code of the reward has changed since %s was written", "; ".join(code), record)
    refused = [(key, text) for key, text in changed if not key.endswith(f".{CODE}")]
    if refused:
        shown = "; ".join(text for _, text in refused[:_SHOWN]) + ("; ..." if len(refused) > _SHOWN else "")
        keys = ", ".join(dict.fromkeys(key for key, _ in refused))
        raise ValueError(
            f"{shown}: expected the content that {record.parent} was started with, got another; restore it, or {cure}."
            f" To continue with the changed content on purpose, delete the entry of {keys} in {record}"
        )


def changed_inputs(before: Inputs, now: Inputs) -> list[tuple[str, str]]:
    """List the parts of sources that differ, are missing or are new: config key, and `key: file` for a message."""
    changed = []
    for key, source, parts in _entries(now):
        known = before.get(key, {}).get(source, {})
        differing = [name for name in sorted(known | parts) if known.get(name) != parts.get(name)]
        if known and parts:
            changed += [(key, f"{key}: {source} ({name})") for name in differing]
    return changed


def _entries(inputs: Inputs) -> Iterator[tuple[str, str, dict[str, str]]]:
    return ((key, source, parts) for key, sources in inputs.items() for source, parts in sources.items())


def _with_hashes(sources: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {source: parts for source, parts in sources.items() if parts}


def _add_files(inputs: Inputs, sources: Iterable[Source]) -> None:
    for key, source, read in sources:
        known = inputs.setdefault(key, {})
        if source in known:
            continue
        try:
            known[source] = read()
        except OSError as error:
            raise ValueError(
                f"{key}: expected files that can be read, got {source!r} ({error}); correct the path or the permissions"
            ) from error


def _hash(texts: Sequence[str]) -> str:
    return f"{len(texts)} sha256 {hashlib.sha256(json.dumps(texts).encode()).hexdigest()}"
