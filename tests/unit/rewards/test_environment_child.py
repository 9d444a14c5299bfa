from typing import Any

import numpy as np
import pytest

from srpo_ray.rewards.environment.child import Calls

HELPERS = "tests.helpers.rewards.stand_in_rewards"
LOAD = {"call": "load", "name": "mine", "arguments": {}, "num_threads": 1}


def loaded(target: str, **arguments: Any) -> Calls:
    calls = Calls()
    described, _ = calls.answer({**LOAD, "target": f"{HELPERS}:{target}", "arguments": arguments}, [])
    assert "error" not in described
    return calls


def test_load_describes_the_reward() -> None:
    values, arrays = Calls().answer({**LOAD, "target": f"{HELPERS}:ScriptedReward", "arguments": {"image_size": 6}}, [])
    assert values == {"image_size": 6, "image_gradient": True, "fit": "crop", "antialias": True, "compares": False}
    assert arrays == []


def test_score_and_gradient_equal_the_closed_form_in_float64() -> None:
    calls = loaded("ScriptedReward", scale=2.0)
    images = np.random.default_rng(1).random((3, 3, 4, 4))
    query = {"call": "score", "queries": [[[1.0, "a"]], [[1.5, "b"], [-0.5, "c"]], [[1.0, "d"]]]}

    _, (scores, gradient) = calls.answer({**query, "gradient": True}, [images.copy()])
    _, (alone,) = calls.answer({**query, "gradient": False}, [images.copy()])

    np.testing.assert_allclose(scores, 2 * images.mean((1, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(gradient, np.full(images.shape, 2 / 48), rtol=1e-14)
    assert np.array_equal(alone, scores)


@pytest.mark.parametrize(
    ("target", "reason", "mistake"),
    [
        ("FailsToLoad", "OSError: the weights are gone", False),
        ("NotAReward", "without image_gradient, score", True),
        ("NoSuchClass", "expected an importable package.module:Class", True),
    ],
)
def test_rewards_that_do_not_load_are_answers(target: str, reason: str, mistake: bool) -> None:
    values, _ = Calls().answer({**LOAD, "target": f"{HELPERS}:{target}"}, [])
    assert reason in values["error"]
    assert values["mistake"] is mistake


def test_reward_that_raises_is_an_answer_and_later_calls_work() -> None:
    calls = loaded("ScriptedReward")
    images = np.zeros((1, 3, 4, 4), "float32")

    failed, _ = calls.answer({"call": "score", "gradient": False, "queries": [[[1.0, "raise"]]]}, [images])
    _, (scores,) = calls.answer({"call": "score", "gradient": False, "queries": [[[1.0, "a"]]]}, [images])

    assert failed == {"error": "KeyError: 'the reward is broken'", "mistake": False}
    assert scores.tolist() == [0.0]


def test_inspection_reads_declarations_without_a_call_of_the_class() -> None:
    found, _ = Calls().answer({"call": "inspect", "target": f"{HELPERS}:FailsToLoad"}, [])
    assert found == {"image_gradient": True, "compares": False}
