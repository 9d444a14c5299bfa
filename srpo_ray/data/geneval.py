"""Questions about prompts in the metadata format of GenEval (arXiv 2310.11513), for rewards of type `questions`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srpo_ray.files import write_text

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Answers to a question for a count."""
RELATIONS = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
}
"""Relation in the metadata -> its words in a question."""
FORM = '{"prompt": TEXT, "include": [{"class": NAME, "count": N, "color": NAME, "position": [RELATION, INDEX]}, ...]}'
Question = dict[str, str]
"""Question and its expected answer, by the keys `question` and `answer`."""


@dataclass(frozen=True)
class Asked:
    """Questions about one prompt."""

    questions: Sequence[Question]
    tag: str | None
    """Task of GenEval that the prompt belongs to, such as `two_object`; None if its line names none."""


def questions_about(metadata: Mapping[str, Any]) -> list[Question]:
    """Build the questions about one prompt: presence or count, colour and position of every object.

    An object that occurs once is asked for by yes or no, several by their number, which also answers GenEval's upper
    limit of a count.

    Args:
        metadata: Line of the metadata, with `include` and optionally `exclude`.

    Raises:
        ValueError: If a relation or a count is not one of GenEval's.
        KeyError, TypeError, IndexError: If the line has another form.
    """
    objects: Sequence[Mapping[str, Any]] = metadata["include"]
    questions: list[Question] = []
    for item in objects:
        questions.append(_presence(str(item["class"]), item["count"]))
        if "color" in item:
            questions.append({"question": f"What is the color of the {item['class']}?", "answer": str(item["color"])})
        if "position" in item:
            relation, index = item["position"]
            if relation not in RELATIONS or index < 0:
                raise ValueError(f"position {item['position']}; known relations: {', '.join(RELATIONS)}")
            where = f"{RELATIONS[relation]} the {objects[index]['class']}"
            questions.append({"question": f"Is the {item['class']} {where}?", "answer": "yes"})
    counted = {item["class"] for item in objects}
    # More of an object than wanted is another answer to the question for its count.
    absent = [str(item["class"]) for item in metadata.get("exclude", []) if item["class"] not in counted]
    return questions + [_presence(name, 1) | {"answer": "no"} for name in absent]


def _presence(name: str, count: int) -> Question:
    if not isinstance(count, int) or not 1 <= count < len(NUMBERS):
        raise ValueError(f"count {count!r}")
    if count > 1:
        question = f'How many objects of the kind "{name}" does the image show?'
        return {"question": question, "answer": NUMBERS[count]}
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return {"question": f"Does the image show {article} {name}?", "answer": "yes"}


def read_questions_about(sources: Sequence[str]) -> dict[str, Asked]:
    """Read metadata files, JSON lines, and build the questions about every prompt.

    Returns:
        Prompt, with single spaces, -> its questions and its task; of repeated prompts, the first counts.

    Raises:
        ValueError: If a file cannot be read, or a line has another form.
    """
    found: dict[str, Asked] = {}
    for source in sources:
        try:
            lines = Path(source).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--questions: expected a readable file of JSON lines, got {source} ({error})") from None
        for number, line in enumerate(lines, start=1):
            if line.strip():
                prompt, asked = _parse(line, f"{source}, line {number}")
                found.setdefault(prompt, asked)
    return found


def _parse(line: str, where: str) -> tuple[str, Asked]:
    try:
        value: Any = json.loads(line)
        prompt, questions, tag = " ".join(value["prompt"].split()), questions_about(value), value.get("tag")
        if tag is not None and not (isinstance(tag, str) and tag):
            raise ValueError(f"tag {tag!r}")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"--questions: expected metadata of GenEval, {FORM}, in {where}, got {line[:100]!r}"
            f" ({type(error).__name__}: {error})"
        ) from None
    if not prompt or not questions:
        raise ValueError(f"--questions: expected a prompt and at least one object in {where}, got {line[:100]!r}")
    return prompt, Asked(questions, tag)


def write_questions(path: Path, asked: Mapping[str, Asked]) -> None:
    """Write the file of a reward of type `questions`.

    Raises:
        ValueError: If a file with other questions exists, or the file cannot be written.
    """
    lines = (
        {"prompt": prompt, **({"tag": each.tag} if each.tag else {}), "questions": each.questions}
        for prompt, each in asked.items()
    )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if path.exists() and path.read_bytes() != text.encode():
        raise ValueError(
            f"--questions: expected no other questions in {path}, got a file with others, which earlier runs may have"
            " used; remove it or name another file"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise ValueError(f"--questions: expected a writable file, got {path} ({error}); choose another") from error
