"""The prompts and images that a run trains on."""

from typing import Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section


class DataConfig(Section):
    """Section `data`."""

    prompts: str = Field(default="small_world:train", min_length=1)
    """Prompt file (.txt, .json, .jsonl, .csv, .tsv or .parquet; columns: `read_prompts`), or `small_world:train`."""
    images: str | None = Field(default=None, min_length=1)
    """Real images with captions in place of rollouts: a folder whose images, also in folders below, have their
    captions in .txt or .json files of the same name, a webdataset .tar file, a .parquet file, a folder or pattern of
    such files, or `small_world:realistic`. Their captions are then the prompts."""
    image_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the samples of each update that are real images; the others are rollouts of `prompts`, which are not
    read where it is 1."""

    @property
    def reads_prompts(self) -> bool:
        """Whether any sample is a rollout of `prompts`."""
        return self.images is None or self.image_ratio < 1

    @model_validator(mode="after")
    def _check_ratio(self) -> Self:
        if self.image_ratio < 1 and self.images is None:
            raise ValueError(
                f"expected images to be set with image_ratio={self.image_ratio:g}, got none; name real images or"
                " leave out the ratio"
            )
        return self
