"""The prompts that a run trains on."""

from pydantic import Field

from srpo_ray.config.base import Section


class DataConfig(Section):
    """Section `data`."""

    prompts: str = Field(default="small_world:train", min_length=1)
    """Prompt file (.txt, .json, .jsonl, .csv, .tsv or .parquet; columns: `read_prompts`), or `small_world:train`."""
    images: str | None = Field(default=None, min_length=1)
    """Real pictures in place of rollouts: a folder whose pictures have their captions in .txt files of the same name,
    or `small_world:realistic`. The captions are then the prompts, and `prompts` is not read."""
