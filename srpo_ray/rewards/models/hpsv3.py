"""HPSv3: Qwen2-VL reads the image and an instruction with the prompt; a head gives mean and deviation of the score."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from srpo_ray.config.rewards import HPSv3RewardConfig
from srpo_ray.rewards.models.checkpoint_file import find_checkpoint, load_strictly, read_state_dict
from srpo_ray.rewards.models.hpsv3_prompt import IMAGE_TOKEN, REWARD_TOKEN, chat_text
from srpo_ray.rewards.models.image_encoder import DTYPES
from srpo_ray.rewards.models.pretrained import CLIP_STATISTICS
from srpo_ray.rewards.preprocess import normalize
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.reading import Reading

IMAGE_SIZE = 448
"""Side of the square with the 256 * 28 * 28 pixels to which the release resizes every image."""
WIDTHS = (1024, 16, 2)
"""Widths of the head's layers; the outputs are mean and deviation."""
# Names of modules here -> names in the published file, which is of transformers 4.45.
_PUBLISHED = (("qwen.visual.", "visual."), ("qwen.language_model.", "model."), ("head.", "rm_head."))
_UNREAD = "lm_head."


class HPSv3Model(nn.Module):
    """Network of HPSv3, of any size.

    Args:
        config: A `Qwen2VLConfig`, with one row of the vocabulary for each token of the tokenizer.
        reward_token: Id of the token whose hidden state the head reads.
        dtype: Data type of all parts but the head, which computes in float32.

    Source: https://github.com/MizzenAI/HPSv3, arXiv:2508.03789.
    """

    def __init__(self, config: Any, reward_token: int, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModel

        super().__init__()
        self.qwen: Any = AutoModel.from_config(config, dtype=dtype)
        first, second, outputs = WIDTHS
        # The dropout of the release has an index but no weights.
        self.head = nn.Sequential(
            nn.Linear(config.text_config.hidden_size, first),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, outputs),
        )
        self.reward_token = reward_token

    def forward(self, pixels: Tensor, rows: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Compute mean and deviation `[M, 2]` of the score of M texts.

        Args:
            pixels: `[B, 3, size, size]`, normalised.
            rows: `[M]`, index of the image of each text.
            tokens: `[M, L]`, each with one image and one reward token.
            mask: `[M, L]`, 1 for a token and 0 for padding, which follows the tokens.
        """
        vision, language = self.qwen.visual, self.qwen.language_model
        side = pixels.shape[-1] // vision.config.patch_size
        grid = torch.tensor([[1, side, side]] * len(pixels), device=pixels.device)
        patches = patches_of(pixels, vision.config.patch_size, vision.config.temporal_patch_size, self.merge_size)
        seen = vision(patches.to(vision.dtype), grid_thw=grid).pooler_output
        embedded = language.embed_tokens(tokens)
        seen = seen.view(len(pixels), -1, seen.shape[-1])[rows].to(embedded)
        is_image = (tokens == self.qwen.config.image_token_id).unsqueeze(-1)
        embedded = embedded.masked_scatter(is_image, seen)
        # Without `position_ids` the positions are 0, 1, 2, ... in all three axes, image tokens included. The release
        # was trained so: it calls the language model with embeddings only, which skips Qwen2-VL's image positions.
        hidden = language(inputs_embeds=embedded, attention_mask=mask, use_cache=False).last_hidden_state
        return self.head(hidden[tokens == self.reward_token].float())

    @property
    def merge_size(self) -> int:
        """Patches along a side of the square that becomes one token."""
        return self.qwen.visual.spatial_merge_size


def patches_of(pixels: Tensor, size: int, frames: int, merge: int) -> Tensor:
    """Cut images into the patches of Qwen2-VL: `[B * n, 3 * frames * size * size]`, those of one token together.

    Args:
        pixels: `[B, 3, H, W]`, sides divisible by `size * merge`.
        size: Side of a patch.
        frames: Number of frames of a patch; an image is repeated.
        merge: Patches along a side of the square that becomes one token.
    """
    batch, channels, height, width = pixels.shape
    rows, columns = height // (size * merge), width // (size * merge)
    cut = pixels.view(batch, channels, rows, merge, size, columns, merge, size).permute(0, 2, 5, 3, 6, 1, 4, 7)
    repeated = cut.unsqueeze(6).expand(*cut.shape[:6], frames, size, size)
    return repeated.reshape(-1, channels * frames * size * size)


class HPSv3Reward:
    """Mean of the score, unbounded; the deviation is not used.

    The score of a query is the weighted sum of the scores of its texts: each text costs a pass of the language model.

    Args:
        name: Unique name of the reward.
        model: The network; it is frozen and put in evaluation mode here.
        tokenizer: A tokenizer of Qwen2-VL with the reward token.
        image_size: Side of the image.
    """

    image_gradient = True

    def __init__(self, name: str, model: HPSv3Model, tokenizer: Any, image_size: int = IMAGE_SIZE) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.image_size = image_size
        self._tokenizer = tokenizer
        patch = model.qwen.visual.config.patch_size * model.merge_size
        self._image_tokens = (image_size // patch) ** 2

    @classmethod
    def load(cls, config: HPSv3RewardConfig, device: str = "cpu") -> "HPSv3Reward":
        """Load config and tokenizer of Qwen2-VL, and all weights from the published file.

        Args:
            config: Paths of both.
            device: Device of the model.

        Raises:
            ValueError: If one is missing or cannot be read, or the weights do not match the config.
        """
        from transformers import AutoTokenizer, Qwen2VLConfig

        state = read_state_dict(config.name, find_checkpoint(config.name, config.path), config.sha256)
        state = {key: tensor for key, tensor in state.items() if not key.startswith(_UNREAD)}
        with Reading(config.name, "config and tokenizer of Qwen2-VL", config.backbone, "check `backbone`"):
            settings: Any = Qwen2VLConfig.from_pretrained(config.backbone)
            tokenizer: Any = AutoTokenizer.from_pretrained(config.backbone, padding_side="right")
        tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
        known = tokenizer.get_vocab()
        if known.get(IMAGE_TOKEN) != settings.image_token_id:
            raise ValueError(
                f"reward {config.name!r}: expected a tokenizer of Qwen2-VL at {config.backbone!r}, received one without"
                f" {IMAGE_TOKEN} as token {settings.image_token_id}; correct `backbone`"
            )
        # The release cuts the table of tokens to those of the tokenizer.
        settings.text_config.vocab_size = len(tokenizer)
        model = HPSv3Model(settings, known[REWARD_TOKEN], DTYPES[config.dtype])
        load_strictly(config.name, model, state, _published)
        return cls(config.name, model.to(device), tokenizer)

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """See `Reward.score`; the result has the type of `images`."""
        device = next(self.model.head.parameters()).device
        pixels = normalize(images.to(device, torch.float32), *CLIP_STATISTICS)
        counts = [len(query.terms) for query in queries]
        rows = torch.arange(len(queries)).repeat_interleave(torch.tensor(counts))
        texts = [chat_text(self._checked(text), self._image_tokens) for query in queries for text in query.texts]
        encoded = self._tokenizer(texts, padding=True, return_tensors="pt")
        inputs = (tensor.to(pixels.device) for tensor in (rows, encoded["input_ids"], encoded["attention_mask"]))
        scores = self.model(pixels, *inputs)[:, 0]
        weighted = scores * scores.new_tensor([weight for query in queries for weight, _ in query.terms])
        return torch.stack([terms.sum() for terms in weighted.split(counts)]).to(images.dtype)

    @staticmethod
    def _checked(text: str) -> str:
        found = [token for token in (REWARD_TOKEN, IMAGE_TOKEN) if token in text]
        if found:
            raise ValueError(f"expected a text without tokens of the model, received {found[0]} in {text!r}; remove it")
        return text


def _published(key: str) -> str:
    ours, theirs = next(pair for pair in _PUBLISHED if key.startswith(pair[0]))
    return theirs + key.removeprefix(ours)
