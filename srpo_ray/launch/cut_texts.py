"""Notes on prompts that are longer than the texts that reward models read; tokenizers truncate them silently."""

from collections.abc import Iterable, Mapping, Sequence

from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.rewards import RewardModelConfig
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.texts import Texts
from srpo_ray.rewards.token_limits import token_limit

TRAINED, HELD_OUT = "rewards.models", "evaluation.held_out"
_SHOWN = 60
Words = tuple[str, ...]
"""Words that rewards read before a prompt, as `<word>. <prompt>`."""


def reward_cut_notes(config: RunConfig, texts: Texts) -> list[str]:
    """Note for each reward model of a run how many prompts it truncates.

    Raises:
        ValueError: If a prompt has the same control word on both sides.
    """
    evaluated = [rows for key, rows in texts.by_key.items() if key.startswith("evaluation.")]
    notes = (cut_note(TRAINED, model, config, texts.by_key.values()) for model in config.rewards.models)
    held_out = (cut_note(HELD_OUT, model, config, evaluated) for model in config.evaluation.held_out)
    return [note for note in (*notes, *held_out) if note]


def cut_note(section: str, model: RewardModelConfig, config: RunConfig, parts: Iterable[PromptRows]) -> str | None:
    """Note how many prompts a reward model truncates; None if it truncates none.

    Args:
        section: Config key of the model's section.
        model: The model.
        config: The run, whose control words the model reads before the prompts.
        parts: Prompts that the model scores.
    """
    try:
        limit = token_limit(model)
    except ValueError:
        # The model itself raises it when it loads.
        return None
    words = _words_by_prompt(section, config, parts)
    if limit is None or not words:
        return None
    prompts = list(words)
    alone = sorted({word for each in words.values() for word in each})
    lengths = dict(zip(alone, limit.count(alone), strict=True))
    longest = {prompt: max(words[prompt], key=lengths.__getitem__, default=None) for prompt in prompts}
    texts = [prompt if (word := longest[prompt]) is None else f"{word}. {prompt}" for prompt in prompts]
    plain, read = limit.count(prompts), limit.count(texts)
    cut = [index for index, tokens in enumerate(read) if tokens > limit.num_tokens]
    if not cut:
        return None
    only = sum(plain[index] <= limit.num_tokens for index in cut)
    first = prompts[cut[0]]
    shown = first if len(first) <= _SHOWN else f"{first[: _SHOWN - 3]}..."
    number = f"{len(cut)} of {len(prompts)} prompts are" if len(cut) > 1 else f"1 of {len(prompts)} prompts is"
    with_words = f" ({only} only with control words)" if only else ""
    ends = "their ends are" if len(cut) > 1 else "its end is"
    return (
        f"{section}, reward {model.name!r}: {number} longer than its {limit.num_tokens} tokens{with_words}, so"
        f" {ends} not scored: {shown!r}"
    )


def _words_by_prompt(section: str, config: RunConfig, parts: Iterable[PromptRows]) -> Mapping[str, Words]:
    """Prompts in their order, without repeats -> words that the model reads before them."""
    relative = config.evaluation.relative
    common = (relative.positive, relative.negative) if relative else ()
    trained = config.trained_words if section == TRAINED else None
    common += config.algorithm.attributes if section == TRAINED else ()
    found: dict[str, Words] = {}
    for rows in parts:
        for prompt, words in zip(rows.prompts, _trained_words(trained, rows), strict=True):
            found[prompt] = (*found.get(prompt, common), *words)
    return found


def _trained_words(trained: ControlWords | None, rows: PromptRows) -> Sequence[Words]:
    """Control words of each prompt in a run with a set; none without."""
    if trained is None:
        return [()] * len(rows)
    own = rows.words_over(trained) or [trained] * len(rows)
    return [(*each.positive, *each.negative) for each in own]
