"""From a reward, words and images to a study: which words the reward perceives, and how."""

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
"""Images that are rendered where none are given: a correlation is then off by about 0.04."""

_LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
"""A letter of a script with blanks between words: all but Thai, Lao, Burmese, Khmer, kana and Chinese characters."""


@dataclass(frozen=True)
class Study:
    """What a probe found; words are in the order of their rank."""

    reward: str
    words: list[str]
    readings: list[Reading]
    counts: list[int] | None
    """In how many prompts of `--prompts` each word occurs."""
    num_prompts: int
    differences: Tensor
    """`[W, N]`."""
    cross_talk: list[list[float]]
    """`[W][W]`: correlation of the words' differences over images."""
    pairs: list[Pair]
    probed: ProbeImages

    @property
    def word_sets(self) -> dict[str, dict[str, list[str]]]:
        """Suggested sets for a run config."""
        return word_sets(self.words, self.pairs)


def probe(
    config: RunConfig,
    reward: str,
    words: Sequence[str],
    *,
    images: Path | None = None,
    generate: int | None = None,
    prompts: str | None = None,
) -> Study:
    """Measure how a reward model of a config perceives words; runs in this process.

    Args:
        config: Run config that names the reward and, for `generate`, the model and the evaluation prompts.
        reward: A name in `rewards.models` or `evaluation.held_out`.
        words: Candidates, at least two.
        images: Folder of images to try the words on.
        generate: Number of images to sample from the config's model instead. With neither, images are rendered,
            which only the small world can.
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
            f"--reward: expected a model that reads text, got {reward!r} of type {models[reward].type}, which scores"
            " all words alike; choose another"
        )
    texts = load_prompts(prompts, "--prompts") if prompts else None
    if images is None and generate is None and config.model.path != SMALL_WORLD:
        raise ValueError(
            f"expected images to try the words on, as model.path is {config.model.path!r} and only the small world"
            " can render its own; give --images DIR or --generate N"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_rewards([models[reward]], device)[reward]
    if images is not None:
        probed = from_folder(images, model.image_size)
    else:
        probed = rendered(RENDERED) if generate is None else generated(config, generate, device)
    scorer = LocalRewards({reward: model}, {reward: 1.0}, micro_batch_size=config.rewards.pool.micro_batch_size)
    plain, differences = score_words(scorer, reward, probed, words)
    return study(reward, words, plain, differences, probed, texts)


def score_words(scorer: RewardScorer, reward: str, images: ProbeImages, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Plain scores `[N]`, and `score("<word>. <caption>") - score("<caption>")` of every word, `[W, N]`.

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


def study(
    reward: str,
    words: Sequence[str],
    plain: Tensor,
    differences: Tensor,
    images: ProbeImages,
    prompts: Sequence[str] | None = None,
) -> Study:
    """Read scores, rank the words and find opposites.

    Args:
        reward: Name of the reward, for people.
        words: W words.
        plain: Plain scores `[N]`.
        differences: `[W, N]`.
        images: N images.
        prompts: Texts to count the words in.

    Raises:
        ValueError: If the images do not differ in their plain score or in any attribute.
    """
    arguments = (plain, images.attributes, images.axes)
    found = read_words(differences, *arguments)
    order = sorted(range(len(words)), key=lambda word: -found[word].score)
    ranked, differences = [words[word] for word in order], differences[order]
    readings = [found[word] for word in order]
    return Study(
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
    """In how many prompts a word (or phrase) occurs as a whole word.

    Case, the kind of white space inside a phrase and the way that accents are composed do not count. In Chinese,
    Japanese and other scripts without blanks between words, a word also counts inside a longer text.
    """
    phrase = r"\s+".join(re.escape(part) for part in unicodedata.normalize("NFC", word).split())
    pattern = re.compile(rf"(?<!{_LETTER}){phrase}(?!{_LETTER})", re.IGNORECASE)
    return sum(pattern.search(unicodedata.normalize("NFC", prompt)) is not None for prompt in prompts)


def parse_words(argument: str) -> list[str]:
    """Words of `detailed,oil painting,...`, or of a .txt file with one a line.

    Commas separate words in a file too, and repeated words are kept once. Files are read as prompt files are.

    Raises:
        ValueError: If the file cannot be read or has several columns, a word has a control character, or fewer than
            two different words come.
    """
    lines = _word_lines(argument)
    parts = check_texts([part for line in lines for part in line.split(",")], "the words", "--words")
    columns = next((part for part in parts if "\t" in part), None)
    if columns is not None:
        raise ValueError(
            f"--words: expected one word a line, got a tab in {columns!r} of {argument}; remove the other columns"
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
        if os.path.isfile(argument):  # `Path.is_file` fails on a list that is too long for a name
            raise ValueError(f"--words: expected a .txt file with one word a line, got {argument}; convert it")
        return [argument]
    try:
        return split_lines(read_text_file(Path(argument)))
    except (OSError, TextFileError) as error:
        raise ValueError(
            f"--words: expected words with commas between, or a readable .txt file of one a line, got"
            f" {argument!r} ({error}); check the path (working folder: {Path.cwd()})"
        ) from error
