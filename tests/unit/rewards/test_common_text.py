"""Reduction of the common text direction: closed forms on CLIP-type rewards in process and behind a pool."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from srpo_ray.config import load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.rewards import CommonTextSection, OpenClipRewardConfig, PoolConfig
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.rewards.common_text import CommonText
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.models.open_clip import OpenClipReward
from srpo_ray.rewards.pool.scoring import LoadedRewards
from srpo_ray.rewards.pool.wire import from_wire, to_wire
from srpo_ray.rewards.query import TextQuery
from srpo_ray.runs.inputs import reward_hashes
from tests.conftest import SMALL_WORLD

PROMPTS = ["a red circle", "two blue squares", "Real. a cat"]
TEXTS = ["a green cross", "Painting. a cat"]
IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def config(clip_configs: tuple[OpenClipRewardConfig, ...], tmp_path: Path) -> OpenClipRewardConfig:
    (tmp_path / "common.txt").write_text("\n".join(PROMPTS) + "\n\n")
    return clip_configs[0].model_copy(
        update={"common": CommonTextSection(weight=0.3, prompts=str(tmp_path / "common.txt"))}
    )


def load(config: OpenClipRewardConfig, weight: float | None) -> OpenClipReward:
    common = config.common.model_copy(update={"weight": weight}) if config.common and weight is not None else None
    return OpenClipReward.load(config.model_copy(update={"common": common}))


def scores(reward: OpenClipReward, images: Tensor, *queries: TextQuery) -> Tensor:
    return torch.stack([reward.score(images, [query] * len(images)) for query in queries])


def test_part_along_the_common_direction_is_scaled_and_the_rest_is_kept() -> None:
    features = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    common = CommonText.of(features[:3], 0.3)
    direction = features[:3].mean(0) / features[:3].mean(0).norm()
    reduced = common.reduce(features)
    torch.testing.assert_close(reduced @ direction, 0.3 * (features @ direction))
    across = torch.eye(7, dtype=torch.float64) - direction[:, None] * direction
    torch.testing.assert_close(reduced @ across, features @ across)


def test_score_loses_its_part_along_the_mean_of_the_prompts(config: OpenClipRewardConfig) -> None:
    plain = load(config, None)
    texts = scores(plain, IMAGES, *(TextQuery.plain(text) for text in [*PROMPTS, *TEXTS]))
    # f . u from scores of the prompts, T . u from text features: all without the code under test.
    tokens = plain._tokenizer([*PROMPTS, *TEXTS])
    with torch.no_grad():
        features = torch.nn.functional.normalize(plain.model.encode_text(tokens), dim=-1)
    length = features[:3].mean(0).norm()
    image_part = texts[:3].mean(0) / length
    text_part = features @ (features[:3].mean(0) / length)
    expected = texts - 0.7 * text_part[:, None] * image_part
    found = scores(load(config, 0.3), IMAGES, *(TextQuery.plain(text) for text in [*PROMPTS, *TEXTS]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, texts, atol=1e-3)


def test_whole_weight_changes_nothing_to_the_bit(config: OpenClipRewardConfig) -> None:
    queries = [TextQuery.plain(text) for text in TEXTS]
    assert torch.equal(scores(load(config, 1.0), IMAGES, *queries), scores(load(config, None), IMAGES, *queries))


def test_reduction_commutes_with_a_weighted_sum_of_texts(config: OpenClipRewardConfig) -> None:
    reward = load(config, 0.3)
    first, second = scores(reward, IMAGES, *(TextQuery.plain(text) for text in TEXTS))
    (combined,) = scores(reward, IMAGES, TextQuery(((1.2, TEXTS[0]), (-1.0, TEXTS[1]))))
    torch.testing.assert_close(combined, 1.2 * first - second, rtol=1e-5, atol=1e-6)


def test_score_does_not_depend_on_the_batch_or_on_earlier_texts(config: OpenClipRewardConfig) -> None:
    used, fresh = load(config, 0.3), load(config, 0.3)
    scores(used, IMAGES, *(TextQuery.plain(f"text {index}") for index in range(9)))
    queries = [TextQuery.plain(text) for text in (TEXTS * 2)]
    whole = used.score(IMAGES, queries)
    alone = torch.cat([fresh.score(IMAGES[row : row + 1], queries[row : row + 1]) for row in range(4)])
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-6)


def test_a_replica_of_the_pool_scores_as_the_reward_in_process(config: OpenClipRewardConfig) -> None:
    reward, queries = load(config, 0.3), [TextQuery.plain(text) for text in TEXTS * 2]
    pixels = {InputSpec.of(reward): to_wire(IMAGES, "float32")}
    reply = LoadedRewards([config], PoolConfig(), "replica 1").measure(pixels, queries, [config.name])
    torch.testing.assert_close(from_wire(reply.values[config.name]), reward.score(IMAGES, queries))


def test_small_world_prompts_are_a_source(config: OpenClipRewardConfig) -> None:
    common = CommonTextSection(prompts="small_world:train")
    assert common.weight == 0.3
    OpenClipReward.load(config.model_copy(update={"common": common}))


def overrides(source: str) -> list[str]:
    common = f"common: {{prompts: '{source}'}}"
    return [f"rewards.models=[{{name: mine, type: open_clip, path: 'small_world:preference', {common}}}]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"'mine', key `common.prompts`: expected a text file .*or small_world:train, received .*check the path"),
        (b"\xff\xfe\x00", r"received .*codec can't decode"),
        (b"\n  \n", r"received .* without any; add some hundred prompts"),
    ],
)
def test_unusable_prompts_are_refused_before_anything_starts(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    source = tmp_path / "prompts.txt"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        check_inputs(load_run([SMALL_WORLD], overrides(str(source))))


def test_prompts_are_an_input_of_the_run_at_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red circle\n")
    config = with_absolute_paths(load_run([SMALL_WORLD], overrides("prompts.txt")))
    key, source = "rewards.models.0.common.prompts", str(tmp_path / "prompts.txt")
    before = reward_hashes(config)[key][source]
    Path("prompts.txt").write_text("a blue circle\n")
    assert reward_hashes(config)[key][source] != before
