import pickle
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.combine import ScoredBatch, score_and_gradient, score_only
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.query import TextQuery
from tests.helpers.rewards.stand_in_rewards import ScriptedReward


class QuadraticReward:
    """`sum(image^2)`, whose gradient is `2 * image`."""

    name = "quadratic"
    image_size = 4
    image_gradient = True
    batch_sizes: list[int]

    def __init__(self) -> None:
        self.batch_sizes = []

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        self.batch_sizes.append(len(images))
        return images.square().sum(dim=(1, 2, 3))


def plain(*texts: str) -> list[TextQuery]:
    return [TextQuery.plain(text) for text in texts]


def run(text: str, micro_batch_size: int = 8) -> ScoredBatch:
    """Score three images, of which the middle one has the text."""
    images = {InputSpec(4): torch.full((3, 3, 4, 4), 0.5)}
    return score_and_gradient(
        {"mine": ScriptedReward()},
        {"mine": 1.0},
        images,
        plain("first", text, "last"),
        micro_batch_size=micro_batch_size,
        replica="replica-7",
    )


def test_values_are_raw_and_gradients_are_summed_with_weights_per_size() -> None:
    generator = torch.Generator().manual_seed(0)
    images = {
        InputSpec(4): torch.rand(5, 3, 4, 4, generator=generator),
        InputSpec(8): torch.rand(5, 3, 8, 8, generator=generator),
    }
    quadratic = QuadraticReward()
    rewards = {
        "quadratic": quadratic,
        "mean": ScriptedReward(image_size=4, scale=48.0),
        "big": ScriptedReward(image_size=8, scale=192.0),
        "idle": ScriptedReward(image_size=2),
    }

    batch = score_and_gradient(
        rewards,
        {"quadratic": 0.5, "mean": -3.0, "big": 2.0},
        images,
        plain(*"abcde"),
        micro_batch_size=2,
        replica="here",
    )

    torch.testing.assert_close(batch.values["quadratic"], images[InputSpec(4)].square().sum(dim=(1, 2, 3)))
    torch.testing.assert_close(batch.values["mean"], images[InputSpec(4)].sum(dim=(1, 2, 3)))
    torch.testing.assert_close(batch.values["big"], images[InputSpec(8)].sum(dim=(1, 2, 3)))
    assert list(batch.values) == ["quadratic", "mean", "big"]
    torch.testing.assert_close(batch.gradients[InputSpec(4)], images[InputSpec(4)] - 3.0)
    torch.testing.assert_close(batch.gradients[InputSpec(8)], torch.full_like(images[InputSpec(8)], 2.0))
    assert quadratic.batch_sizes == [2, 2, 1]


def test_score_only_gives_the_same_values_without_a_graph() -> None:
    images = {InputSpec(4): torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))}

    values = score_only(
        {"quadratic": QuadraticReward()},
        ["quadratic"],
        images,
        plain(*"abc"),
        micro_batch_size=2,
        replica="here",
    )

    torch.testing.assert_close(values["quadratic"], images[InputSpec(4)].square().sum(dim=(1, 2, 3)))
    assert not values["quadratic"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_have_the_type_of_the_pixels_whatever_a_reward_returns(dtype: torch.dtype) -> None:
    class Typed(QuadraticReward):
        def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
            return super().score(images, queries).to(dtype)

    images = {InputSpec(4): torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))}
    rewards, queries = {"typed": Typed()}, plain(*"abc")
    batch = score_and_gradient(rewards, {"typed": 1.0}, images, queries, micro_batch_size=2, replica="here")
    measured = score_only(rewards, ["typed"], images, queries, micro_batch_size=2, replica="here")
    assert batch.values["typed"].dtype == measured["typed"].dtype == torch.float32
    assert batch.gradients[InputSpec(4)].dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "complaint"), [("nan", "the score of sample"), ("nan_gradient", "the gradient of sample")]
)
@pytest.mark.parametrize("micro_batch_size", [1, 8])
def test_number_that_is_not_finite_names_reward_prompt_and_replica(
    text: str, complaint: str, micro_batch_size: int
) -> None:
    with pytest.raises(RewardError, match=complaint) as caught:
        run(text, micro_batch_size)

    assert (caught.value.reward, caught.value.prompts, caught.value.replica) == (
        "mine",
        (repr(text),),
        "replica-7",
    )


def test_reward_that_raises_is_named_and_keeps_its_cause() -> None:
    with pytest.raises(RewardError, match="KeyError: 'the reward is broken'") as caught:
        run("raise")

    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.prompts == ("'first'", "'raise'", "'last'")
    message = str(caught.value)
    assert "'mine'" in message
    assert "'replica-7'" in message
    assert "'raise'" in message


def test_scores_of_a_wrong_shape_are_refused() -> None:
    class WholeBatch(QuadraticReward):
        def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
            return images.mean()

    with pytest.raises(RewardError, match=r"shape \[1\], received \[\]"):
        score_only(
            {"whole": WholeBatch()},
            ["whole"],
            {InputSpec(4): torch.zeros(1, 3, 4, 4)},
            plain("a"),
            micro_batch_size=1,
            replica="here",
        )


def test_interrupt_passes_through_unchanged() -> None:
    class Interrupted(QuadraticReward):
        def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_only(
            {"stopped": Interrupted()},
            ["stopped"],
            {InputSpec(4): torch.zeros(1, 3, 4, 4)},
            plain("a"),
            micro_batch_size=1,
            replica="here",
        )


def test_error_survives_pickling_and_shortens_long_lists_of_prompts() -> None:
    error = pickle.loads(pickle.dumps(RewardError("hps", list("abcdef"), "pool/1", "no answer")))

    assert isinstance(error, RewardError)
    assert (error.reward, error.prompts, error.replica, error.reason) == (
        "hps",
        tuple("abcdef"),
        "pool/1",
        "no answer",
    )
    assert str(error) == "reward 'hps' failed on 'pool/1' for a, b, c and 3 more: no answer"
