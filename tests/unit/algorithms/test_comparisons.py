"""Win rates from comparisons of all pairs: by hand, in the advantages, and in the update of a policy gradient."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.comparisons import pairs_of_groups, win_rates_of_pairs
from srpo_ray.algorithms.normalization import advantages_of, win_rates
from srpo_ray.algorithms.policy_gradient import PolicyGradient
from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.config.algorithms.advantage import AdvantageSection
from srpo_ray.config.algorithms.policy_gradient import PolicyGradientConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.config.rewards import PythonRewardConfig
from srpo_ray.launch.reward_checks import check_rewards
from srpo_ray.planning.served import ServerWork, server_work
from srpo_ray.planning.workload import reward_traffic
from srpo_ray.rewards.base import RewardScorer, Scores
from srpo_ray.rewards.query import TextQuery
from tests.conftest import ROOT, SMALL_WORLD
from tests.helpers.algorithms.stand_ins import AffinePolicy, as_policy, collect_all, make_batch

GROUP = 4
BATCH = make_batch(children=range(GROUP))


def test_pairs_are_all_pairs_of_each_group_and_none_across() -> None:
    assert pairs_of_groups([5, 5, 5, 2, 2]) == [(0, 1), (0, 2), (1, 2), (3, 4)]


def test_win_rate_is_the_mean_probability_against_the_group_with_itself_as_a_tie() -> None:
    pairs = pairs_of_groups([0, 0, 0])
    found = win_rates_of_pairs(pairs, torch.tensor([0.9, 0.6, 0.2]), 3)
    assert found.tolist() == pytest.approx([(0.9 + 0.6 + 0.5) / 3, (0.1 + 0.2 + 0.5) / 3, (0.4 + 0.8 + 0.5) / 3])


def test_decided_comparisons_give_the_win_rates_of_the_scores_behind_them() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [5.0, 6.0, 5.0, 4.0]]).double()
    pairs, flat = pairs_of_groups([0] * 4 + [1] * 4), scores.flatten()
    decided = torch.stack([(flat[i] > flat[j]) + 0.5 * (flat[i] == flat[j]) for i, j in pairs])
    found = win_rates_of_pairs(pairs, decided, 8).reshape(2, 4)
    torch.testing.assert_close(found, win_rates(scores, 0.0), rtol=1e-12, atol=1e-12)


def test_win_rates_replace_the_scores_of_the_rewards_that_have_them() -> None:
    judge, other = torch.tensor([[9.0, 5.0, 1.0]]).double(), torch.tensor([[0.1, 0.3, 0.2]]).double()
    wins = torch.tensor([[0.2, 0.3, 1.0]]).double()
    each = {"judge": judge, "other": other}
    config = AdvantageSection(rewards="each", rank="win_rate", scale="none")
    found = advantages_of(0.7 * judge + 0.3 * other, each, {"judge": 0.7, "other": 0.3}, config, None, {"judge": wins})

    def scaled(values: Tensor) -> Tensor:
        return (values - values.mean()) / values.std()

    expected = 0.7 * scaled(wins) + 0.3 * scaled(torch.tensor([[1 / 6, 5 / 6, 1 / 2]]).double())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)

    alone = advantages_of(judge, {}, {"judge": 1.0}, AdvantageSection(rank="win_rate"), None, {"judge": wins})
    torch.testing.assert_close(alone, scaled(wins), rtol=1e-6, atol=1e-7)


class Judge:
    """A judge that prefers dark images, while its scores are higher for bright ones."""

    pairwise = frozenset({"judge", "held_out"})
    trained = ("judge",)

    def __init__(self) -> None:
        self.brightness: list[Tensor] = []

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> Any:
        total = images.mean(dim=(1, 2))
        self.brightness.append(total)
        return SimpleNamespace(result=lambda: Scores(total, {"judge": total}, {"judge": 1.0}))

    def compare(self, images: Tensor, queries: Sequence[TextQuery], pairs: Any, names: Sequence[str]) -> Any:
        assert list(names) == ["judge"]
        assert all(queries[i] == queries[j] for i, j in pairs)
        values = images.mean(dim=(1, 2))
        wins = torch.stack([torch.sigmoid(values[j] - values[i]) for i, j in pairs])
        return SimpleNamespace(result=lambda: {"judge": wins})


@pytest.mark.parametrize("plan", [{"type": "all"}, {"type": "branch", "at": (1, 4)}])
def test_policy_gradient_follows_the_comparisons_and_reports_the_scores(plan: dict[str, Any]) -> None:
    rewards = Judge()
    settings = {"group_size": GROUP, "advantage": {"rank": "win_rate", "scale": "none"}, "plan": plan}
    algorithm = PolicyGradient(
        PolicyGradientConfig.model_validate(settings),
        RolloutConfig(num_steps=8),
        as_policy(AffinePolicy()),
        cast(RewardScorer, rewards),
    )
    (moves,) = collect_all(algorithm, [BATCH])

    for index, values in enumerate(rewards.brightness):
        groups = values.reshape(3, GROUP).double()
        margins = torch.sigmoid(groups[:, None, :] - groups[:, :, None])
        rates = (margins.sum(dim=2) - 0.5 + 0.5) / GROUP
        expected = (rates - rates.mean(dim=1, keepdim=True)).flatten()
        (mine, *_) = [each for each, move in zip(moves.advantages, moves.moves, strict=True) if move.scores == index]
        torch.testing.assert_close(mine.double(), expected, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(moves.metrics[index]["reward/judge/sample"], values)
        assert moves.metrics[index]["advantage/zero_groups"].sum() == 0


def test_images_that_are_sampled_together_keep_the_win_rates_of_their_groups() -> None:
    config = PolicyGradientConfig.model_validate({"group_size": GROUP, "advantage": {"rank": "win_rate"}})
    algorithm = PolicyGradient(
        config, RolloutConfig(num_steps=8), as_policy(AffinePolicy()), cast(RewardScorer, Judge())
    )
    together = algorithm.collect(BATCH)
    whole = together.scores[0][0].result()
    for start in (0, GROUP):
        rows = slice(start, start + GROUP)
        part = together[rows].scores[0][0].result()
        assert torch.equal(part.wins["judge"], whole.wins["judge"][rows])
        assert part.wins["judge"].sum().item() == pytest.approx(GROUP / 2)


def test_without_win_rates_no_pair_is_compared() -> None:
    class Scored(Judge):
        def compare(self, images: Tensor, queries: Sequence[TextQuery], pairs: Any, names: Sequence[str]) -> Any:
            raise AssertionError("compared")

    config = PolicyGradientConfig(group_size=GROUP)
    rewards = cast(RewardScorer, Scored())
    algorithm = PolicyGradient(config, RolloutConfig(num_steps=8), as_policy(AffinePolicy()), rewards)
    (moves,) = collect_all(algorithm, [BATCH])
    assert moves.advantages


JUDGE = {"name": "judge", "type": "judge", "url": "http://x", "model": "m", "comparison": "choice"}


def run(**changes: Any) -> RunConfig:
    config = load_run([SMALL_WORLD, ROOT / "configs" / "algorithms" / "pref_grpo.yaml"])
    return apply(config, {"rewards.models": [JUDGE], **changes})


def test_plan_counts_both_orders_of_all_pairs() -> None:
    assert server_work(run()) == (ServerWork("judge", 4 * 8, 4 * 8 * 7),)
    assert server_work(run(**{"algorithm.advantage.rank": "none"})) == (ServerWork("judge", 32, 0),)
    assert server_work(load_run([SMALL_WORLD])) == ()
    scored, compared = reward_traffic(run(), (64,))
    assert scored.bytes == compared.bytes == 32 * 3 * 64**2 * 4
    assert len(reward_traffic(run(**{"algorithm.advantage.rank": "none"}), (64,))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm.images_per_pass": 2}, "no algorithm.images_per_pass with .* comparisons of judge, got 2"),
        ({"algorithm.query": "relative"}, "algorithm.query=plain with .*, got relative"),
        (
            {
                "algorithm.advantage.rewards": "summed",
                "rewards.models": [JUDGE, {**JUDGE, "name": "other", "comparison": None}],
            },
            "rewards=each with .* got summed with 2 rewards",
        ),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_other_advantages_use_the_scores_of_the_judge() -> None:
    config = run(**{"algorithm.advantage.rank": "none", "algorithm.images_per_pass": 2})
    assert config.algorithm.total_calls(config.rollout.num_steps).pairs == 0


class PythonPairs:
    """A custom reward that compares pairs."""

    image_size, image_gradient, name = 32, False, ""

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        return images.mean(dim=(1, 2, 3))

    def compare(self, first: Tensor, second: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        return torch.full((len(first),), 0.5)


def test_comparisons_of_a_custom_reward_are_checked_before_the_run() -> None:
    model = PythonRewardConfig(name="mine", target=f"{__name__}:PythonPairs").model_dump()
    config = run(**{"rewards.models": [model], "algorithm.images_per_pass": 2})
    with pytest.raises(ValueError, match=r"no algorithm\.images_per_pass with .* comparisons of mine, got 2"):
        check_rewards(config)
