"""Tokenizers and text encoders of the tiny FLUX pipeline."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from srpo_ray.small_world.prompts import WORDS, all_contents, caption

CLIP_LENGTH = 32
T5_LENGTH = 16


def vocabulary_captions() -> list[str]:
    """Return the plain caption of every content, and the captions of one content with every word: all words occur."""
    contents = all_contents()
    return [*map(caption, contents), *(caption(contents[0], word) for word in WORDS)]


def build_clip_tokenizer() -> CLIPTokenizer:
    """Train a byte-level BPE tokenizer, which accepts any text; end-of-text has the largest id."""
    # An empty CLIPTokenizer has CLIP's normalisation and splitting, so training and inference agree.
    stock = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer, bpe.pre_tokenizer = stock.normalizer, stock.pre_tokenizer
    # Letters as special tokens have fixed ids, so ties between merges are resolved deterministically.
    trainer = trainers.BpeTrainer(
        vocab_size=1000, end_of_word_suffix="</w>", special_tokens=letters, show_progress=False
    )
    bpe.train_from_iterator(vocabulary_captions(), trainer)
    merges: Any = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*letters, *(left + right for left, right in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def build_t5_tokenizer() -> T5Tokenizer:
    """Build a Unigram tokenizer: one piece per word of the captions, and single characters for all other text."""
    words = sorted({word for text in vocabulary_captions() for word in text.replace(".", "").split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    # Unigram chooses the split with the highest total score, so a whole word always beats its characters.
    pieces += [(f"▁{word}", -5.0) for word in words]
    pieces += [("▁", -10.0), *((chr(code), -10.0) for code in range(33, 127))]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)


def build_clip_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    """Build an untrained text encoder with pooled output [B, width]."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH,
            **_special_ids(tokenizer, "bos_token_id", "eos_token_id", "pad_token_id"),
        )
    )


def build_t5_encoder(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    """Build an untrained text encoder with output [B, length, width]."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=width // 4,
            num_heads=4,
            d_ff=2 * width,
            num_layers=2,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            **_special_ids(tokenizer, "pad_token_id", "eos_token_id"),
        )
    )


def _special_ids(tokenizer: CLIPTokenizer | T5Tokenizer, *names: str) -> dict[str, Any]:
    return {name: getattr(tokenizer, name) for name in names}
