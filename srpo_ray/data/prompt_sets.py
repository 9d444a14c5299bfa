"""Well-known public prompt sets: their files, columns and licences. The files are the user's own downloads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptSet:
    """Facts of a public prompt set."""

    name: str
    title: str
    page: str
    """Page from which a user downloads the files."""
    files: str
    """Names of the files on that page."""
    licence: str
    """Licence that the page states, or a note that it states none."""
    column: str | None = None
    """Key or column with the prompts; None if the files contain texts only."""


_SETS = (
    PromptSet(
        "hpdv2_benchmark",
        "HPDv2, benchmark prompts of HPSv2",
        "https://huggingface.co/datasets/zhwang/HPDv2",
        "benchmark/anime.json, concept-art.json, paintings.json, photo.json",
        "Apache-2.0 as stated by ymhao/HPDv2",
    ),
    PromptSet(
        "hpdv2_train",
        "HPDv2, training prompts of HPSv2",
        "https://huggingface.co/datasets/ymhao/HPDv2",
        "train.json",
        "Apache-2.0",
        "prompt",
    ),
    PromptSet(
        "partiprompts",
        "PartiPrompts (P2)",
        "https://github.com/google-research/parti",
        "PartiPrompts.tsv",
        "Apache-2.0",
        "prompt",
    ),
    PromptSet(
        "geneval",
        "GenEval",
        "https://github.com/djghosh13/geneval",
        "prompts/evaluation_metadata.jsonl",
        "MIT",
        "prompt",
    ),
    PromptSet(
        "drawbench",
        "DrawBench, from Imagen (arXiv 2205.11487)",
        "https://huggingface.co/datasets/shunk031/DrawBench",
        "a CSV file with the columns Prompts and Category",
        "unknown according to the page",
        "prompts",
    ),
    PromptSet(
        "pickapic",
        "Pick-a-Pic v2 without images",
        "https://huggingface.co/datasets/yuvalkirstain/pickapic_v2_no_images",
        "data/train-*.parquet, data/validation_unique-*.parquet, data/test_unique-*.parquet",
        "not stated on the page",
        "caption",
    ),
    PromptSet(
        "diffusiondb",
        "DiffusionDB (arXiv 2210.14896)",
        "https://huggingface.co/datasets/poloclub/diffusiondb",
        "metadata.parquet",
        "CC0-1.0",
        "prompt",
    ),
)

PROMPT_SETS: dict[str, PromptSet] = {each.name: each for each in _SETS}
"""Known sets by name."""


def find_set(name: str) -> PromptSet:
    """Find a known set.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in PROMPT_SETS:
        raise ValueError(
            f"--set: expected one of {', '.join(PROMPT_SETS)}, got {name!r}; leave it out for other files, and name"
            " their column with --column"
        )
    return PROMPT_SETS[name]
