"""Chat API of a Qwen2-VL of transformers with a few thousand random weights, on the CPU, in float32."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from tests.helpers.rewards.http_server import Reply, chat_answer

SIZE = 56
"""Side of the images in pixels: four tokens each."""
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", IMAGE, VIDEO)
ANSWERS = ("yes", "Yes", "no", "0", "1", "2")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant{{ '\n' }}"
)
"""Chat format of Qwen2-VL with the generation prompt; Jinja drops a line end that is no expression."""


@dataclass(frozen=True)
class TinyVLM:
    """Model with the processor that transformers would load for it."""

    model: Any
    processor: Any

    def answer(self, body: Any) -> Reply:
        """Answer a request of the chat API by `generate`, with the log-probabilities that it reports."""
        images, content = [], []
        for part in body["messages"][0]["content"]:
            if part["type"] == "image_url":
                data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
                images.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
                content.append({"type": "image"})
            else:
                content.append(part)
        text = self.processor.apply_chat_template([{"role": "user", "content": content}])
        inputs = self.processor(text=[text], images=images, return_tensors="pt")
        made = self.model.generate(
            **inputs,
            max_new_tokens=body["max_tokens"],
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        places = []
        for logits in made.logits:
            top = logits[0].softmax(-1).topk(body["top_logprobs"])
            tokens = [self.processor.tokenizer.decode([index]) for index in top.indices.tolist()]
            places.append(dict(zip(tokens, top.values.tolist(), strict=True)))
        return Reply(chat_answer(*places))


def tiny_vlm(seed: int = 0) -> TinyVLM:
    """Build the model with random weights, whose answers are the tokens of `ANSWERS` in about half of the cases."""
    tokenizer = _tokenizer()
    mark: dict[str, int] = {name: tokenizer.convert_tokens_to_ids(name) for name in MARKS}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        "bos_token_id": None,
        "eos_token_id": mark["<|im_end|>"],
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
        image_token_id=mark[IMAGE],
        video_token_id=mark[VIDEO],
        vision_start_token_id=mark["<|vision_start|>"],
        vision_end_token_id=mark["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    model: Any = Qwen2VLForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    # Random answers would have a probability of 1 / 268 each. A common direction of all hidden states raises some.
    direction = torch.randn(32)
    model.model.language_model.norm.register_forward_hook(lambda _module, _inputs, output: output + direction)
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ANSWERS]
    model.lm_head.weight[answers] += 5 * direction / direction.square().sum()
    images = Qwen2VLImageProcessor(size={"shortest_edge": SIZE**2, "longest_edge": SIZE**2})
    processor = Qwen2VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE)
    return TinyVLM(model, processor)


def _tokenizer() -> Any:
    """Bytes, and the answers as single tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["ye", "yes", "Ye", "Yes", "no"]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *merged])}
    merges = [("y", "e"), ("ye", "s"), ("Y", "e"), ("Ye", "s"), ("n", "o")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=MARKS[0], eos_token=MARKS[2])
