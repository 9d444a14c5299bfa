"""Prompts in a resumable order, and their text features."""

from srpo_ray.data.embeddings import load_or_encode
from srpo_ray.data.prompts import load_prompts, prompt_indices

__all__ = ["load_or_encode", "load_prompts", "prompt_indices"]
