"""Published rewards that need no type of their own, against their releases' formulas in float64."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import build_model_from_openai_state_dict
from torch import Tensor

from srpo_ray.config.rewards import OpenClipRewardConfig
from srpo_ray.rewards.models.open_clip import OpenClipReward
from srpo_ray.rewards.models.pretrained import CLIP_STATISTICS
from srpo_ray.rewards.query import TextQuery
from tests.conftest import ROOT
from tests.helpers.rewards.tiny_clip import save_tiny_clip

TINY = "srpo-ray-test-tiny-openai"
TEXTS = ["a red cat", "two blue dogs"]
QUERIES = [TextQuery.plain(TEXTS[0]), TextQuery(((1.5, TEXTS[1]), (-0.5, TEXTS[0])))]


def images_of(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def hps_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP of OpenAI, saved as HPS v1 is: its weights under `state_dict`."""
    folder = tmp_path_factory.mktemp("hps")
    # Heads have a width of 64 in all models of OpenAI.
    config = {
        "embed_dim": 8,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    (folder / f"{TINY}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model: Any = open_clip.create_model(TINY, pretrained=None)
    for parameter in model.parameters():
        # Large values, for which GELU and QuickGELU differ.
        torch.nn.init.normal_(parameter, std=0.4)
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, folder / "hpc.pt")
    return folder / "hpc.pt"


def hps_in_float64(file: Path, images: Tensor) -> Tensor:
    """100 times the cosines of images and texts by the model that open_clip builds from OpenAI's weights."""
    state = torch.load(file, weights_only=True)["state_dict"]
    model: Any = build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32).double()
    model.load_state_dict(state)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in CLIP_STATISTICS)
    with torch.no_grad():
        seen = model.encode_image((images.double() - mean) / std)
        read = model.encode_text(open_clip.tokenize(TEXTS))
    return 100 * (seen / seen.norm(dim=-1, keepdim=True)) @ (read / read.norm(dim=-1, keepdim=True)).T


def load_hps(file: Path, architecture: str = TINY) -> OpenClipReward:
    config = OpenClipRewardConfig(name="hps_v1", architecture=architecture, path=str(file), scale=100)
    return OpenClipReward.load(config)


def test_hps_v1_is_100_times_the_cosine_of_its_release(hps_file: Path) -> None:
    images = images_of(2, 16)
    table = hps_in_float64(hps_file, images)
    expected = torch.stack([table[0, 0], 1.5 * table[1, 1] - 0.5 * table[1, 0]]).float()
    torch.testing.assert_close(load_hps(hps_file).score(images, QUERIES), expected, rtol=1e-4, atol=1e-4)


def test_architecture_of_hps_v1_has_the_activation_and_the_sizes_of_openai() -> None:
    config: Any = open_clip.get_model_config("ViT-L-14-quickgelu")
    assert config["quick_gelu"]
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    # CLIP ViT-L/14 has 427,616,513 parameters.
    assert sum(parameter.numel() for parameter in model.parameters()) == 427_616_513


def pal_class() -> Any:
    """The class of the documentation."""
    spec = importlib.util.spec_from_file_location("pal_reward", ROOT / "docs" / "guides" / "pal_reward.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PalReward


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("pal") / "clip", 16, 5)


@pytest.fixture(scope="module", params=["mlp", "m"])
def pal_file(clip: Path, request: pytest.FixtureRequest) -> Path:
    """Two prototypes and two users, under the names of the release's checkpoint; `m` is the name of an older one."""
    generator = torch.Generator().manual_seed(7)
    state: dict[str, Tensor] = {"preference_learner.logit_scale": torch.tensor(2.5)}
    for projector in ("item_learner.projector", "user_learner.projectors.0", "user_learner.projectors.1"):
        for layer in (0, 3, 6):
            key = f"preference_learner.{projector}.{request.param}.layers.{layer}"
            state[f"{key}.weight"] = torch.randn(8, 8, generator=generator)
            state[f"{key}.bias"] = torch.randn(8, generator=generator)
    state["preference_learner.user_learner.W.17"] = torch.tensor([0.3, -0.4])
    state["preference_learner.user_learner.W.18"] = torch.tensor([-1.0, 2.0])
    # The release registers the projector of images twice.
    state |= {key.replace("item_learner.projector", "projector_f"): value for key, value in state.items()}
    file = clip.parent / f"pal_{request.param}.pt"
    torch.save({"state_dict": state}, file)
    return file


