"""The texts of a run: which it trains on, which it is evaluated by, and where they come from."""

from dataclasses import dataclass

from srpo_ray.config import RunConfig
from srpo_ray.data.images import RealImages, load_images
from srpo_ray.data.prompts import read_prompts
from srpo_ray.models.families import family_of


@dataclass(frozen=True)
class Texts:
    """All texts of a run, and its real images, unread."""

    images: RealImages | None
    prompts: list[str]
    """Of `data.prompts`; none if every sample is a real image."""
    evaluated: list[str]
    """The evaluation prompts that are used."""
    guidance: list[str]
    """The empty prompt, where the model's guidance is classifier-free; else none."""
    notes: list[str]
    """What a person should know of the sources, each with its config key."""

    @property
    def trained(self) -> list[str]:
        """Captions of the real images first, then prompts."""
        return [*(self.images.captions if self.images else []), *self.prompts]

    def samples(self, images_per_prompt: int) -> list[str]:
        """`trained` with the prompts as often as each has images, in the order of `SampleOrder.indices`."""
        return [*self.trained, *self.prompts * (images_per_prompt - 1)]

    @property
    def encoded(self) -> list[str]:
        """All texts whose features a run needs."""
        return [*self.trained, *self.evaluated, *self.guidance]

    @property
    def by_key(self) -> dict[str, list[str]]:
        """The texts by the config key that they come from."""
        captions = {"data.images": self.images.captions} if self.images else {}
        return captions | {"data.prompts": self.prompts, "evaluation.prompts": self.evaluated}


def read_texts(config: RunConfig) -> Texts:
    """Read the prompt files and captions of a run.

    Raises:
        ValueError: If a file cannot be used, or there is no model of a known family.
    """
    images = load_images(config.data.images) if config.data.images else None
    trained = read_prompts(config.data.prompts) if config.data.reads_prompts else None
    evaluated = read_prompts(config.evaluation.prompts, "evaluation.prompts")
    notes = {
        "data.images": images.note if images else None,
        "data.prompts": trained.note if trained else None,
        "evaluation.prompts": evaluated.note,
    }
    return Texts(
        images,
        trained.prompts if trained else [],
        evaluated.prompts[: config.evaluation.num_prompts],
        family_of(config.model.path).guidance_texts,
        [f"{key}: {note}" for key, note in notes.items() if note],
    )
