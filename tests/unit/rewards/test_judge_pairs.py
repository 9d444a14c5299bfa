"""Comparisons of images in pairs: by a judge behind a stand-in server with real sockets, and by scores."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.config.served_rewards import JudgeRewardConfig
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.scoring import LoadedRewards
from srpo_ray.rewards.pool.wire import from_wire, to_wire
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from srpo_ray.rewards.served import client
from tests.helpers.rewards.bright_judge import bright_answer, brightness_of, preference
from tests.helpers.rewards.http_server import Reply, chat_answer, http_server

LEVELS = [0.2, 0.4, 0.6]
PAIRS = [(0, 1), (0, 2), (1, 2)]
CATS = [TextQuery.plain("a cat")] * 3


def judge(url: str, **more: Any) -> JudgeRewardConfig:
    options = {"comparison": "choice", **more}
    return JudgeRewardConfig(name="judge", url=url, model="tiny", image_size=16, **options)


def flat(levels: Sequence[float]) -> Tensor:
    """Images of one grey level each, which 8 bits represent exactly."""
    steps = (torch.tensor(levels) * 255).round() / 255
    return steps.view(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def compared(config: Any, levels: Sequence[float] = LEVELS, pairs: Any = PAIRS) -> list[float]:
    rewards = LocalRewards.load([config], micro_batch_size=2)
    return rewards.compare(flat(levels), [TextQuery.plain("a cat")] * len(levels), pairs).result()["judge"].tolist()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)


def test_comparison_is_the_mean_of_both_orders_so_a_preferred_place_cancels() -> None:
    bias = 1.5
    with http_server(lambda body: bright_answer(body, bias)) as server:
        found = compared(judge(server.url))

    expected = []
    for one, other in PAIRS:
        first, second = (round(LEVELS[row] * 255) / 255 for row in (one, other))
        expected.append((preference(first, second, bias) + 1 - preference(second, first, bias)) / 2)
    assert found == pytest.approx(expected, abs=1e-5)
    assert all(value < 0.5 for value in found)
    # One score and one comparison in both orders when the judge is loaded, then both orders of three pairs.
    asked = [brightness_of(body) for body in server.bodies]
    assert [len(images) for images in asked] == [1, 2, 2, *[2] * 6]
    assert sorted(images == sorted(images) for images in asked[3:]) == [False] * 3 + [True] * 3
    assert 'caption "a cat"' in server.bodies[-1]["messages"][0]["content"][-1]["text"]


def test_images_of_equal_quality_and_ties_are_one_half() -> None:
    with http_server(lambda body: bright_answer(body, 2.0)) as server:
        assert compared(judge(server.url), [0.4, 0.4], [(0, 1)]) == pytest.approx([0.5])
    tie = chat_answer({"0": 0.9, "1": 0.1})
    with http_server(lambda body: bright_answer(body) if len(brightness_of(body)) == 1 else Reply(tie)) as server:
        assert compared(judge(server.url), [0.2, 0.9], [(0, 1)]) == pytest.approx([0.5])


def test_reasoning_judge_is_read_at_the_number_in_its_answer() -> None:
    thought = ("<think>", "\nImage 2 (9/10); <answer>Image", " 2", "?</think>\n", "<answer>", "Image", " ")
    answer = chat_answer(*thought, {"1": 0.8, "2": 0.2}, " is better</answer>")
    swapped = chat_answer(*thought, {"1": 0.3, "2": 0.7}, " is better</answer>")

    def reply(body: Any) -> Reply:
        levels = brightness_of(body)
        return bright_answer(body) if len(levels) == 1 else Reply(answer if levels[0] >= levels[1] else swapped)

    with http_server(reply) as server:
        config = judge(server.url, comparison="unified_reward_think")
        assert compared(config, [0.6, 0.2], [(0, 1)]) == pytest.approx([(0.8 + 1 - 0.3) / 2])
    assert server.bodies[-1]["max_tokens"] > 1
    assert "Text Caption: [a cat]" in server.bodies[-1]["messages"][0]["content"][-1]["text"]


def test_own_question_replaces_the_built_in_one() -> None:
    with http_server(bright_answer) as server:
        compared(judge(server.url, comparison_question="Which {prompt} is darker, 1 or 2?"))
    assert server.bodies[-1]["messages"][0]["content"][-1]["text"] == "Which a cat is darker, 1 or 2?"


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        (Reply({"error": "busy"}, status=503), r"HTTP 503.*busy.*2 attempts", 2),
        (Reply(hang_up=True), r"no connection or a broken one.*2 attempts", 2),
        (Reply(chat_answer("I")), r"one of 1, 2, 0, received 'I'", 1),
        (Reply(chat_answer("3")), r"one of 1, 2, 0, received '3'.*min_probability", 1),
        (Reply(chat_answer({"both": 0.6, "1": 0.4})), r"total probability of 0\.4, below min_probability=0\.5", 1),
        (Reply({"choices": [{"message": {"content": "1"}, "logprobs": None}]}), r"token probabilities.*vLLM", 1),
    ],
    ids=["503", "hang up", "refusal", "out of range", "unsure", "no logprobs"],
)
def test_pair_without_a_usable_answer_is_an_error_before_the_run_and_in_it(
    reply: Reply, message: str, requests: int
) -> None:
    options = {"timeout_s": 5.0, "max_attempts": 2, "concurrency": 1}

    def fails(body: Any) -> Reply:
        return bright_answer(body) if len(brightness_of(body)) == 1 else reply

    with http_server(fails) as server, pytest.raises(ValueError, match=rf"'judge'.*{message}"):
        build_rewards([judge(server.url, **options)])
    # The other order of the pair may have been requested before the first one failed.
    assert 1 + requests <= len(server.bodies) <= 1 + 2 * requests

    with http_server(lambda body: bright_answer(body) if len(server.bodies) <= 3 else reply) as server:
        with pytest.raises(RewardError, match=rf"(?s)'judge'.*'a cat'.*{message}"):
            compared(judge(server.url, **options))


def test_pair_that_fails_once_is_repeated() -> None:
    left = [Reply({}, status=503)]

    def reply(body: Any) -> Reply:
        return left.pop() if len(brightness_of(body)) == 2 and left else bright_answer(body)

    with http_server(reply) as server:
        assert compared(judge(server.url), [0.6, 0.6], [(0, 1)]) == pytest.approx([0.5])
    assert not left


@pytest.mark.parametrize("answer", [-0.1, 1.5, float("nan")])
def test_comparison_that_is_no_probability_stops_the_run(answer: float) -> None:
    with pytest.raises(RewardError, match=r"'pairs'.*(expected it in \[0, 1\]|NaN)"):
        LocalRewards({"pairs": Pairs(answer)}, {"pairs": 1.0}).compare(flat(LEVELS), CATS, PAIRS).result()


class Pairs:
    """A reward that compares pairs, and always answers the same."""

    name, image_size, image_gradient = "pairs", 16, False

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        return images.mean(dim=(1, 2, 3))

    def compare(self, first: Tensor, second: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        return torch.full((len(first),), self.answer)


def test_reward_without_comparisons_compares_its_scores() -> None:
    target = "tests.helpers.rewards.stand_in_rewards:ScriptedReward"
    rewards = LocalRewards.load([PythonRewardConfig(name="scripted", target=target)])
    found = rewards.compare(flat([0.2, 0.6, 0.2]), CATS, PAIRS).result()["scripted"]

    assert rewards.pairwise == frozenset()
    assert found.tolist() == [0.0, 0.5, 1.0]
    assert LocalRewards({"pairs": Pairs(0.5)}, {"pairs": 1.0}).pairwise == {"pairs"}


@pytest.mark.parametrize("pairs", [[], [(0, 0)], [(0, 3)], [(-1, 0)], [(0, 2)]])
def test_pairs_of_other_images_than_those_of_one_prompt_are_refused(pairs: Any) -> None:
    rewards = LocalRewards({"pairs": Pairs(0.5)}, {"pairs": 1.0})
    queries = [*CATS[:2], TextQuery.plain("a dog")]
    with pytest.raises(ValueError, match="pairs of two different images with the same query among 3"):
        rewards.compare(flat(LEVELS), queries, pairs)


def test_relative_query_has_no_better_image() -> None:
    query = TextQuery(((1.0, "Real. a cat"), (-1.0, "Painting. a cat")))
    with http_server(bright_answer) as server:
        rewards = LocalRewards.load([judge(server.url)])
        with pytest.raises(RewardError, match="a query of a single text"):
            rewards.compare(flat([0.1, 0.2]), [query] * 2, [(0, 1)]).result()


def test_judge_with_a_question_but_no_comparison_is_refused() -> None:
    with pytest.raises(ValueError, match="comparison_question with comparison: choice only, got comparison: null"):
        judge("http://x", comparison=None, comparison_question="1 or 2?")


def test_replica_compares_the_images_of_its_pairs_among_those_of_the_whole_request() -> None:
    levels = [0.9, 0.2, 0.4, 0.6]
    with http_server(bright_answer) as server:
        replica = LoadedRewards([judge(server.url)], PoolConfig(micro_batch_size=2), "replica")
        (spec,) = [InputSpec(info.image_size, info.fit) for info in replica.describe().values()]
        assert replica.describe()["judge"].pairwise
        queries = [TextQuery.plain("a dog"), *CATS]
        reply = replica.compare({spec: to_wire(flat(levels), "float32")}, queries, ["judge"], [(1, 3), (3, 2)])
        expected = compared(judge(server.url), levels[1:], [(0, 2), (2, 1)])
    assert from_wire(reply.values["judge"]).tolist() == pytest.approx(expected)
    assert all("a cat" in body["messages"][0]["content"][-1]["text"] for body in server.bodies[-4:])