def pal_in_float64(clip: Path, file: Path, images: Tensor, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of images and texts, in numpy but for the features of CLIP."""
    model: Any = open_clip.create_model(f"local-dir:{clip}").double().eval()
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    )
    with torch.no_grad():
        seen = model.encode_image((images.double() - mean) / std, normalize=True).numpy()
        read = model.encode_text(open_clip.get_tokenizer(f"local-dir:{clip}")(TEXTS), normalize=True).numpy()
    state = {
        key.replace(".m.", ".mlp."): value.double().numpy()
        for key, value in torch.load(file, weights_only=True)["state_dict"].items()
    }

    def project(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        def layer(index: int, h: NDArray[np.float64]) -> NDArray[np.float64]:
            key = f"preference_learner.{name}.mlp.layers.{index}"
            return h @ state[f"{key}.weight"].T + state[f"{key}.bias"]

        return x + layer(6, np.maximum(layer(3, np.maximum(layer(0, x), 0)), 0))

    points = project("item_learner.projector", seen)
    ideals = shares[0] * project("user_learner.projectors.0", read) + shares[1] * project(
        "user_learner.projectors.1", read
    )
    cosine = (points @ ideals.T) / np.outer(np.linalg.norm(points, axis=1), np.linalg.norm(ideals, axis=1))
    return np.exp(2.5) * cosine


def softmax(values: list[float]) -> NDArray[np.float64]:
    return np.exp(values) / np.exp(values).sum()


def test_pal_is_the_cosine_to_the_ideal_point_of_the_users_mixture(clip: Path, pal_file: Path) -> None:
    images = images_of(2, 16)
    scores = {}
    for who, shares in (
        ({"user": "17"}, softmax([0.3, -0.4])),
        ({"user": "18"}, softmax([-1.0, 2.0])),
        ({"mixture": [0.25, 0.75]}, np.array([0.25, 0.75])),
    ):
        reward = pal_class()(f"local-dir:{clip}", str(pal_file), **who)
        table = pal_in_float64(clip, pal_file, images, shares)
        expected = torch.tensor([table[0, 0], 1.5 * table[1, 1] - 0.5 * table[1, 0]], dtype=torch.float32)
        scores[str(who)] = reward.score(images, QUERIES)
        torch.testing.assert_close(scores[str(who)], expected, rtol=1e-4, atol=1e-4)
    first, second, _ = scores.values()
    assert (first - second).abs().max() > 0.1, "users differ"


def test_pal_has_the_gradient_of_its_score(clip: Path, pal_file: Path) -> None:
    reward = pal_class()(f"local-dir:{clip}", str(pal_file), user="17")
    images = images_of(2, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(images, QUERIES)[0], images)
    assert gradient[1].abs().max() == 0, "images do not mix"
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        slope = (reward.score(images + step, QUERIES) - reward.score(images - step, QUERIES))[0] / 2e-2
    torch.testing.assert_close(slope, gradient.norm(), rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "who",
    [{}, {"user": "19"}, {"mixture": [1.0]}, {"mixture": [0.7, 0.7]}, {"user": "17", "mixture": [0.5, 0.5]}],
    ids=str,
)
def test_pal_refuses_users_that_the_checkpoint_lacks(clip: Path, pal_file: Path, who: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reward pal: expected a user"):
        pal_class()(f"local-dir:{clip}", str(pal_file), **who)
