"""ImageReward on a tiny model under the published names, against the same network written out in plain torch."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig

from srpo_ray.config.rewards import ImageRewardConfig
from srpo_ray.rewards.models.image_reward import ImageReward, ImageRewardModel
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.token_limits import token_limit
from tests.helpers.rewards.gradients import cosines

WIDTH, TEXT_WIDTH, DEPTH, HEADS, SIZE, PATCH, LENGTH = 16, 12, 2, 2, 16, 4, 40
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "square", "sharp", "flat", "."]
TEXTS = ["a red circle", "a blue square . sharp"]
State = dict[str, Tensor]


def linear(name: str, outputs: int, inputs: int, scale: float = 1.0) -> State:
    weight = scale * torch.randn(outputs, inputs) / math.sqrt(inputs)
    return {f"{name}.weight": weight, f"{name}.bias": 0.1 * torch.randn(outputs)}


def norm(name: str, width: int) -> State:
    return {f"{name}.weight": 1 + 0.1 * torch.randn(width), f"{name}.bias": 0.1 * torch.randn(width)}


def attention(name: str, inputs: int) -> State:
    queries = linear(f"{name}.self.query", TEXT_WIDTH, TEXT_WIDTH, scale=3.0)
    keys = linear(f"{name}.self.key", TEXT_WIDTH, inputs) | linear(f"{name}.self.value", TEXT_WIDTH, inputs)
    output = linear(f"{name}.output.dense", TEXT_WIDTH, TEXT_WIDTH) | norm(f"{name}.output.LayerNorm", TEXT_WIDTH)
    return queries | keys | output


def published_state() -> State:
    """Random weights with the names and shapes of ImageReward.pt, except for the widths."""
    torch.manual_seed(0)
    visual, text = "blip.visual_encoder", "blip.text_encoder"
    state = {
        f"{visual}.cls_token": torch.randn(1, 1, WIDTH),
        f"{visual}.pos_embed": torch.randn(1, (SIZE // PATCH) ** 2 + 1, WIDTH),
        f"{visual}.patch_embed.proj.weight": torch.randn(WIDTH, 3, PATCH, PATCH) / 7,
        f"{visual}.patch_embed.proj.bias": torch.randn(WIDTH),
        f"{text}.embeddings.position_ids": torch.arange(LENGTH)[None],
        f"{text}.embeddings.word_embeddings.weight": torch.randn(len(WORDS), TEXT_WIDTH),
        f"{text}.embeddings.position_embeddings.weight": torch.randn(LENGTH, TEXT_WIDTH),
        **norm(f"{text}.embeddings.LayerNorm", TEXT_WIDTH),
        **norm(f"{visual}.norm", WIDTH),
        **linear("blip.vision_proj", 8, WIDTH),
        **linear("blip.text_proj", 8, TEXT_WIDTH),
    }
    for layer in range(DEPTH):
        block = f"{visual}.blocks.{layer}"
        state |= norm(f"{block}.norm1", WIDTH) | norm(f"{block}.norm2", WIDTH)
        state |= linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH, scale=2.0) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        state |= linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH) | linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
        block = f"{text}.encoder.layer.{layer}"
        state |= attention(f"{block}.attention", TEXT_WIDTH) | attention(f"{block}.crossattention", WIDTH)
        state |= linear(f"{block}.intermediate.dense", 4 * TEXT_WIDTH, TEXT_WIDTH)
        state |= linear(f"{block}.output.dense", TEXT_WIDTH, 4 * TEXT_WIDTH)
        state |= norm(f"{block}.output.LayerNorm", TEXT_WIDTH)
    widths = [TEXT_WIDTH, 1024, 128, 64, 16, 1]
    for index, inputs, outputs in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        state |= linear(f"mlp.layers.{index}", outputs, inputs)
    return state


class PlainImageReward:
    """The published network for one image and one text, implemented from its description without transformers."""

    def __init__(self, state: State) -> None:
        self.state = state

    def linear(self, name: str, values: Tensor) -> Tensor:
        return F.linear(values, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name: str, values: Tensor, eps: float) -> Tensor:
        return F.layer_norm(values, values.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        width = queries.shape[1] // HEADS
        parts = []
        for head in range(HEADS):
            columns = slice(head * width, (head + 1) * width)
            weights = (queries[:, columns] @ keys[:, columns].T / math.sqrt(width)).softmax(-1)
            parts.append(weights @ values[:, columns])
        return torch.cat(parts, dim=1)

    def see(self, pixels: Tensor) -> Tensor:
        name = "blip.visual_encoder"
        kernel, bias = self.state[f"{name}.patch_embed.proj.weight"], self.state[f"{name}.patch_embed.proj.bias"]
        patches = F.conv2d(pixels[None], kernel, bias, stride=PATCH)[0].flatten(1).T
        values = torch.cat([self.state[f"{name}.cls_token"][0], patches]) + self.state[f"{name}.pos_embed"][0]
        for layer in range(DEPTH):
            block = f"{name}.blocks.{layer}"
            mixed = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", values, 1e-6))
            values = values + self.linear(f"{block}.attn.proj", self.attend(*mixed.chunk(3, dim=1)))
            hidden = F.gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", values, 1e-6)))
            values = values + self.linear(f"{block}.mlp.fc2", hidden)
        return self.norm(f"{name}.norm", values, 1e-6)

    def read(self, tokens: list[int], seen: Tensor) -> Tensor:
        name = "blip.text_encoder"
        words = self.state[f"{name}.embeddings.word_embeddings.weight"][tokens]
        places = self.state[f"{name}.embeddings.position_embeddings.weight"][: len(tokens)]
        values = self.norm(f"{name}.embeddings.LayerNorm", words + places, 1e-12)
        for layer in range(DEPTH):
            block = f"{name}.encoder.layer.{layer}"
            for part, others in (("attention", values), ("crossattention", seen)):
                at = f"{block}.{part}"
                queries = self.linear(f"{at}.self.query", values)
                keys, read = self.linear(f"{at}.self.key", others), self.linear(f"{at}.self.value", others)
                out = self.linear(f"{at}.output.dense", self.attend(queries, keys, read))
                values = self.norm(f"{at}.output.LayerNorm", out + values, 1e-12)
            hidden = F.gelu(self.linear(f"{block}.intermediate.dense", values))
            hidden = self.linear(f"{block}.output.dense", hidden)
            values = self.norm(f"{block}.output.LayerNorm", hidden + values, 1e-12)
        return values

    def score(self, image: Tensor, text: str) -> float:
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
        tokens = [WORDS.index(word) for word in ["[CLS]", *text.split(), "[SEP]"]]
        values = self.read(tokens, self.see((image - mean[:, None, None]) / std[:, None, None]))[:1]
        for index in (0, 2, 4, 6, 7):
            values = self.linear(f"mlp.layers.{index}", values)
        return (values.item() - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image_reward")
    torch.save(published_state(), folder / "ImageReward.pt")
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder / "tokenizer")
    return folder


def tiny_model() -> ImageRewardModel:
    shape: dict[str, Any] = {"num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    vision = BlipVisionConfig(
        **shape, hidden_size=WIDTH, intermediate_size=4 * WIDTH, image_size=SIZE, patch_size=PATCH, layer_norm_eps=1e-6
    )
    text = BlipTextConfig(
        **shape,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        encoder_hidden_size=WIDTH,
        vocab_size=len(WORDS),
        max_position_embeddings=LENGTH,
        bos_token_id=2,
        sep_token_id=3,
    )
    return ImageRewardModel(vision, text)


def load(folder: Path, file: str = "ImageReward.pt", **more: Any) -> ImageReward:
    tokenizer = str(folder / "tokenizer")
    config = ImageRewardConfig(name="ir", path=str(folder / file), **{"tokenizer": tokenizer, **more})
    return ImageReward.load(config, model=tiny_model())


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_score_is_that_of_the_published_network(folder: Path) -> None:
    plain = PlainImageReward(published_state())
    expected = [plain.score(image, text) for image, text in zip(images(), TEXTS, strict=True)]
    # The first text is padded to the length of the second.
    found = load(folder).score(images(), [TextQuery.plain(text) for text in TEXTS])
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert abs(expected[0] - plain.score(images()[0], TEXTS[1])) > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_file_in_half_precision_scores_as_the_same_weights_in_float32(folder: Path, dtype: torch.dtype) -> None:
    # These weights are numbers of all three types, so that no rounding of the file is in the scores.
    state = {
        name: tensor.bfloat16().half() if tensor.is_floating_point() else tensor
        for name, tensor in published_state().items()
    }
    scores = []
    for each in (torch.float32, dtype):
        halves = {name: tensor.to(each) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        torch.save(halves, folder / "halves.pt")
        reward = load(folder, "halves.pt")
        assert {parameter.dtype for parameter in reward.model.parameters()} == {torch.float32}
        scores.append(reward.score(images(), [TextQuery.plain(text) for text in TEXTS]))
    assert torch.equal(scores[0], scores[1])


def test_query_of_several_texts_is_the_weighted_sum_of_their_scores(folder: Path) -> None:
    reward = load(folder)
    sharp, flat = "a red circle . sharp", "flat"
    scores = {text: reward.score(images(), [TextQuery.plain(text)] * 2) for text in (sharp, flat)}
    found = reward.score(images(), [TextQuery(((1.3, sharp), (-1.0, flat))), TextQuery.plain(flat)])
    expected = torch.stack([1.3 * scores[sharp][0] - scores[flat][0], scores[flat][1]])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_images_are_encoded_once_whatever_the_number_of_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = load(folder)
    seen: list[int] = []
    encode = reward.model.vision.forward
    monkeypatch.setattr(
        reward.model.vision, "forward", lambda pixel_values: seen.append(len(pixel_values)) or encode(pixel_values)
    )
    reward.score(images(), [TextQuery.relative("a red circle", ["sharp", "red"], ["flat"])] * 2)
    assert seen == [2]


def test_image_gradient_is_that_of_finite_differences_in_float64(folder: Path) -> None:
    reward = load(folder)
    reward.model.double()
    queries = [TextQuery(((1.2, TEXTS[0]), (-1.0, TEXTS[1]))), TextQuery.plain(TEXTS[1])]
    pixels = images(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda pixels: reward.score(pixels, queries), pixels, fast_mode=True)


def test_image_encoder_in_bfloat16_has_almost_the_same_gradient_and_texts_stay_in_float32(folder: Path) -> None:
    exact, rounded = load(folder), load(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in rounded.model.vision.parameters()} == {torch.bfloat16}
    for part in (rounded.model.text, rounded.model.head):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    queries = [TextQuery(((1.2, TEXTS[0]), (-1.0, TEXTS[1]))), TextQuery.plain(TEXTS[1])]
    found = cosines(rounded, exact, images(), queries)
    # These random weights are several times larger than trained ones, and magnify the rounding.
    assert ((found > 0.99) & (found < 1)).all(), found


@pytest.mark.parametrize(("words", "warns"), [(33, False), (34, True)])
def test_truncated_text_is_warned_about_once(
    folder: Path, caplog: pytest.LogCaptureFixture, words: int, warns: bool
) -> None:
    reward = load(folder)
    texts = [" ".join(["red"] * words), " ".join(["blue"] * words)]
    scores = [reward.score(images(), [TextQuery.plain(text)] * 2) for text in texts]
    messages = [record.getMessage() for record in caplog.records if "not scored" in record.getMessage()]
    message = f"reward 'ir' reads at most 35 tokens. The rest of this text is not scored (warned once): {texts[0]!r}"
    assert messages == [message] * warns
    assert torch.equal(scores[0], reward.score(images(), [TextQuery.plain(" ".join(["red"] * 33))] * 2))


def test_weights_that_do_not_match_are_named_as_in_the_file_and_counted(folder: Path) -> None:
    state = published_state()
    del state["blip.visual_encoder.cls_token"], state["mlp.layers.7.bias"]
    torch.save({**state, "head.weight": torch.zeros(1)}, folder / "other.pt")
    problems = r"2 missing \(blip.visual_encoder.cls_token, mlp.layers.7.bias\); 1 unknown \(head.weight\)"
    with pytest.raises(ValueError, match=problems):
        load(folder, "other.pt")


def test_unusable_files_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="received no file"):
        load(folder, "none.pt")
    (folder / "cut.pt").write_bytes((folder / "ImageReward.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match="that can be read, received"):
        load(folder, "cut.pt")
    with pytest.raises(ValueError, match=f"with sha256 {'0' * 64}, received"):
        load(folder, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"expected a tokenizer at .*none'.* set `tokenizer`"):
        load(folder, tokenizer=str(folder / "none"))
    with pytest.raises(ValueError, match=r"with the model's 13 tokens, received one with \d; set `tokenizer`"):
        load(folder, tokenizer=str(folder))


def test_published_size_is_that_of_the_published_file() -> None:
    with torch.device("meta"):
        model = ImageRewardModel()
    unread = 1024 * 256 + 256 + 768 * 256 + 256
    weights = sum(tensor.numel() for tensor in model.state_dict().values()) + unread
    # 1,786,880,927 bytes in float32, of which some 350 go to the name and place of each tensor.
    assert 0 < 1_786_880_927 - 4 * weights < 400 * (len(model.state_dict()) + 5)
    assert model.image_size == 224


def depends_on_the_last_word(reward: ImageReward, words: int) -> bool:
    """True if the score depends on the last of some words."""
    texts = [" ".join(["red"] * (words - 1) + [last]) for last in ("circle", "square")]
    first, second = (reward.score(images()[:1], [TextQuery.plain(text)]).item() for text in texts)
    return first != second


def test_token_limit_is_that_beyond_which_no_score_depends_on_a_text(folder: Path) -> None:
    limit = token_limit(ImageRewardConfig(name="ir", tokenizer=str(folder / "tokenizer")))
    assert limit is not None
    for words in range(limit.num_tokens - 4, limit.num_tokens + 1):
        (tokens,) = limit.count([" ".join(["red"] * words)])
        assert (tokens <= limit.num_tokens) == depends_on_the_last_word(load(folder), words) == (words < 34)
