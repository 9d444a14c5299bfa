"""Section `data`: training prompts and real images."""

from typing import Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section


class DataConfig(Section):
    """Section `data`."""

    prompts: str = Field(default="small_world:train", min_length=1)
    """Prompt file (.txt, .json, .jsonl, .csv, .tsv or .parquet; columns: `read_prompts`), or `small_world:train`."""
    images: str | None = Field(default=None, min_length=1)
    """Real images with captions, which replace rollouts; their captions are the prompts. Either a folder, searched
    recursively, with the captions in .txt or .json files of the same name; or a webdataset .tar file, a .parquet file,
    a folder or glob pattern of such files; or `small_world:realistic`."""
    image_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of real images among the samples of each update, in (0, 1]. The other samples are rollouts of `prompts`;
    with a share of 1, `prompts` is not read."""

    @property
    def reads_prompts(self) -> bool:
        """True if any sample is a rollout of `prompts`."""
        return self.images is None or self.image_ratio < 1

    @model_validator(mode="after")
    def _check_ratio(self) -> Self:
        if self.image_ratio < 1 and self.images is None:
            raise ValueError(
                f"expected images to be set with image_ratio={self.image_ratio:g}, got none; set images or"
                " remove image_ratio"
            )
        return self
