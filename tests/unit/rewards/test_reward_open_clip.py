import json
import logging
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from srpo_ray.config.rewards import OpenClipRewardConfig, PoolConfig
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.models.open_clip import OpenClipReward, open_clip_source
from srpo_ray.rewards.pool.scoring import LoadedRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.text_features import TextFeatures
from tests.helpers.rewards.tiny_clip import CONTEXT_LENGTH

REAL, PAINTING = "Real. a cat", "Painting. a cat"


@pytest.fixture
def config(clip_configs: tuple[OpenClipRewardConfig, ...]) -> OpenClipRewardConfig:
    return clip_configs[0]


@pytest.fixture
def reward(config: OpenClipRewardConfig) -> OpenClipReward:
    return OpenClipReward.load(config)


def random_images(batch: int, size: int) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_score_equals_the_scaled_cosine_computed_by_hand(reward: OpenClipReward, config: OpenClipRewardConfig) -> None:
    images = random_images(2, 16)
    model = open_clip.create_model(f"local-dir:{config.path}").eval()
    assert isinstance(model, open_clip.CLIP)
    tokens = open_clip.get_tokenizer(f"local-dir:{config.path}")([REAL, PAINTING])
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    with torch.no_grad():
        pixels = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        image_features, text_features = model.encode_image(pixels), model.encode_text(tokens)
        cosine = torch.nn.functional.cosine_similarity(image_features[:, None], text_features[None], dim=-1)

    scores = reward.score(images, [TextQuery.plain(REAL), TextQuery(((1.3, REAL), (-1.0, PAINTING)))])

    expected = config.scale * torch.stack([cosine[0, 0], 1.3 * cosine[1, 0] - cosine[1, 1]])
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)


def test_score_is_linear_in_the_query(reward: OpenClipReward) -> None:
    images = random_images(3, 16)

    def score(query: TextQuery) -> Tensor:
        return reward.score(images, [query] * 3)

    combined = score(TextQuery(((0.4, REAL), (-2.0, PAINTING))))

    expected = 0.4 * score(TextQuery.plain(REAL)) - 2.0 * score(TextQuery.plain(PAINTING))
    torch.testing.assert_close(combined, expected, rtol=1e-5, atol=1e-6)


def test_model_is_frozen_and_in_evaluation_mode(reward: OpenClipReward) -> None:
    model = reward.model
    assert isinstance(model, torch.nn.Module)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_known_texts_are_not_encoded_again(reward: OpenClipReward, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode_text = reward.model.encode_text

    def counting(text: Tensor, normalize: bool = False) -> Tensor:
        encoded.append(len(text))
        return encode_text(text, normalize)

    monkeypatch.setattr(reward.model, "encode_text", counting)
    images = random_images(2, 16)
    both = TextQuery(((1.0, REAL), (-1.0, PAINTING)))

    first = reward.score(images, [both, TextQuery.plain(REAL)])
    second = reward.score(images, [both, TextQuery.plain(REAL)])
    reward.score(images, [both, TextQuery.plain("a new text")])

    assert encoded == [2, 1]
    assert torch.equal(first, second)


def test_text_cache_drops_the_least_recently_used_text() -> None:
    encoded: list[str] = []

    def encode(texts: list[str]) -> Tensor:
        encoded.extend(texts)
        return torch.tensor([[float(len(text))] for text in texts])

    features = TextFeatures(encode, capacity=2)
    features.lookup(["a", "bb"])
    features.lookup(["a"])
    found = features.lookup(["ccc", "a"])
    features.lookup(["bb"])

    assert encoded == ["a", "bb", "ccc", "bb"]
    assert {text: feature.item() for text, feature in found.items()} == {"ccc": 3.0, "a": 1.0}
    assert len(features) == 2


def test_call_with_more_texts_than_the_cache_capacity_returns_all_features() -> None:
    features = TextFeatures(lambda texts: torch.tensor([[float(t)] for t in texts]), capacity=2)

    assert [f.item() for f in features.lookup(["1", "2", "3"]).values()] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("words", "warns"), [(CONTEXT_LENGTH - 2, False), (CONTEXT_LENGTH - 1, True)])
def test_truncated_text_is_warned_about_once(
    reward: OpenClipReward, caplog: pytest.LogCaptureFixture, words: int, warns: bool
) -> None:
    texts = ["cat " * words, "dog " * words]

    with caplog.at_level(logging.WARNING):
        for text in texts:
            reward.score(random_images(1, 16), [TextQuery.plain(text)])

    messages = [record.getMessage() for record in caplog.records if "not scored" in record.getMessage()]
    assert len(messages) == int(warns)
    assert all(texts[0] in message and "'small'" in message for message in messages)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("custom_text", [False, True])
def test_folder_in_half_precision_scores_as_the_same_weights_in_float32(
    config: OpenClipRewardConfig, tmp_path: Path, dtype: torch.dtype, custom_text: bool
) -> None:
    shutil.copytree(config.path, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "open_clip_config.json").read_text())
    settings["model_cfg"]["custom_text"] = custom_text
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    weights = tmp_path / "open_clip_model.safetensors"
    # These weights are numbers of all three types, so that no rounding of the file is in the scores.
    state = {name: tensor.bfloat16().half() for name, tensor in load_file(weights).items()}
    scores = []
    for each in (torch.float32, dtype):
        save_file({name: tensor.to(each) for name, tensor in state.items()}, weights)
        reward = OpenClipReward.load(config.model_copy(update={"path": str(tmp_path)}))
        assert isinstance(reward.model, torch.nn.Module)
        assert {parameter.dtype for parameter in reward.model.parameters()} == {torch.float32}
        scores.append(reward.score(random_images(2, 16), [TextQuery.plain(REAL)] * 2))
    assert torch.equal(scores[0], scores[1])


def test_input_spec_of_the_config_is_that_of_the_model_in_process_and_in_a_replica(
    config: OpenClipRewardConfig,
) -> None:
    asked = config.model_copy(update={"fit": "pad", "antialias": False})
    assert InputSpec.of(OpenClipReward.load(asked)) == InputSpec(16, "pad", antialias=False)
    replica = LoadedRewards([asked], PoolConfig(), "replica")
    assert InputSpec.of(replica.describe()["small"]) == InputSpec(16, "pad", antialias=False)


def test_missing_folder_is_named_with_a_cure(tmp_path: Path) -> None:
    config = OpenClipRewardConfig(name="gone", path=str(tmp_path / "nowhere"))

    with pytest.raises(ValueError, match=r"'gone'.*nowhere.*received no folder.*set `path`"):
        OpenClipReward.load(config)


def test_missing_weights_are_an_error_and_not_random_weights(config: OpenClipRewardConfig, tmp_path: Path) -> None:
    shutil.copy(Path(config.path) / "open_clip_config.json", tmp_path)

    with pytest.raises(ValueError, match=r"'small'.*readable open_clip model"):
        OpenClipReward.load(config.model_copy(update={"path": str(tmp_path)}))


def test_damaged_weights_are_an_error(config: OpenClipRewardConfig, tmp_path: Path) -> None:
    shutil.copytree(config.path, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ValueError, match=r"'small'.*readable open_clip model"):
        OpenClipReward.load(config.model_copy(update={"path": str(tmp_path)}))


def test_hub_names_are_passed_to_open_clip() -> None:
    assert open_clip_source("any", "hf-hub:org/name") == "hf-hub:org/name"
