"""Texts that the encoders of each family read: functions of a tokenizer and a prompt."""

from collections.abc import Callable
from typing import Any


def plain_text(_tokenizer: Any, prompt: str) -> str:
    """Return a prompt as it is, for encoders without a template."""
    return prompt


def qwen3_chat(*, enable_thinking: bool) -> Callable[[Any, str], str]:
    """Build the function that puts a prompt into the chat template of Qwen3's tokenizer."""

    def text(tokenizer: Any, prompt: str) -> str:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=enable_thinking,
        )

    return text


def mistral_chat(tokenizer: Any, prompt: str) -> str:
    """Put a prompt into the chat template of FLUX.2 dev's tokenizer, behind the pipeline's system message."""
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    parts = [("system", SYSTEM_MESSAGE), ("user", prompt.replace("[IMG]", ""))]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in parts]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)


def qwen_image_text(_tokenizer: Any, prompt: str) -> str:
    """Put a prompt into the text of `QwenImagePipeline`, which is that of `Krea2Pipeline` too."""
    return (
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial"
        " relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
        f"{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )


def qwen_image21_text(_tokenizer: Any, prompt: str) -> str:
    """Return the part of the text of `QwenImage21Pipeline` whose features its transformer reads."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
