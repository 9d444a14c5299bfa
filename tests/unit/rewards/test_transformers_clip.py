"""CLIP rewards in transformers' format, against transformers' own logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from srpo_ray.config.rewards import TransformersClipRewardConfig
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from srpo_ray.rewards.token_limits import token_limit
from srpo_ray.small_world.weights import WEIGHTS
from tests.helpers.rewards.gradients import cosines

TOKENIZER = WEIGHTS / "flux" / "tokenizer"
LENGTH = 9
TEXTS = ["a red circle", "a blue square on a black background and much more that is cut"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in the layout of PickScore's folder: weights and config, without a processor."""
    folder = tmp_path_factory.mktemp("pickscore")
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    end = tokenizer.eos_token_id
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        eos_token_id=end,
        projection_dim=8,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.constant_(model.logit_scale, 3.0)
    model.save_pretrained(folder)
    return folder


def config(folder: Path, **more: Any) -> TransformersClipRewardConfig:
    return TransformersClipRewardConfig(name="pick", path=str(folder), **{"tokenizer": str(TOKENIZER), **more})


def load(folder: Path, **more: Any) -> Any:
    return build_rewards([config(folder, **more)])["pick"]


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_published_score_is_the_models_logit(folder: Path) -> None:
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False)
    tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    pixels = processor(list(images()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(**tokens, pixel_values=pixels).logits_per_image.diagonal()
    queries = [TextQuery.plain(text) for text in TEXTS]
    torch.testing.assert_close(load(folder, logit_scale=True).score(images(), queries), logits, rtol=1e-4, atol=1e-4)
    cosine = load(folder, scale=0.05).score(images(), queries)
    torch.testing.assert_close(cosine, 0.05 * logits / torch.tensor(3.0).exp(), rtol=1e-4, atol=1e-6)


def test_common_text_direction_is_reduced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "common.txt").write_text("a cat\na dog\n")
    plain, reduced = load(folder), load(folder, common={"weight": 0.0, "prompts": str(tmp_path / "common.txt")})
    queries = [TextQuery.plain(text) for text in ("a cat", "a dog")]
    # The texts that define the direction have opposite scores without it: their mean has no other part.
    first, second = (reduced.score(images()[:1], [query]) for query in queries)
    norms = plain._encode_texts(["a cat", "a dog"]).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(2))
    torch.testing.assert_close(first, -second, rtol=1e-4, atol=1e-5)
    assert first.abs().item() > 1e-4


def test_image_gradient_is_that_of_finite_differences_in_float64(folder: Path) -> None:
    reward = load(folder)
    reward.model.double()
    queries = [TextQuery(((1.2, TEXTS[0]), (-1.0, TEXTS[1])))] * 2
    assert torch.autograd.gradcheck(
        lambda pixels: reward.score(pixels, queries), images(torch.float64).requires_grad_(), fast_mode=True
    )


def test_image_encoder_in_bfloat16_has_almost_the_same_gradient_and_texts_stay_in_float32(folder: Path) -> None:
    exact, rounded = load(folder), load(folder, dtype="bfloat16")
    clip = rounded.model.model
    image_parts = {*clip.vision_model.parameters(), *clip.visual_projection.parameters()}
    assert {parameter.dtype for parameter in image_parts} == {torch.bfloat16}
    assert {parameter.dtype for parameter in {*clip.parameters()} - image_parts} == {torch.float32}
    queries = [TextQuery.plain(TEXTS[0]), TextQuery(((1.2, TEXTS[0]), (-1.0, TEXTS[1])))]
    found = cosines(rounded, exact, images(), queries)
    assert ((found > 0.999) & (found < 1)).all(), found


def test_images_are_normalised_by_the_folders_processor(folder: Path, tmp_path: Path) -> None:
    CLIPModel.from_pretrained(folder).save_pretrained(tmp_path)
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    assert load(tmp_path)._mean == (0.1, 0.2, 0.3)
    assert load(tmp_path)._std == (0.4, 0.5, 0.6)
    assert load(folder)._mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_truncated_text_is_warned_about_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    reward = load(folder)
    # "a red circle" is five tokens with its marks; the second text does not fit into nine.
    for text in (TEXTS[0], TEXTS[1], TEXTS[1] + " again"):
        reward.score(images()[:1], [TextQuery.plain(text)])
    messages = [record.getMessage() for record in caplog.records if "not scored" in record.getMessage()]
    assert messages == [
        f"reward 'pick' reads at most 9 tokens. The rest of this text is not scored (warned once): {TEXTS[1]!r}"
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_model_saved_in_half_precision_scores_as_the_same_weights_in_float32(
    folder: Path, tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    # These weights are numbers of all three types, so that no rounding of the file is in the scores.
    model: Any = CLIPModel.from_pretrained(folder).bfloat16().half()
    model.float().save_pretrained(tmp_path / "float32")
    model.to(dtype).save_pretrained(tmp_path / "half")
    if suffix == "bin":
        (tmp_path / "half" / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "half" / "pytorch_model.bin")
    halved, queries = load(tmp_path / "half"), [TextQuery.plain(text) for text in TEXTS]
    assert {parameter.dtype for parameter in halved.model.parameters()} == {torch.float32}
    assert torch.equal(halved.score(images(), queries), load(tmp_path / "float32").score(images(), queries))


def test_models_that_are_no_whole_clip_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a readable CLIP model of transformers"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match="received one of type 't5'"):
        load(WEIGHTS / "flux" / "text_encoder_2")
    model = CLIPModel.from_pretrained(folder)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("visual_proj")}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    with pytest.raises(ValueError, match=r"without 1 of them \(visual_projection.weight\)"):
        load(tmp_path / "part")
    state = {**model.state_dict(), "head.weight": torch.zeros(2)}
    model.save_pretrained(tmp_path / "more", state_dict=state)
    with pytest.raises(ValueError, match=r"with unknown 1 of them \(head.weight\)"):
        load(tmp_path / "more")
    with pytest.raises(ValueError, match=r"expected a tokenizer at .* tokens, received one with \d+; set `tokenizer`"):
        load(folder, tokenizer=str(tmp_path / "part"))
    model.save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(ValueError, match="expected a readable CLIP model of transformers"):
        load(tmp_path / "cut")


def depends_on_the_last_word(reward: Any, words: int) -> bool:
    """True if the score depends on the last of some words."""
    texts = [" ".join(["red"] * (words - 1) + [last]) for last in ("circle", "square")]
    first, second = (reward.score(images()[:1], [TextQuery.plain(text)]).item() for text in texts)
    return first != second


def test_token_limit_is_that_beyond_which_no_score_depends_on_a_text(folder: Path) -> None:
    limit = token_limit(config(folder))
    assert limit is not None
    for words in range(limit.num_tokens - 4, limit.num_tokens + 1):
        (tokens,) = limit.count([" ".join(["red"] * words)])
        assert (tokens <= limit.num_tokens) == depends_on_the_last_word(load(folder), words) == (words < LENGTH - 1)
