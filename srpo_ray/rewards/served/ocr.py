"""Agreement of the text in an image with the quoted text of its prompt, transcribed by a vision-language model."""

import re
from collections.abc import Sequence

from srpo_ray.config.served_rewards import OcrRewardConfig
from srpo_ray.rewards.served.base import Rated, ServedReward
from srpo_ray.rewards.served.chat import PATH, chat_body, read_text
from srpo_ray.rewards.served.client import ServerClient

QUESTION = (
    "Transcribe all text in this image, exactly as it is written. Answer with the text only, without quotation marks"
    " and without comments. If the image has no text, answer with an empty line."
)
_QUOTED = re.compile(r'"([^"]+)"|\u201c([^\u201d]+)\u201d|(?<!\w)\'([^\']+)\'(?!\w)|\u2018([^\u2019]+)\u2019(?!\w)')


class OcrReward(ServedReward):
    """`1 - min(edit distance, length) / length` of the quoted text, in [0, 1]; case and white space do not count.

    A transcript that contains the whole text scores 1, as in Flow-GRPO's reward, so text beside it costs nothing.

    Source: Flow-GRPO, arXiv:2505.05470, appendix (text rendering).
    """

    def __init__(self, config: OcrRewardConfig, client: ServerClient) -> None:
        super().__init__(config, client)
        self.config = config

    def rate(self, pairs: Sequence[Rated]) -> list[float]:
        """See `ServedReward.rate`; ValueError if a text quotes nothing."""
        wanted = [quoted_text(pair.text) for pair in pairs]
        # One transcript for all texts of an image.
        urls = list(dict.fromkeys(pair.data_url for pair in pairs))
        bodies = [chat_body(self.config, QUESTION, [url], self.config.max_tokens, logprobs=False) for url in urls]
        answers = self.client.post_all(PATH, bodies)
        transcripts = {url: read_text(answer) for url, answer in zip(urls, answers, strict=True)}
        return [text_agreement(transcripts[pair.data_url], text) for pair, text in zip(pairs, wanted, strict=True)]


def quoted_text(prompt: str) -> str:
    """Return the quoted parts of a prompt, joined by a space.

    Raises:
        ValueError: If there are none.
    """
    parts = [next(filter(None, match.groups())) for match in _QUOTED.finditer(prompt)]
    if not "".join(parts).strip():
        raise ValueError(
            f'expected a prompt with quoted text for the OCR reward, such as: a sign "OPEN"; got {prompt!r}'
        )
    return " ".join(parts)


def text_agreement(transcript: str, wanted: str) -> float:
    """Compute the agreement of a transcript with the wanted text, see `OcrReward`."""
    found, target = (re.sub(r"\s+", "", text).lower() for text in (transcript, wanted))
    if target in found:
        return 1.0
    return 1 - min(edit_distance(found, target), len(target)) / len(target)


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance: minimum number of inserted, deleted and replaced characters."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]
