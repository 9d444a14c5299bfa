"""Checks for data leakage: prompts that are trained on and judged by, and held-out models that are trained rewards."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from srpo_ray.config import RunConfig
from srpo_ray.config.rewards import PythonRewardConfig, RewardModelSection
from srpo_ray.config.sources import text_key
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.texts import Texts
from srpo_ray.runs.input_files import weight_hashes

_MOST_SHARED = 0.5
"""Share of prompts in common with another set above which a run is refused."""
_SHOWN = 2
_TRAINED, _CHOSEN = (
    "scores on them do not show overfitting to these prompts",
    "a test must be on prompts that chose nothing",
)


@dataclass(frozen=True)
class Overlap:
    """Prompts of an evaluation that another set of a run's texts has too."""

    key: str
    """Config key of the evaluation's prompts."""
    other: str
    """Config key of the other texts."""
    shared: tuple[str, ...]
    count: int
    """Number of the evaluation's prompts."""

    @property
    def refused(self) -> bool:
        """True if more than half of the prompts are shared."""
        return len(self.shared) > _MOST_SHARED * self.count

    def __str__(self) -> str:
        kind = "validation" if self.other == "evaluation.prompts" else "training"
        expected = "the run does not train on" if kind == "training" else "choose nothing"
        shown = ", ".join(map(repr, self.shared[:_SHOWN])) + (", ..." if len(self.shared) > _SHOWN else "")
        number = f"{len(self.shared)} of {self.count} that {self.other} has too ({shown})"
        why = _TRAINED if kind == "training" else _CHOSEN
        return f"{self.key}: expected prompts that {expected}, got {number}; {why}, so choose others or remove these"


def check_leakage(config: RunConfig, texts: Texts) -> None:
    """Check that what judges a run is not what it trains on or what chooses its weights.

    Args:
        config: The run.
        texts: Texts of the run.

    Raises:
        ValueError: If more than half of the validation or test prompts are training texts, or of the test prompts are
            validation prompts; if test and validation share their noise; or if a held-out model has the weights of a
            trained reward.
    """
    refused = [str(overlap) for overlap in overlaps(texts) if overlap.refused]
    if refused:
        raise ValueError("\n".join(refused))
    test = config.evaluation.test
    if test and test.seed == config.evaluation.seed:
        raise ValueError(
            f"evaluation.test.seed: expected another seed than evaluation.seed, got {test.seed} for both; the noise of"
            " the validation chose settings and weights, so choose another seed"
        )
    check_held_out_weights(config)


def leakage_notes(texts: Texts) -> list[str]:
    """List notes on evaluation prompts of which up to a half are training texts, or test prompts of the validation."""
    return [str(overlap) for overlap in overlaps(texts) if not overlap.refused]


def overlaps(texts: Texts) -> Iterator[Overlap]:
    """Find the prompts of the validation and the test that are training texts, and those of the test in the validation.

    Texts that differ only in case, white space or closing punctuation are the same. A prompt is shared if the text that
    rewards read or the text that conditions the model is one of either kind in the other set.
    """
    by_key = texts.by_key
    for key, others in (
        ("evaluation.prompts", ("data.prompts", "data.images", "data.pairs")),
        ("evaluation.test.prompts", ("data.prompts", "data.images", "data.pairs", "evaluation.prompts")),
    ):
        for other in others:
            if key not in by_key or other not in by_key:
                continue
            shared = _shared(by_key[key], by_key[other])
            if shared:
                yield Overlap(key, other, shared, len(by_key[key]))


def _shared(rows: PromptRows, others: PromptRows) -> tuple[str, ...]:
    known = {text_key(text) for text in (*others.prompts, *others.conditioning)}
    pairs = zip(rows.prompts, rows.conditioning, strict=True)
    return tuple(prompt for prompt, text in pairs if not known.isdisjoint((text_key(prompt), text_key(text))))


def check_held_out_weights(config: RunConfig) -> None:
    """Check by the content of their files that held-out models are not trained rewards, such as a copy of one.

    Raises:
        ValueError: If a held-out model has the weights of a trained reward.
    """
    for evaluator in config.evaluation.held_out:
        for model in config.rewards.models:
            if _same_weights(evaluator, model):
                raise ValueError(
                    f"evaluation.held_out: expected models that are not trained on, got {evaluator.name!r}, whose"
                    f" weights are those of the trained model {model.name!r} ({_source(evaluator)} and"
                    f" {_source(model)} have the same content); its score would rise with the training reward and hide"
                    " reward hacking, so take another checkpoint or remove one of the two"
                )


def _same_weights(one: RewardModelSection, other: RewardModelSection) -> bool:
    """Test whether two models share weights: a head and its backbone both, if both models have them."""
    if isinstance(one, PythonRewardConfig) and isinstance(other, PythonRewardConfig):
        return one.target == other.target and _same_arguments(one.arguments, other.arguments)
    pairs = [(getattr(one, name, None), getattr(other, name, None)) for name in ("path", "backbone")]
    (path, other_path), (backbone, other_backbone) = pairs
    if not path or not other_path or not _same_content(path, other_path):
        return False
    return not backbone or not other_backbone or _same_content(backbone, other_backbone)


def _same_arguments(ours: Mapping[str, object], theirs: Mapping[str, object]) -> bool:
    """Test whether a class of a user would load the same weights: arguments are equal, or files of equal content."""
    return ours.keys() == theirs.keys() and all(
        value == theirs[name] or _same_content(value, theirs[name]) for name, value in ours.items()
    )


def _same_content(source: object, other: object) -> bool:
    if not isinstance(source, str) or not isinstance(other, str):
        return False
    return source == other or bool(weight_hashes(source) & weight_hashes(other))


def _source(model: RewardModelSection) -> str:
    return getattr(model, "path", "") or getattr(model, "target", "")
