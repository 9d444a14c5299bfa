"""Word probe: a reward's response to control words, over images."""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from srpo_ray.config import RunConfig
from srpo_ray.data.prompts import check_texts, load_prompts
from srpo_ray.data.text_files import TextFileError, read_text_file, split_lines
from srpo_ray.models.paths import SMALL_WORLD
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from srpo_ray.words.images import ProbeImages, from_folder, generated, rendered
from srpo_ray.words.readings import Pair, Reading, correlation, find_pairs, read_words, word_sets

RENDERED = 512
"""Default number of rendered images; the standard error of a correlation is then about 0.04."""

_LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
"""Letter of a script with blanks between words: all except Thai, Lao, Burmese, Khmer, kana and Chinese characters."""


@dataclass(frozen=True)
class WordProbe:
    """Result of a word probe; words are ordered by rank."""

    reward: str
    words: list[str]
    readings: list[Reading]
    counts: list[int] | None
    """Number of prompts of `--prompts` with each word."""
    num_prompts: int
    differences: Tensor
    """`[W, N]`."""
    cross_talk: list[list[float]]
    """`[W][W]`: correlation of the words' differences over images."""
    pairs: list[Pair]
    probed: ProbeImages

    @property
    def word_sets(self) -> dict[str, dict[str, list[str]]]:
        """Suggested sets of control words for a run config."""
        return word_sets(self.words, self.pairs)


def probe(
    config: RunConfig,
    reward: str,
    words: Sequence[str],
    *,
    images: Path | None = None,
    generate: int | None = None,
    prompts: str | None = None,
) -> WordProbe:
    """Measure the response of a config's reward model to words, in this process.

    Args:
        config: Run config with the reward and, for `generate`, the model and the evaluation prompts.
        reward: Name in `rewards.models` or `evaluation.held_out`.
        words: Candidate words, at least two.
        images: Folder of images.
        generate: Number of images to sample from the config's model instead. With neither, images are rendered, which
            only the small world supports.
        prompts: Prompt file in which the words are counted.

    Raises:
        ValueError: If an input cannot be used.
        RewardError: If the reward fails on an image.
    """
    models = {model.name: model for model in (*config.rewards.models, *config.evaluation.held_out)}
    if reward not in models:
        raise ValueError(
            f"--reward: expected a model of rewards.models or evaluation.held_out ({', '.join(models)}), got"
            f" {reward!r}; choose one of them or add it to the config"
        )
    if reward in config.text_free:
        raise ValueError(
            f"--reward: expected a model that reads text, got {reward!r} of type {models[reward].type}, whose score"
            " does not depend on words; choose another"
        )
    texts = load_prompts(prompts, "--prompts") if prompts else None
    if images is None and generate is None and config.model.path != SMALL_WORLD:
        raise ValueError(
            f"expected images for the probe, as model.path is {config.model.path!r} and only the small world"
            " can render images; give --images DIR or --generate N"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_rewards([models[reward]], device)[reward]
    if images is not None:
        probed = from_folder(images, model.image_size)
    else:
        probed = rendered(RENDERED) if generate is None else generated(config, generate, device)
    scorer = LocalRewards({reward: model}, {reward: 1.0}, micro_batch_size=config.rewards.pool.micro_batch_size)
    plain, differences = score_words(scorer, reward, probed, words)
    return read_scores(reward, words, plain, differences, probed, texts)


def score_words(scorer: RewardScorer, reward: str, images: ProbeImages, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Compute plain scores `[N]`, and `score("<word>. <caption>") - score("<caption>")` of every word, `[W, N]`.

    Raises:
        RewardError: If the reward fails on an image.
    """
    plain = [TextQuery.plain(caption) for caption in images.captions]
    scores = scorer.measure(images.images, plain, [reward])[reward]
    rows = []
    for word in tqdm(words, desc=f"{reward} on {len(plain)} images", unit="word", disable=None, leave=False):
        queries = [TextQuery(((1.0, f"{word}. {text}"), (-1.0, text))) for text in images.captions]
        rows.append(scorer.measure(images.images, queries, [reward])[reward])
    return scores, torch.stack(rows)


def read_scores(
    reward: str,
    words: Sequence[str],
    plain: Tensor,
    differences: Tensor,
    images: ProbeImages,
    prompts: Sequence[str] | None = None,
) -> WordProbe:
    """Compute readings from scores, rank the words and find opposites.

    Args:
        reward: Name of the reward, for the report.
        words: W words.
        plain: Plain scores `[N]`.
        differences: Score differences `[W, N]`.
        images: N images.
        prompts: Texts in which the words are counted.

    Raises:
        ValueError: If the images do not differ in their plain score or in any attribute.
    """
    arguments = (plain, images.attributes, images.axes)
    found = read_words(differences, *arguments)
    order = sorted(range(len(words)), key=lambda word: -found[word].score)
    ranked, differences = [words[word] for word in order], differences[order]
    readings = [found[word] for word in order]
    return WordProbe(
        reward=reward,
        words=ranked,
        readings=readings,
        counts=None if prompts is None else [count_word(word, prompts) for word in ranked],
        num_prompts=len(prompts or ()),
        differences=differences,
        cross_talk=correlation(differences, differences).tolist(),
        pairs=find_pairs(readings, differences, *arguments),
        probed=images,
    )


def count_word(word: str, prompts: Sequence[str]) -> int:
    """Count the prompts that contain a word or phrase as a whole word.

    Case, the kind of white space inside a phrase and the composition of accents are ignored. In Chinese, Japanese and
    other scripts without blanks between words, a word also counts inside a longer text.
    """
    phrase = r"\s+".join(re.escape(part) for part in unicodedata.normalize("NFC", word).split())
    pattern = re.compile(rf"(?<!{_LETTER}){phrase}(?!{_LETTER})", re.IGNORECASE)
    return sum(pattern.search(unicodedata.normalize("NFC", prompt)) is not None for prompt in prompts)


def parse_words(argument: str) -> list[str]:
    """Parse `detailed,oil painting,...`, or a .txt file with one word per line.

    Commas separate words in a file too. Repeated words are kept once. Files are read like prompt files.

    Raises:
        ValueError: If the file cannot be read or has several columns, a word has a control character, or there are
            fewer than two different words.
    """
    lines = _word_lines(argument)
    parts = check_texts([part for line in lines for part in line.split(",")], "the words", "--words")
    columns = next((part for part in parts if "\t" in part), None)
    if columns is not None:
        raise ValueError(
            f"--words: expected one word per line, got a tab in {columns!r} of {argument}; remove the other columns"
        )
    words = list(dict.fromkeys(part for part in parts if part))
    if len(words) < 2:
        raise ValueError(
            f"--words: expected at least two different words to compare, got {', '.join(words) or 'none'};"
            " add words, such as detailed,flat"
        )
    return words


def _word_lines(argument: str) -> list[str]:
    if not argument.lower().endswith(".txt"):
        if os.path.isfile(argument):  # `Path.is_file` raises for a list that is too long for a file name
            raise ValueError(f"--words: expected a .txt file with one word per line, got {argument}; convert it")
        return [argument]
    try:
        return split_lines(read_text_file(Path(argument)))
    except (OSError, TextFileError) as error:
        raise ValueError(
            f"--words: expected words separated by commas, or a readable .txt file with one word per line, got"
            f" {argument!r} ({error}); check the path (working folder: {Path.cwd()})"
        ) from error
