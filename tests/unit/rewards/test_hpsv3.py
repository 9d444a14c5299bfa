import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLImageProcessor, Qwen2VLModel

from srpo_ray.config.rewards import HPSv3RewardConfig
from srpo_ray.rewards.models.hpsv3 import HPSv3Reward, patches_of
from srpo_ray.rewards.models.hpsv3_prompt import INSTRUCTION, chat_text
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards

SIZE = 56
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def save_tiny_release(folder: Path) -> HPSv3RewardConfig:
    """Save config and tokenizer as Qwen2-VL does, and all weights under the names of the published file."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=MARKS[0]).save_pretrained(folder)
    text = {
        "vocab_size": 400,  # more than the tokenizer has, as in the published config
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
    }
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2}
    config: Any = Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=len(alphabet) + 5)
    config.save_pretrained(folder)
    torch.manual_seed(0)
    config.text_config.vocab_size = len(alphabet) + len(MARKS) + 1
    qwen = Qwen2VLModel(config)
    state = {
        ("" if name.startswith("visual.") else "model.") + name.removeprefix("language_model."): tensor
        for name, tensor in qwen.state_dict().items()
    }
    for index, (inputs, outputs) in {0: (32, 1024), 3: (1024, 16), 5: (16, 2)}.items():
        state |= {f"rm_head.{index}.weight": torch.randn(outputs, inputs) / inputs**0.5}
        state |= {f"rm_head.{index}.bias": torch.randn(outputs)}
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "HPSv3.safetensors")
    return HPSv3RewardConfig(name="v3", path=str(folder / "HPSv3.safetensors"), backbone=str(folder), dtype="float32")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> HPSv3RewardConfig:
    return save_tiny_release(tmp_path_factory.mktemp("hpsv3"))


@pytest.fixture(scope="module")
def reward(config: HPSv3RewardConfig) -> HPSv3Reward:
    (loaded,) = build_rewards([config]).values()
    assert isinstance(loaded, HPSv3Reward)
    # 448 pixels are 256 tokens; the tiny model needs no more than four.
    return HPSv3Reward("v3", loaded.model, loaded._tokenizer, SIZE)  # pyright: ignore[reportPrivateUsage]


def by_hand(config: HPSv3RewardConfig, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Scores by transformers' own image processor and whole model, one image at a time, and the head in float64."""
    folder = config.backbone
    state: dict[str, Any] = load_file(config.path)
    settings: Any = Qwen2VLConfig.from_pretrained(folder)
    settings.text_config.vocab_size = len(state["model.embed_tokens.weight"])
    qwen = Qwen2VLModel(settings).eval()
    names = {
        name: ("" if name.startswith("visual.") else "model.") + name.removeprefix("language_model.")
        for name in qwen.state_dict()
    }
    qwen.load_state_dict({name: state[published] for name, published in names.items()})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    process = Qwen2VLImageProcessor(do_rescale=False, size={"shortest_edge": SIZE**2, "longest_edge": SIZE**2})
    found = []
    for image, prompt in zip(images, prompts, strict=True):
        seen = process([image], return_tensors="pt")
        tokens = tokenizer(chat_text(prompt, 4), return_tensors="pt")["input_ids"]
        positions = torch.arange(tokens.shape[1]).expand(3, 1, -1)
        with torch.no_grad():
            hidden = qwen(input_ids=tokens, position_ids=positions, **seen).last_hidden_state[0].double()
        value = hidden[int((tokens[0] == tokenizer.convert_tokens_to_ids("<|Reward|>")).nonzero())]
        for index in (0, 3, 5):
            value = state[f"rm_head.{index}.weight"].double() @ value + state[f"rm_head.{index}.bias"].double()
            value = value if index == 5 else value.clamp(min=0)
        found.append(value[0])
    return torch.stack(found).float()


