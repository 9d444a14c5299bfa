"""Requests to and answers of a vision-language model behind the OpenAI-compatible chat API."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srpo_ray.config.served_rewards import JudgeServerSection
from srpo_ray.rewards.served.client import ServerError

PATH = "/chat/completions"
_MARKS = " \t\r\n\u2581\u0120\u010a"
"""White space, and its signs in the vocabularies of SentencePiece and byte-level BPE."""


@dataclass(frozen=True)
class Position:
    """One generated token, and the most probable tokens at its place."""

    token: str
    probabilities: Mapping[str, float]
    """Normalised token -> probability; tokens that differ only in case and spaces are added."""

    def of(self, word: str) -> float:
        """Probability of an answer of one token; 0 if it is not among the most probable ones."""
        return self.probabilities.get(normal(word), 0.0)


@dataclass(frozen=True)
class Answer:
    """Generated text and its token probabilities."""

    text: str
    positions: tuple[Position, ...]


def normal(token: str) -> str:
    """Return a token without white space around it and in lower case."""
    return token.strip(_MARKS).lower()


def chat_body(
    config: JudgeServerSection, text: str, images: Sequence[str], max_tokens: int, *, logprobs: bool = True
) -> dict[str, Any]:
    """Build a request: the images, then the text, greedy decoding.

    Args:
        config: Name of the model and number of token probabilities.
        text: Question.
        images: Data URLs.
        max_tokens: Maximum length of the answer.
        logprobs: Ask for token probabilities.
    """
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    content.append({"type": "text", "text": text})
    body = {
        "model": config.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    return body | ({"logprobs": True, "top_logprobs": config.top_logprobs} if logprobs else {})


def read_text(answer: Any) -> str:
    """Return the text of an answer.

    Raises:
        ServerError: If the answer has none.
    """
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ServerError(f"expected choices[0].message.content in the judge's answer, received {str(answer)[:200]}")
    return text


def read_answer(answer: Any) -> Answer:
    """Return the text and the token probabilities of an answer.

    Raises:
        ServerError: If the answer has no text, no log-probabilities, or some that are not those of probabilities.
    """
    text = read_text(answer)
    try:
        content = answer["choices"][0]["logprobs"]["content"]
        positions = tuple(_position(entry) for entry in content)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ServerError(
            "expected token probabilities (choices[0].logprobs.content) in the judge's answer, received none or"
            f" malformed ones ({type(error).__name__}: {error}); use a server and a model that support logprobs, such"
            " as vLLM or SGLang"
        ) from None
    if not positions:
        raise ServerError("expected an answer of at least one token from the judge, received an empty one")
    return Answer(text, positions)


def expected_value(position: Position, values: Mapping[str, float], least: float) -> float:
    """Mean value of the answers under the judge's probabilities.

    Args:
        position: Token of the answer.
        values: Answer -> its value.
        least: Minimum total probability of the answers.

    Raises:
        ServerError: If the answers together are less probable.
    """
    chances = {word: position.of(word) for word in values}
    total = math.fsum(chances.values())
    if total < least or total == 0:
        raise ServerError(
            f"expected the judge to answer with one of {', '.join(values)}, received {position.token!r}; these answers"
            f" have a total probability of {total:.3g}, below min_probability={least:g}, so the judge did not follow"
            " the question: change the question or the model"
        )
    return math.fsum(chance * values[word] for word, chance in chances.items()) / total


def _position(entry: Any) -> Position:
    probabilities: dict[str, float] = {}
    for choice in entry["top_logprobs"] or [entry]:
        logprob = float(choice["logprob"])
        # The small excess is rounding of the server.
        if math.isnan(logprob) or logprob > 1e-3:
            raise ValueError(f"a log-probability of {logprob}")
        token = normal(str(choice["token"]))
        probabilities[token] = probabilities.get(token, 0.0) + math.exp(logprob)
    return Position(str(entry["token"]), probabilities)
