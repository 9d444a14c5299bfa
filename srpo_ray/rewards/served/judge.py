"""Rating of images by a vision-language model behind an OpenAI-compatible server, from its token probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor

from srpo_ray.config.served_rewards import JudgeRewardConfig
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.served.base import Rated, ServedReward, encode_png, grey_image
from srpo_ray.rewards.served.chat import PATH, chat_body, read_answer
from srpo_ray.rewards.served.client import ServerClient
from srpo_ray.rewards.served.comparisons import pair_template_of
from srpo_ray.rewards.served.templates import template_of


class JudgeReward(ServedReward):
    """Mean rating under the judge's probabilities, or p(yes): continuous, unlike a digit that it writes.

    Args:
        config: Server, model and template.
        client: Sends the requests.

    Source: VQAScore arXiv:2404.01291; UnifiedReward arXiv:2503.05236.
    """

    def __init__(self, config: JudgeRewardConfig, client: ServerClient) -> None:
        super().__init__(config, client)
        self.config = config
        self._template = template_of(config)

    @classmethod
    def load(cls, config: JudgeRewardConfig, _device: str = "cpu") -> "JudgeReward":
        """See `ServedReward.load`; a judge with `comparison` also compares pairs, and is checked with one."""
        reward = (PairJudgeReward if config.comparison else JudgeReward)(config, ServerClient(config))
        reward.check()
        return reward

    def rate(self, pairs: Sequence[Rated]) -> list[float]:
        """See `ServedReward.rate`."""
        question, length = self._template.question, self._template.max_tokens
        bodies = [chat_body(self.config, question(pair.text), [pair.data_url], length) for pair in pairs]
        return [self._template.read(read_answer(answer)) for answer in self.client.post_all(PATH, bodies)]


class PairJudgeReward(JudgeReward):
    """Judge that also compares two images in one request: see `PairwiseReward`.

    Each pair is asked in both orders, and the preference is the mean of both, because judges prefer a position.
    """

    def __init__(self, config: JudgeRewardConfig, client: ServerClient) -> None:
        super().__init__(config, client)
        self._pair_template = pair_template_of(config)

    def compare(self, first: Tensor, second: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """See `PairwiseReward.compare`; ValueError for a query of several texts, which has no better image."""
        for query in queries:
            if len(query.terms) != 1 or query.terms[0][0] <= 0:
                raise ValueError(f"expected a query of a single text to compare images by, got {query}")
        texts = [query.texts[0] for query in queries]
        pairs = [
            (Rated(one, text).data_url, Rated(other, text).data_url, text)
            for one, other, text in zip(encode_png(first), encode_png(second), texts, strict=True)
        ]
        question, length = self._pair_template.question, self._pair_template.max_tokens
        bodies = [
            chat_body(self.config, question(text), images, length)
            for one, other, text in pairs
            for images in ([one, other], [other, one])
        ]
        found = [self._pair_template.read(read_answer(answer)) for answer in self.client.post_all(PATH, bodies)]
        preferences = [(one + 1 - other) / 2 for one, other in zip(found[::2], found[1::2], strict=True)]
        return torch.tensor(preferences, dtype=torch.float32)

    def ask_grey(self, text: str) -> None:
        """See `ServedReward.ask_grey`; a comparison of two grey images too."""
        super().ask_grey(text)
        grey = grey_image(self.image_size)
        self.compare(grey, grey, [TextQuery.plain(text)])
