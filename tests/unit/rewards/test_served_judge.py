"""Judges behind an OpenAI-compatible server, against a stand-in server with real sockets."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.served_rewards import JudgeRewardConfig, OcrRewardConfig, QuestionsRewardConfig
from srpo_ray.config.sources import same_model
from srpo_ray.data.texts import read_texts
from srpo_ray.launch.reward_checks import check_reward_prompts
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards, declares_image_gradient
from srpo_ray.rewards.served import client
from srpo_ray.rewards.served.ocr import edit_distance, quoted_text, text_agreement
from srpo_ray.rewards.served.questions import read_tags
from tests.conftest import SMALL_WORLD
from tests.helpers.rewards.http_server import Reply, Seen, chat_answer, http_server

YES = chat_answer({"Yes": 0.6, " yes": 0.1, "No": 0.25})


def judge(url: str, **more: Any) -> JudgeRewardConfig:
    return JudgeRewardConfig(name="judge", url=url, model="tiny", image_size=16, **more)


def image_of(body: Any, index: int = 0) -> np.ndarray:
    url = body["messages"][0]["content"][index]["image_url"]["url"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))))


def text_of(body: Any) -> str:
    return body["messages"][0]["content"][-1]["text"]


def score(config: Any, *queries: TextQuery, images: torch.Tensor | None = None) -> list[float]:
    rewards = LocalRewards.load([config])
    pixels = torch.rand(len(queries), 3, 16, 16) if images is None else images
    return rewards.submit(pixels, queries).result().raw[config.name].tolist()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)


def test_vqascore_is_the_probability_of_yes_in_all_spellings() -> None:
    with http_server(lambda _: Reply(YES)) as server:
        assert score(judge(server.url), TextQuery.plain("a cat")) == pytest.approx([0.7])

    assert text_of(server.bodies[-1]) == 'Does this figure show "a cat"? Please answer yes or no.'
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.bodies[-1]["temperature"] == 0
    assert (server.bodies[-1]["model"], server.bodies[-1]["top_logprobs"]) == ("tiny", 20)


def test_image_reaches_the_server_without_loss() -> None:
    steps = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    with http_server(lambda _: Reply(YES)) as server:
        score(judge(server.url), *[TextQuery.plain("a"), TextQuery.plain("b")], images=steps / 255)

    sent = {text_of(body).split('"')[1]: image_of(body) for body in server.bodies[1:]}
    for name, image in zip("ab", steps, strict=True):
        assert (sent[name] == image.permute(1, 2, 0).numpy()).all()


def test_rating_is_the_mean_under_the_probabilities_of_the_ratings() -> None:
    answer = chat_answer({"4": 0.5, "5": 0.3, "bad": 0.2})
    with http_server(lambda _: Reply(answer)) as server:
        config = judge(server.url, template="rubric", rubric="Rate {prompt} from 1 to 5.")
        assert score(config, TextQuery.plain("a dog")) == pytest.approx([(4 * 0.5 + 5 * 0.3) / 0.8])
    assert text_of(server.bodies[-1]) == "Rate a dog from 1 to 5."


def test_unified_reward_is_the_mean_of_three_scores_with_their_decimals() -> None:
    answer = chat_answer(
        *("Alignment", " Score", " (1-5):", " ", {"3": 0.5, "4": 0.5}, ".", {"5": 0.75, "1": 0.25}, "\n"),
        *("Coherence Score (1-5):", " ", {"2": 0.9, "1": 0.1}, "\n"),
        *("Style Score", " (1-5)", ":", {" 5": 0.8, " 4": 0.2}),
    )
    with http_server(lambda _: Reply(answer)) as server:
        expected = (3.5 + (0.75 * 5 + 0.25 * 1) / 10 + 1.9 + 4.8) / 3
        assert score(judge(server.url, template="unified_reward"), TextQuery.plain("a")) == pytest.approx([expected])


def test_weighted_query_is_the_weighted_sum_of_the_ratings_of_its_texts() -> None:
    def answer(body: Any) -> Reply:
        return Reply(chat_answer({"yes": 0.9, "no": 0.1} if "Real" in text_of(body) else {"yes": 0.3, "no": 0.7}))

    query = TextQuery(((1.5, "Real. a cat"), (-1.0, "Painting. a cat")))
    with http_server(answer) as server:
        assert score(judge(server.url), query, TextQuery.plain("a")) == pytest.approx([1.5 * 0.9 - 0.3, 0.3])


def test_all_images_of_a_call_are_requested_at_once_up_to_the_limit() -> None:
    with http_server(lambda _: Reply(YES, delay_s=0.1)) as server:
        score(judge(server.url, concurrency=3), *[TextQuery.plain("a")] * 8)
    assert server.most_at_once == 3


def test_answers_keep_the_order_of_the_images_when_the_first_is_the_slowest() -> None:
    def answer(body: Any) -> Reply:
        index = int(re.findall(r"number (\d)", text_of(body) + "number 9")[0])
        return Reply(chat_answer({"yes": 0.1 * index, "no": 1 - 0.1 * index}), delay_s=0.1 if index == 1 else 0)

    with http_server(answer) as server:
        found = score(judge(server.url), *[TextQuery.plain(f"number {index}") for index in (1, 2, 3)])
    assert found == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("failure", [Reply({}, status=503), Reply({}, status=429), Reply(hang_up=True)])
def test_request_that_fails_twice_is_repeated_until_it_succeeds(failure: Reply) -> None:
    left = [failure, failure]
    with http_server(lambda _: left.pop() if len(server.bodies) > 1 and left else Reply(YES)) as server:
        assert score(judge(server.url), TextQuery.plain("a")) == pytest.approx([0.7])
    assert len(server.bodies) == 1 + 3


NO_LOGPROBS = {"choices": [{"message": {"content": "yes"}, "logprobs": None}]}


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        (Reply({"error": "busy"}, status=500), r"HTTP 500.*busy.*2 attempts", 2),
        (Reply({"error": "wrong key"}, status=401), r"HTTP 401.*wrong key.*1 attempt\b", 1),
        (Reply(YES, delay_s=1), r"none within 0\.2 s.*2 attempts", 2),
        (Reply(hang_up=True), r"no connection or a broken one.*2 attempts", 2),
        (Reply(b"<html>"), r"not JSON: <html>", 1),
        (Reply({"choices": []}), r"choices\[0\].message.content", 1),
        (Reply(NO_LOGPROBS), r"token probabilities.*vLLM", 1),
        (Reply(chat_answer("7")), r"one of yes, no, received '7'.*min_probability", 1),
        (Reply(chat_answer({"maybe": 0.6, "yes": 0.4})), r"probability of 0\.4, below min_probability=0\.5", 1),
        (Reply(chat_answer({"yes": 3.0})), r"log-probability of 1\.0", 1),
        (Reply({"choices": [{"message": {"content": ""}, "logprobs": {"content": []}}]}), "an empty one", 1),
    ],
    ids=[
        "500",
        "401",
        "slow",
        "hang up",
        "no JSON",
        "no choices",
        "no logprobs",
        "no answer",
        "unsure",
        "p > 1",
        "empty",
    ],
)
def test_server_without_a_usable_answer_is_one_error_before_the_run_and_in_it(
    reply: Reply, message: str, requests: int
) -> None:
    options = {"timeout_s": 0.2, "max_attempts": 2}
    with http_server(lambda _: reply) as server, pytest.raises(ValueError, match=rf"'judge'.*{message}"):
        build_rewards([judge(server.url, **options)])
    assert len(server.bodies) == requests

    with http_server(lambda _: Reply(YES) if len(server.bodies) == 1 else reply) as server:
        with pytest.raises(RewardError, match=rf"(?s)'judge'.*'a red cat'.*{message}"):
            score(judge(server.url, **options), TextQuery.plain("a red cat"))


def test_server_that_does_not_exist_is_one_message() -> None:
    with http_server(lambda _: Reply(YES)) as gone:
        pass
    with pytest.raises(ValueError, match=r"'judge': expected an answer of the server at http.*check `url`"):
        build_rewards([judge(gone.url, max_attempts=2)])


def test_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-1234")
    with http_server(lambda _: Reply({"error": "bad key sk-secret-1234"}, status=401)) as server:
        with pytest.raises(ValueError, match=r"bad key \*\*\*") as caught:
            build_rewards([judge(server.url, api_key="${JUDGE_KEY}")])
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-1234"
    assert "sk-secret" not in str(caught.value)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match="JUDGE_KEY"):
        build_rewards([judge(server.url, api_key="${JUDGE_KEY}")])


def test_ocr_scores_the_edit_distance_to_the_quoted_text() -> None:
    def answer(body: Any) -> Reply:
        assert "logprobs" not in body
        return Reply(chat_answer("OPN NOW"))

    with http_server(answer) as server:
        config = OcrRewardConfig(name="ocr", url=server.url, model="m", image_size=16)
        # "opnnow" against "opennow" misses one of seven characters.
        assert score(config, TextQuery.plain('a sign "Open now"')) == pytest.approx([1 - 1 / 7])
        with pytest.raises(RewardError, match=r'quoted text.*such as: a sign "OPEN"; got \'a sign\''):
            score(config, TextQuery.plain("a sign"))


@pytest.mark.parametrize(
    ("transcript", "wanted", "expected"),
    [("hello", "HELLO", 1.0), ("say he llo!", "hello", 1.0), ("", "hello", 0.0), ("xyzxyzxyzxyz", "abc", 0.0)],
)
def test_text_agreement_ignores_case_spaces_and_text_beside_it(transcript: str, wanted: str, expected: float) -> None:
    assert text_agreement(transcript, wanted) == expected


def test_edit_distance_equals_known_distances() -> None:
    assert [edit_distance(*pair) for pair in (("kitten", "sitting"), ("flaw", "lawn"), ("", "abc"), ("a", "a"))] == [
        *(3, 2, 3, 0)
    ]


def test_quoted_text_has_straight_and_curly_quotes_and_no_apostrophes() -> None:
    assert quoted_text("the dog's sign \"A b\" and \u201cC\u201d and 'D'") == "A b C D"
    with pytest.raises(ValueError, match="quoted text"):
        quoted_text("the dog's and the cats' house")


def questions_config(tmp_path: Path, server: Seen) -> QuestionsRewardConfig:
    questions = [{"question": "How many cats?", "answer": "two"}, {"question": "Is it red?", "answer": "yes"}]
    (tmp_path / "q.jsonl").write_text(json.dumps({"prompt": "two red cats", "questions": questions}) + "\n")
    path = str(tmp_path / "q.jsonl")
    return QuestionsRewardConfig(name="q", url=server.url, model="m", image_size=16, questions=path)


def test_question_reward_is_the_geometric_mean_of_the_expected_answers(tmp_path: Path) -> None:
    def answer(body: Any) -> Reply:
        counts = {"Two": 0.4, "two": 0.1, "three": 0.5}
        return Reply(chat_answer(counts if "How many" in text_of(body) else {"yes": 0.18, "no": 0.82}))

    with http_server(answer) as server:
        config = questions_config(tmp_path, server)
        assert score(config, TextQuery.plain("two red cats")) == pytest.approx([(0.5 * 0.18) ** 0.5])
        with pytest.raises(RewardError, match=r"questions for the prompt 'a dog' in .*q\.jsonl"):
            score(config, TextQuery.plain("a dog"))


@pytest.mark.parametrize(
    ("count", "color", "expected"),
    [
        ({"Two": 0.3, "two": 0.15, "three": 0.4}, {"yes": 0.6, "no": 0.4}, 1.0),
        ({"2": 0.3, "two": 0.15, "three": 0.4}, {"Yes": 0.6, "no": 0.4}, 1.0),
        ({"two": 0.4, "three": 0.3, " Three": 0.3}, {"yes": 0.6, "no": 0.4}, 0.0),
        ({"two": 0.9, "three": 0.1}, {"no": 0.51, "yes": 0.49}, 0.0),
        ({"two": 0.5, "three": 0.5}, {"yes": 1.0}, 0.0),
    ],
    ids=["words", "digit", "other count", "other colour", "tie"],
)
def test_image_is_correct_if_every_expected_answer_is_the_most_probable(
    tmp_path: Path, count: dict[str, float], color: dict[str, float], expected: float
) -> None:
    with http_server(lambda body: Reply(chat_answer(count if "How many" in text_of(body) else color))) as server:
        config = questions_config(tmp_path, server).model_copy(update={"score": "correct"})
        assert score(config, TextQuery.plain("two red cats")) == [expected]


def test_digit_counts_as_the_number_that_it_stands_for(tmp_path: Path) -> None:
    with http_server(
        lambda body: Reply(chat_answer({"2": 0.3, "two": 0.2} if "How" in text_of(body) else {"yes": 0.5}))
    ) as server:
        assert score(questions_config(tmp_path, server), TextQuery.plain("two red cats")) == pytest.approx([0.5])


def test_tags_name_the_categories_of_prompts(tmp_path: Path) -> None:
    question = [{"question": "b", "answer": "yes"}]
    lines = [{"prompt": "x", "tag": "colors", "questions": question}, {"prompt": "y", "questions": question}]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert read_tags(str(path)) == {"x": "colors"}
    path.write_text(json.dumps(lines[0] | {"tag": 3}))
    with pytest.raises(ValueError, match="expected a text as tag"):
        read_tags(str(path))


@pytest.mark.parametrize(
    "line",
    [
        *(
            "{",
            '{"prompt": "a"}',
            '{"prompt": "a", "questions": []}',
            '{"prompt": "a", "questions": [{"question": "b"}]}',
        ),
        '{"prompt": "a", "questions": [{"question": "b", "answer": "two words"}]}',
    ],
)
def test_malformed_questions_name_file_and_line(tmp_path: Path, line: str) -> None:
    with http_server(lambda _: Reply(YES)) as server:
        config = questions_config(tmp_path, server)
        Path(config.questions).write_text("\n" + line)
        with pytest.raises(ValueError, match=r"q\.jsonl, line 2: expected"):
            build_rewards([config])


@pytest.mark.parametrize("kind", ["ocr", "questions"])
def test_prompt_that_a_reward_cannot_score_is_refused_before_the_run(tmp_path: Path, kind: str) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "x", "questions": [{"question": "b", "answer": "yes"}]}\n')
    model = {"name": "atoms", "type": kind, "url": "http://nowhere", "model": "m"}
    model |= {"questions": str(tmp_path / "q.jsonl")} if kind == "questions" else {}
    config = load_run([SMALL_WORLD], [f"evaluation.held_out=[{json.dumps(model)}]", "evaluation.objective=null"])

    with pytest.raises(ValueError, match=r"held_out, reward 'atoms', a prompt of evaluation.prompts: expected"):
        check_reward_prompts(config, read_texts(config))


def test_stored_config_of_a_run_with_a_judge_is_that_of_the_run() -> None:
    model = {"name": "judge", "type": "judge", "url": "http://nowhere", "model": "m"}
    config = load_run([SMALL_WORLD], [f"evaluation.held_out=[{json.dumps(model)}]", "evaluation.objective=null"])
    assert RunConfig.model_validate(config.model_dump()) == config


def test_judge_at_another_address_is_the_same_model() -> None:
    one = judge("http://a")

    assert same_model(one, judge("http://b"))
    assert not same_model(one, judge("http://a", template="unified_reward"))


def test_served_rewards_have_no_gradient() -> None:
    assert not declares_image_gradient(judge("http://nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "rubric"}, "rubric"),
        ({"rubric": "Rate {prompt}"}, "remove the rubric"),
        ({"ratings": {"a": 1, "b": 2}}, "remove ratings"),
        ({"template": "rubric", "rubric": "?", "ratings": {"A": 1, "a ": 2}}, "more than case"),
        ({"url": "ftp://x"}, "url"),
    ],
)
def test_contradictory_judge_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeRewardConfig(**{"name": "judge", "url": "http://x", "model": "m", **options})
