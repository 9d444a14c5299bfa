"""Prompt files, and the order in which a run goes through them."""

import json
from pathlib import Path

import torch

from srpo_ray.flow import generator

EMBEDDED = ("small_world:train", "small_world:test")


def load_prompts(source: str, key: str = "data.prompts") -> list[str]:
    """Read prompts: one a line (.txt), a JSON list of texts or of objects with `prompt`, or JSON lines of those.

    Args:
        source: Path of the file, `small_world:train` or `small_world:test`.
        key: Config key that the source came from, for messages.

    Returns:
        The prompts in file order; surrounding blanks are removed and empty lines are left out.

    Raises:
        ValueError: If the file cannot be read, has another format, or holds no prompt.
    """
    if source in EMBEDDED:
        from srpo_ray.small_world import prompts as embedded

        return embedded.train_prompts() if source == EMBEDDED[0] else embedded.test_prompts()
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{key}: expected a readable prompt file or one of {', '.join(EMBEDDED)}, got {source!r} ({error});"
            f" check the path (working folder: {Path.cwd()})"
        ) from error
    prompts = [prompt.strip() for prompt in _parse(path, text, key)]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise ValueError(f"{key}: expected at least one prompt in {source}, got an empty file; add prompts, one a line")
    return prompts


def _parse(path: Path, text: str, key: str) -> list[str]:
    if path.suffix == ".txt":
        return text.splitlines()
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{key}: expected a .txt, .json or .jsonl file, got {path}; convert it to one prompt a line")
    try:
        if path.suffix == ".json":
            entries = json.loads(text)
        else:
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{key}: expected JSON in {path}, got a syntax error: {error}; mend the file") from error
    if not isinstance(entries, list):
        raise ValueError(f"{key}: expected a JSON list in {path}, got a {type(entries).__name__}; wrap it in [ ]")
    return [_prompt_of(entry, path, number, key) for number, entry in enumerate(entries, 1)]


def _prompt_of(entry: object, path: Path, number: int, key: str) -> str:
    prompt = entry.get("prompt") if isinstance(entry, dict) else entry
    if not isinstance(prompt, str):
        raise ValueError(
            f"{key}: expected a text or an object with `prompt` as entry {number} of {path}, got {entry!r}"
        )
    return prompt


def prompt_indices(num_prompts: int, step: int, batch_size: int, seed: int) -> list[int]:
    """Prompts of one update's global batch: every prompt once per epoch, shuffled anew in each epoch.

    Args:
        num_prompts: Prompts in the file.
        step: Update, from 0.
        batch_size: Size of the global batch.
        seed: Seed of the run.

    Returns:
        `batch_size` indices; they depend on the arguments only, so a resumed run goes on where it was.
    """
    indices = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, num_prompts)
        order = torch.randperm(num_prompts, generator=generator(seed, "prompts", epoch))
        indices.append(int(order[offset]))
    return indices
