"""Notes on the prompts of a sampling job that text encoders or reward models truncate."""

from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.inference.job import SamplingJob
from srpo_ray.launch.cut_texts import HELD_OUT, TRAINED, cut_note
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.prompt_length import cut_prompts


def job_notes(job: SamplingJob) -> list[str]:
    """List notes on truncated prompts, for each text encoder of the model and each reward model that scores.

    Raises:
        ValueError: If a tokenizer of the model cannot be read.
    """
    config = job.config
    texts = list(dict.fromkeys(job.texts))
    cut = cut_prompts(resolve_path(config.model.path), texts, config.model.max_sequence_length)
    notes = [f"model: {each.note}" for each in cut]
    if not job.scored:
        return notes
    plain = PromptRows.plain(job.prompts)
    rows = PromptRows(plain.prompts, plain.conditioning, list(job.own_words) or plain.words)
    sections = ((TRAINED, config.rewards.models), (HELD_OUT, config.evaluation.held_out))
    rewards = (cut_note(section, model, config, [rows]) for section, models in sections for model in models)
    return [*notes, *(note for note in rewards if note)]
