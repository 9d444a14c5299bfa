"""Aesthetic heads under their published key names, on tiny backbones of the real classes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipImageProcessor, SiglipModel

from srpo_ray.config.rewards import AestheticRewardConfig
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.models.aesthetic import AestheticReward
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from tests.helpers.rewards.gradients import cosines

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TINY, "image_size": 16, "patch_size": 4}
TEXT = {**TINY, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 9}
LAION = ["layers.0", "layers.2", "layers.4", "layers.6", "layers.7"]
V2_5 = [f"scoring_head.{index}" for index in (0, 2, 4, 6, 8)]
PLAIN = [TextQuery.plain("a cat"), TextQuery.plain("a dog")]
Case = tuple[Path, list[str], int]


def save(folder: Path, model: Any) -> Path:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Per backbone: its folder, the names of its head's layers, and the width of its features."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbones")
    clip = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    siglip = SiglipConfig(text_config=TEXT, vision_config=VISION)
    return {
        "clip": (save(folder / "clip", CLIPModel(clip)), LAION, 8),
        "siglip": (save(folder / "siglip", SiglipModel(siglip)), V2_5, 16),
    }


def head_weights(layers: list[str], width: int) -> dict[str, Tensor]:
    """Random weights of the published shapes: width-1024-128-64-16-1."""
    generator = torch.Generator().manual_seed(1)
    sizes = [width, 1024, 128, 64, 16, 1]
    state = {}
    for layer, inputs, outputs in zip(layers, sizes, sizes[1:], strict=False):
        state[f"{layer}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        state[f"{layer}.bias"] = torch.randn(outputs, generator=generator) / 10
    return state


def load(head: Path, backbone: Path | str, **more: Any) -> AestheticReward:
    config = AestheticRewardConfig(name="looks", path=str(head), backbone=str(backbone), **more)
    reward = build_rewards([config])["looks"]
    assert isinstance(reward, AestheticReward)
    return reward


@pytest.fixture
def make(cases: dict[str, Case], tmp_path: Path) -> Callable[[str], AestheticReward]:
    def make(kind: str) -> AestheticReward:
        backbone, layers, width = cases[kind]
        torch.save(head_weights(layers, width), tmp_path / "head.pth")
        return load(tmp_path / "head.pth", backbone)

    return make


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)


CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


@pytest.mark.parametrize(
    ("kind", "mean", "std"), [("clip", CLIP_MEAN, CLIP_STD), ("siglip", torch.tensor(0.5), torch.tensor(0.5))]
)
def test_score_is_the_chain_of_linear_layers_on_the_unit_feature(
    make: Callable[[str], AestheticReward], cases: dict[str, Case], kind: str, mean: Tensor, std: Tensor
) -> None:
    backbone, layers, width = cases[kind]
    model: Any = {"clip": CLIPModel, "siglip": SiglipModel}[kind].from_pretrained(backbone).eval()
    pixels = (images() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    with torch.no_grad():
        features = model.get_image_features(pixel_values=pixels).pooler_output
    values = features / features.norm(dim=-1, keepdim=True)
    for layer in layers:
        state = head_weights(layers, width)
        values = values @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
    torch.testing.assert_close(make(kind).score(images(), PLAIN), values[:, 0], rtol=1e-4, atol=1e-5)


def test_laion_crops_and_v2_5_squashes(make: Callable[[str], AestheticReward]) -> None:
    assert InputSpec.of(make("clip")) == InputSpec(16, "crop")
    assert InputSpec.of(make("siglip")) == InputSpec(16, "squash")


def test_every_text_has_the_same_score_so_that_a_difference_of_texts_is_none(
    make: Callable[[str], AestheticReward],
) -> None:
    reward = make("clip")
    plain = reward.score(images(), PLAIN)
    queries = [TextQuery(((2.0, "sharp. a cat"), (-0.5, "flat. a cat"))), TextQuery.relative("a dog", ["a"], ["b"])]
    torch.testing.assert_close(reward.score(images(), queries), plain * torch.tensor([1.5, 0.0]))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_image_gradient_is_that_of_finite_differences_in_float64(
    make: Callable[[str], AestheticReward], kind: str
) -> None:
    reward = make(kind)
    reward.backbone.double()
    reward.head.double()
    pixels = images(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda pixels: reward.score(pixels, PLAIN), pixels, fast_mode=True)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_image_encoder_in_bfloat16_has_almost_the_same_gradient_and_the_head_stays_in_float32(
    make: Callable[[str], AestheticReward], cases: dict[str, Case], kind: str, tmp_path: Path
) -> None:
    exact = make(kind)
    rounded = load(tmp_path / "head.pth", cases[kind][0], dtype="bfloat16")
    assert {parameter.dtype for parameter in rounded.backbone.vision_model.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in rounded.head.parameters()} == {torch.float32}
    found = cosines(rounded, exact, images(), PLAIN)
    assert ((found > 0.999) & (found < 1)).all(), found


def test_statistics_are_those_of_the_folders_processor(cases: dict[str, Case], tmp_path: Path) -> None:
    backbone, layers, width = cases["siglip"]
    SiglipModel.from_pretrained(backbone).save_pretrained(tmp_path)
    SiglipImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    torch.save(head_weights(layers, width), tmp_path / "head.pth")
    reward = load(tmp_path / "head.pth", tmp_path)
    assert (reward._mean, reward._std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_backbone_and_head_in_half_precision_score_as_the_same_weights_in_float32(
    cases: dict[str, Case], tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    backbone, layers, width = cases[kind]
    # These weights are numbers of all three types, so that no rounding of the file is in the scores.
    model: Any = {"clip": CLIPModel, "siglip": SiglipModel}[kind].from_pretrained(backbone).bfloat16().half()
    head = {name: tensor.bfloat16().half() for name, tensor in head_weights(layers, width).items()}
    scores = []
    for each in (torch.float32, dtype):
        model.to(each).save_pretrained(tmp_path / "backbone")
        torch.save({name: tensor.to(each) for name, tensor in head.items()}, tmp_path / "head.pth")
        reward = load(tmp_path / "head.pth", tmp_path / "backbone")
        parameters = [*reward.backbone.parameters(), *reward.head.parameters()]
        assert {parameter.dtype for parameter in parameters} == {torch.float32}
        scores.append(reward.score(images(), PLAIN))
    assert torch.equal(scores[0], scores[1])


def test_head_of_another_backbone_is_named_and_counted(cases: dict[str, Case], tmp_path: Path) -> None:
    torch.save(head_weights(V2_5, 16), tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"10 missing \(layers.0.bias, .*10 unknown \(scoring_head.0.bias, "):
        load(tmp_path / "head.pth", cases["clip"][0])
    torch.save(head_weights(LAION, 16), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"1 of another shape \(layers.0.weight\)"):
        load(tmp_path / "wide.pth", cases["clip"][0])


def test_unusable_files_are_refused(cases: dict[str, Case], tmp_path: Path) -> None:
    head = tmp_path / "head.pth"
    backbone, layers, width = cases["clip"]
    with pytest.raises(ValueError, match=r"expected a checkpoint file at .*received no file"):
        load(head, backbone)
    torch.save(head_weights(layers, width), head)
    right = hashlib.sha256(head.read_bytes()).hexdigest()
    load(head, backbone, sha256=right)
    with pytest.raises(ValueError, match=f"with sha256 {'0' * 64}, received {right}"):
        load(head, backbone, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"readable CLIP or SigLIP model of transformers at .*none"):
        load(head, tmp_path / "none")
    head.write_bytes(head.read_bytes()[:3000])
    with pytest.raises(ValueError, match="that can be read, received"):
        load(head, backbone)