def images_of(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_score_is_the_mean_of_an_independent_computation(config: HPSv3RewardConfig, reward: HPSv3Reward) -> None:
    prompts = ["a cat", "a {red} dog and two birds", ""]
    scores = reward.score(images_of(3), [TextQuery.plain(prompt) for prompt in prompts])
    torch.testing.assert_close(scores, by_hand(config, images_of(3), prompts), rtol=1e-4, atol=1e-5)
    assert scores.std() > 1e-4


def test_weighted_query_is_the_weighted_sum_of_scores(reward: HPSv3Reward) -> None:
    query = TextQuery(((1.5, "good. a cat"), (-0.5, "bad")))
    good, bad = (reward.score(images_of(2), [TextQuery.plain(text)] * 2) for text in query.texts)
    together = reward.score(images_of(2), [query, TextQuery.plain("bad")])
    torch.testing.assert_close(together, torch.stack([1.5 * good[0] - 0.5 * bad[0], bad[1]]), rtol=1e-4, atol=1e-5)


def test_gradient_is_the_slope_of_the_score_and_images_do_not_mix(reward: HPSv3Reward) -> None:
    images = images_of(2).requires_grad_()
    queries = [TextQuery.plain("a cat"), TextQuery.plain("dog")]
    (gradient,) = torch.autograd.grad(reward.score(images, queries)[0], images)
    assert gradient[1].abs().max() == 0
    direction = gradient / gradient.norm()
    step = 1e-2 * direction
    with torch.no_grad():
        slope = (reward.score(images + step, queries) - reward.score(images - step, queries))[0] / 2e-2
    torch.testing.assert_close(slope, gradient.norm(), rtol=0.02, atol=0)


def test_patches_are_those_of_the_image_processor() -> None:
    images = torch.rand(2, 3, 56, 84)
    process = Qwen2VLImageProcessor(
        do_rescale=False,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        size={"shortest_edge": 56 * 84, "longest_edge": 56 * 84},
    )
    assert torch.equal(patches_of(images, 14, 2, 2), process(list(images), return_tensors="pt")["pixel_values"])


def test_instruction_is_that_of_the_release() -> None:
    digest = hashlib.sha256(INSTRUCTION.encode()).hexdigest()
    assert digest == "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"
    assert chat_text("a {cat}", 2).count("<|image_pad|>") == 2
    assert "Textual prompt - a {cat}\n\n\n\nPlease provide" in chat_text("a {cat}", 2)


def test_prompt_with_a_token_of_the_model_is_refused(reward: HPSv3Reward) -> None:
    with pytest.raises(ValueError, match=r"without tokens of the model, received <\|Reward\|>"):
        reward.score(images_of(1), [TextQuery.plain("a <|Reward|>")])


def test_other_weights_and_tokenizers_are_refused(config: HPSv3RewardConfig, tmp_path: Path) -> None:
    state = load_file(config.path)
    del state["rm_head.5.bias"]
    save_file(state, tmp_path / "HPSv3.safetensors")
    with pytest.raises(ValueError, match=r"'v3'.*1 missing \(rm_head.5.bias\)"):
        build_rewards([config.model_copy(update={"path": str(tmp_path / "HPSv3.safetensors")})])
    with pytest.raises(ValueError, match=r"'v3'.*config and tokenizer of Qwen2-VL"):
        build_rewards([config.model_copy(update={"backbone": str(tmp_path)})])


def test_bfloat16_keeps_the_head_in_float32_and_the_score_close(config: HPSv3RewardConfig, reward: HPSv3Reward) -> None:
    (loaded,) = build_rewards([config.model_copy(update={"dtype": "bfloat16"})]).values()
    assert isinstance(loaded, HPSv3Reward)
    assert {p.dtype for p in loaded.model.qwen.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.model.head.parameters()} == {torch.float32}
    coarse = HPSv3Reward("v3", loaded.model, loaded._tokenizer, SIZE)  # pyright: ignore[reportPrivateUsage]
    queries = [TextQuery.plain("a cat")]
    torch.testing.assert_close(
        coarse.score(images_of(1), queries), reward.score(images_of(1), queries), rtol=0.1, atol=0.1
    )
