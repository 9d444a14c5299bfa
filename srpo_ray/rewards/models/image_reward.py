"""ImageReward v1: BLIP's text encoder reads the prompt with cross-attention to the image, and a head scores it."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from srpo_ray.config.rewards import ImageRewardConfig
from srpo_ray.rewards.models.checkpoint_file import find_checkpoint, load_strictly, read_state_dict
from srpo_ray.rewards.models.image_encoder import DTYPES
from srpo_ray.rewards.models.linear_head import linear_head
from srpo_ray.rewards.models.pretrained import CLIP_STATISTICS, load_tokenizer
from srpo_ray.rewards.preprocess import normalize
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.text_limit import TextLimit

SCORE_MEAN, SCORE_STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the raw score on ImageReward's training images; they normalise the published score."""
NUM_TOKENS = 35
# Names of modules here -> names in the published file; the first match counts.
_PUBLISHED = (
    (r"vision\.embeddings\.class_embedding", r"blip.visual_encoder.cls_token"),
    (r"vision\.embeddings\.position_embedding", r"blip.visual_encoder.pos_embed"),
    (r"vision\.embeddings\.patch_embedding\.", r"blip.visual_encoder.patch_embed.proj."),
    (r"vision\.encoder\.layers\.(\d+)\.layer_norm", r"blip.visual_encoder.blocks.\1.norm"),
    (r"vision\.encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"blip.visual_encoder.blocks.\1.attn.qkv."),
    (r"vision\.encoder\.layers\.(\d+)\.self_attn\.projection\.", r"blip.visual_encoder.blocks.\1.attn.proj."),
    (r"vision\.encoder\.layers\.(\d+)\.mlp\.", r"blip.visual_encoder.blocks.\1.mlp."),
    (r"vision\.post_layernorm\.", r"blip.visual_encoder.norm."),
    (r"text\.", r"blip.text_encoder."),
    (r"head\.", r"mlp.layers."),
)
# In the file, but not part of the score: weights of BLIP's other tasks, and a table that is computed.
_UNREAD = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


class ImageRewardModel(nn.Module):
    """Network of ImageReward, of any size.

    Args:
        vision: A `BlipVisionConfig`; None takes the published ViT-L/16 for 224 pixels.
        text: A `BlipTextConfig`; None takes the published BERT base with cross-attention.

    Source: https://github.com/THUDM/ImageReward, arXiv:2304.05977.
    """

    def __init__(self, vision: Any = None, text: Any = None) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        self.vision: Any = BlipVisionModel(
            vision
            or BlipVisionConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=24,
                num_attention_heads=16,
                image_size=224,
                layer_norm_eps=1e-6,
            )
        )
        self.text: Any = BlipTextModel(
            text or BlipTextConfig(encoder_hidden_size=1024, num_attention_heads=12), add_pooling_layer=False
        )
        self.head = linear_head(self.text.config.hidden_size, num_dropouts=3)
        self.image_size = int(self.vision.config.image_size)

    def forward(self, pixels: Tensor, rows: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Compute the raw scores `[M]` of M texts.

        Args:
            pixels: `[B, 3, size, size]`, normalised, in the data type of text encoder and head.
            rows: `[M]`, index of the image of each text.
            tokens: `[M, L]`.
            mask: `[M, L]`, 1 for a token and 0 for padding.
        """
        weight = next(self.vision.parameters())
        seen = self.vision(pixel_values=pixels.to(weight.dtype)).last_hidden_state[rows].to(pixels.dtype)
        read = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
        return self.head(read[:, 0]).squeeze(-1)


class ImageReward:
    """`score = (raw - 0.167) / 1.033`, about -2 to 2 and near 0 for an average image.

    Unlike CLIP's, the score is not linear in a text feature. The score of a query is therefore the weighted sum of the
    scores of its texts; each text costs a pass of the text encoder, and the images are encoded once. A relative query
    thus compares whole scores. This defines the relative reward for any model, though SRPO was published for CLIP-type
    rewards only.

    Args:
        name: Unique name of the reward.
        model: The network; it is frozen and put in evaluation mode here.
        tokenizer: A `BertTokenizer` of transformers.
    """

    image_gradient = True

    def __init__(self, name: str, model: ImageRewardModel, tokenizer: Any) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.image_size: int = model.image_size
        self._tokenizer = tokenizer
        self._limit = TextLimit(name, NUM_TOKENS)

    @classmethod
    def load(
        cls, config: ImageRewardConfig, device: str = "cpu", model: ImageRewardModel | None = None
    ) -> "ImageReward":
        """Load weights and tokenizer.

        Args:
            config: Paths of both.
            device: Device of the model.
            model: Model that gets the weights; None makes one of the published size.

        Raises:
            ValueError: If either is missing or cannot be read, or the weights do not match the model.
        """
        from transformers import BertTokenizer

        state = read_state_dict(config.name, find_checkpoint(config.name, config.path), config.sha256)
        state = {key: tensor for key, tensor in state.items() if not key.startswith(_UNREAD)}
        model = model or ImageRewardModel()
        tokenizer = load_tokenizer(config.name, config.tokenizer, BertTokenizer, model.text.config.vocab_size)
        load_strictly(config.name, model, state, _published)
        model.vision.to(DTYPES[config.dtype])
        return cls(config.name, model.to(device), tokenizer)

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """See `Reward.score`; the result has the type of `images`."""
        parameter = next(self.model.head.parameters())
        pixels = normalize(images.to(parameter.device, parameter.dtype), *CLIP_STATISTICS)
        counts = [len(query.terms) for query in queries]
        rows = torch.arange(len(queries)).repeat_interleave(torch.tensor(counts))
        encoded = self._encode([text for query in queries for text in query.texts])
        inputs = (tensor.to(pixels.device) for tensor in (rows, encoded["input_ids"], encoded["attention_mask"]))
        scores = (self.model(pixels, *inputs) - SCORE_MEAN) / SCORE_STD
        weighted = scores * scores.new_tensor([weight for query in queries for weight, _ in query.terms])
        return torch.stack([terms.sum() for terms in weighted.split(counts)]).to(images.dtype)

    def _encode(self, texts: list[str]) -> Any:
        if not self._limit.said:
            for text, tokens in zip(texts, self._tokenizer(texts)["input_ids"], strict=True):
                if len(tokens) > NUM_TOKENS:
                    self._limit.say(text)
        return self._tokenizer(texts, padding=True, truncation=True, max_length=NUM_TOKENS, return_tensors="pt")


def _published(key: str) -> str:
    for ours, theirs in _PUBLISHED:
        renamed, found = re.subn(f"^{ours}", theirs, key)
        if found:
            return renamed
    raise AssertionError(f"no published name for {key}")
