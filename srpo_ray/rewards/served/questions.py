"""Question reward: the judge's probabilities of the expected answers to questions about a prompt."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srpo_ray.config.served_rewards import QuestionsRewardConfig
from srpo_ray.rewards.served.base import Rated, ServedReward
from srpo_ray.rewards.served.chat import PATH, Position, chat_body, normal, read_answer
from srpo_ray.rewards.served.client import ServerClient

INSTRUCTION = "{question} Answer with one word and nothing else."
_DIGITS = {
    word: str(number)
    for number, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), start=1)
}
"""Answer to a question for a count -> the same answer as a digit."""


@dataclass(frozen=True)
class Question:
    """Question about one atom of a prompt (an object, a count, a colour, a relation), and its expected answer."""

    question: str
    answer: str
    """One word that is one token of the judge, such as `yes`, `two` or `red`."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Expected answer, and the digit of a number from one to nine."""
        word = normal(self.answer)
        return (word, _DIGITS[word]) if word in _DIGITS else (word,)

    def probability(self, position: Position) -> float:
        """Probability of the expected answer."""
        return sum(position.of(answer) for answer in self.answers)

    def is_answered(self, position: Position) -> bool:
        """True if the expected answer is the most probable one."""
        others = (chance for token, chance in position.probabilities.items() if token not in self.answers)
        return self.probability(position) > max(others, default=0.0)


class QuestionsReward(ServedReward):
    """`(prod_j p(expected answer j))^(1/n)` over the n questions of a prompt, in [0, 1].

    With `score: correct`, the score is 1 if every expected answer is the most probable one, else 0.

    Args:
        config: Server and model.
        client: Sends the requests.
        questions: Prompt -> its questions.

    Source: Soft-TIFA of GenEval 2, arXiv:2512.16853.
    """

    def __init__(
        self, config: QuestionsRewardConfig, client: ServerClient, questions: Mapping[str, Sequence[Question]]
    ) -> None:
        super().__init__(config, client)
        self.config = config
        self._questions = questions

    @classmethod
    def load(cls, config: QuestionsRewardConfig, _device: str = "cpu") -> "QuestionsReward":
        """Read the questions, connect to the server and check that the judge answers.

        Raises:
            ValueError: If the file cannot be used or the judge does not answer with token probabilities.
        """
        questions = read_questions(config.questions)
        reward = cls(config, ServerClient(config), questions)
        reward.check(next(iter(questions)))
        return reward

    def rate(self, pairs: Sequence[Rated]) -> list[float]:
        """See `ServedReward.rate`; ValueError if a text has no questions."""
        asked = [(pair, question) for pair in pairs for question in self._of(pair.text)]
        bodies = [
            chat_body(self.config, INSTRUCTION.replace("{question}", question.question), [pair.data_url], 1)
            for pair, question in asked
        ]
        answers = iter(self.client.post_all(PATH, bodies))
        return [
            self._score([(question, read_answer(next(answers)).positions[0]) for question in self._of(pair.text)])
            for pair in pairs
        ]

    def _score(self, answered: Sequence[tuple[Question, Position]]) -> float:
        if self.config.score == "correct":
            return float(all(question.is_answered(position) for question, position in answered))
        return _geometric_mean([question.probability(position) for question, position in answered])

    def _of(self, text: str) -> Sequence[Question]:
        return questions_of(self._questions, text, self.config.questions)


def questions_of(questions: Mapping[str, Sequence[Question]], prompt: str, path: str) -> Sequence[Question]:
    """Return the questions about a prompt.

    Raises:
        ValueError: If the file at `path` has none.
    """
    if prompt not in questions:
        raise ValueError(f"expected questions for the prompt {prompt!r} in {path}, got none; add them")
    return questions[prompt]


def _geometric_mean(values: Sequence[float]) -> float:
    if min(values) == 0:
        return 0.0
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def read_questions(path: str) -> dict[str, tuple[Question, ...]]:
    """Read a file of questions: JSON lines `{"prompt": TEXT, "questions": [{"question": TEXT, "answer": WORD}]}`.

    Raises:
        ValueError: If the file cannot be read, or a line is something else.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"questions: expected a readable file of JSON lines, got {path!r} ({error})") from None
    found: dict[str, tuple[Question, ...]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            prompt, questions = _parse(line, f"{path}, line {number}")
            found[prompt] = questions
    if not found:
        raise ValueError(f"questions: expected at least one line in {path}, got none")
    return found


def read_tags(path: str) -> dict[str, str]:
    """Read the categories of the prompts of a file of questions, which `read_questions` has accepted.

    Returns:
        Prompt -> its tag; prompts without one are left out.

    Raises:
        ValueError: If a tag is no text.
    """
    lines = (json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    tags = {line["prompt"]: line["tag"] for line in lines if line.get("tag") is not None}
    for prompt, tag in tags.items():
        if not isinstance(tag, str) or not tag:
            raise ValueError(f"questions: expected a text as tag in {path}, got {tag!r} for {prompt!r}; correct it")
    return tags


def _parse(line: str, where: str) -> tuple[str, tuple[Question, ...]]:
    try:
        value: Any = json.loads(line)
        questions = tuple(Question(str(each["question"]), _word(each["answer"])) for each in value["questions"])
        prompt = value["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{where}: expected {{"prompt": TEXT, "questions": [{{"question": TEXT, "answer": WORD}}]}}, got'
            f" {line[:100]!r} ({type(error).__name__}: {error})"
        ) from None
    if not questions or not isinstance(prompt, str):
        raise ValueError(f"{where}: expected a prompt and at least one question, got {line[:100]!r}")
    return prompt, questions


def _word(answer: Any) -> str:
    if not isinstance(answer, str) or len(answer.split()) != 1:
        raise ValueError(f"the answer {answer!r} is not one word")
    return answer
