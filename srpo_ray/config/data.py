"""Config section of the prompts and images that a run trains on."""

from typing import Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.home import HomePath


class DataConfig(Section):
    """Section `data`: training prompts, real images and judged images."""

    prompts: HomePath = Field(default="small_world:train", min_length=1)
    """Prompt file (.txt, .json, .jsonl, .csv, .tsv or .parquet; columns: `read_prompts`), or `small_world:train`."""
    images: HomePath | None = Field(default=None, min_length=1)
    """Real images with captions that replace rollouts, or are compared with them (`source: self_play`): a folder of
    images, with subfolders, whose captions are in .txt or .json files of the same name; a webdataset .tar file; a
    .parquet file; a folder or glob pattern of such files; or `small_world:realistic`. The captions replace the
    prompts."""
    pairs: HomePath | None = Field(default=None, min_length=1)
    """Judged images with captions, which `type: preference` trains on: a .jsonl file with a row for each pair of images
    (`preferred`, `other`, `prompt`), each labelled image (`image`, `liked`, `prompt`) or each image with a wrong
    caption (`image`, `prompt`, `other_prompt`); or the embedded `small_world:pairs`, `small_world:labels` or
    `small_world:captions`, with options as in `small_world:pairs?noise=0.2`. The captions replace the prompts."""
    image_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the samples of each update that are real images; the others are rollouts of `prompts`. With 1,
    `prompts` is not read."""

    @property
    def reads_prompts(self) -> bool:
        """True if any sample is a rollout of `prompts`."""
        return self.pairs is None and (self.images is None or self.image_ratio < 1)

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.pairs and self.images:
            raise ValueError(
                f"expected either images or pairs, got images={self.images!r} and pairs={self.pairs!r}; remove one of"
                " them"
            )
        return self

    @model_validator(mode="after")
    def _check_ratio(self) -> Self:
        if self.image_ratio < 1 and self.images is None:
            raise ValueError(
                f"expected images to be set with image_ratio={self.image_ratio:g}, got none; name real images or"
                " leave out the ratio"
            )
        return self
