"""Texts of a run: training prompts and captions, validation and test prompts, and their sources."""

from dataclasses import dataclass

from srpo_ray.config import RunConfig
from srpo_ray.data.images import RealImages, load_images
from srpo_ray.data.pairs import JudgedImages, load_judged
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.prompts import read_prompts
from srpo_ray.models.families import family_of


@dataclass(frozen=True)
class Texts:
    """All texts of a run, and its real images, which are read on demand."""

    images: RealImages | None
    training: PromptRows
    """Rows of `data.prompts`; empty if every sample is a real image."""
    validation: PromptRows
    """First `evaluation.num_prompts` rows of the validation prompts."""
    test: PromptRows
    """First `evaluation.test.num_prompts` rows of the test prompts; empty without a test."""
    guidance: list[str]
    """The empty prompt if classifier-free guidance or the evaluations' contrast reads it; otherwise no text."""
    notes: list[str]
    """Notes for the user about the sources, each with its config key."""
    judged: JudgedImages | None = None
    """Judged images of `data.pairs`."""
    own_captions: bool = False
    """True if the second image of a pair has a caption of its own."""

    @property
    def prompts(self) -> list[str]:
        """Training prompts as rewards read them."""
        return self.training.prompts

    @property
    def others(self) -> list[str]:
        """Captions of the second images of all pairs; empty if both images of a pair have one caption."""
        return self.judged.other_captions if self.judged and self.own_captions else []

    @property
    def evaluated(self) -> list[str]:
        """Validation prompts as rewards read them."""
        return self.validation.prompts

    @property
    def captions(self) -> PromptRows:
        """Captions of the real or judged images, which both the model and the rewards read."""
        given = self.images or self.judged
        return PromptRows.plain(given.captions if given else [])

    @property
    def given(self) -> RealImages | None:
        """Real or judged images; None without any."""
        return self.judged.images if self.judged else self.images

    @property
    def images_of_captions(self) -> list[tuple[int, ...]]:
        """Indices in `given` of the images of each caption: a real image, or the images of a judgement."""
        if self.judged:
            return [row.images for row in self.judged.rows]
        return [(index,) for index in range(len(self.captions))]

    @property
    def trained(self) -> PromptRows:
        """Rows that the run trains on: captions of the real or judged images first, then prompts."""
        return self.captions + self.training

    def samples(self, images_per_prompt: int) -> PromptRows:
        """`trained` with the prompts as often as each has images, in the order of `SampleOrder.indices`."""
        return self.trained + self.training * (images_per_prompt - 1)

    @property
    def encoded(self) -> list[str]:
        """All texts whose features the run needs."""
        rows = (self.trained, self.validation, self.test)
        return [*(text for part in rows for text in part.conditioning), *self.others, *self.guidance]

    @property
    def by_key(self) -> dict[str, PromptRows]:
        """Config key -> the rows of its source."""
        given = {"data.images": self.captions} if self.images else {}
        given |= {"data.pairs": self.captions + PromptRows.plain(self.others)} if self.judged else {}
        tested = {"evaluation.test.prompts": self.test} if len(self.test) else {}
        return given | {"data.prompts": self.training, "evaluation.prompts": self.validation} | tested


def read_texts(config: RunConfig) -> Texts:
    """Read the prompt files and captions of a run.

    Raises:
        ValueError: If a file cannot be used, or `model.path` is not a model of a known family.
    """
    images = load_images(config.data.images) if config.data.images else None
    kind, own = config.algorithm.judged, config.algorithm.uses_own_captions
    judged = load_judged(config.data.pairs, kind, own_captions=own) if config.data.pairs and kind else None
    trained = read_prompts(config.data.prompts) if config.data.reads_prompts else None
    evaluated = read_prompts(config.evaluation.prompts, "evaluation.prompts")
    test = config.evaluation.test
    tested = read_prompts(test.prompts, "evaluation.test.prompts") if test else None
    notes = {
        "data.images": images.note if images else None,
        "data.pairs": judged.note if judged else None,
        "algorithm.confidence_slope": _slope_note(config, judged) if judged else None,
        "data.prompts": trained.note if trained else None,
        "evaluation.prompts": evaluated.note,
        "evaluation.test.prompts": tested.note if tested else None,
    }
    return Texts(
        images,
        trained.rows if trained else PromptRows.plain([]),
        evaluated.rows.first(config.evaluation.num_prompts),
        tested.rows.first(test.num_prompts) if test and tested else PromptRows.plain([]),
        family_of(config.model.path).empty_texts(contrasted=config.evaluation.contrast_text != 1),
        [f"{key}: {note}" for key, note in notes.items() if note],
        judged,
        own,
    )


def _slope_note(config: RunConfig, judged: JudgedImages) -> str | None:
    """Build a note for a slope by confidence where all rows have the confidence 1."""
    factor = getattr(config.algorithm, "confidence_slope", None)
    # The preferred image of a pair has the probability 1, as the labels of single images and captions have.
    if factor is None or not bool((judged.labels[:, 0].abs() == 1).all()):
        return None
    return (
        f"all rows of {config.data.pairs} have the confidence 1, so the slope is {factor:g} beta for each; make pairs"
        " with a confidence (`srpo-ray rank --temperature`), or remove algorithm.confidence_slope"
    )
