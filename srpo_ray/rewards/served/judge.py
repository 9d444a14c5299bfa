"""Rating of images by a vision-language model behind an OpenAI-compatible server, from its token probabilities."""

from collections.abc import Sequence

from srpo_ray.config.served_rewards import JudgeRewardConfig
from srpo_ray.rewards.served.base import Rated, ServedReward
from srpo_ray.rewards.served.chat import PATH, chat_body, read_answer
from srpo_ray.rewards.served.client import ServerClient
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

    def rate(self, pairs: Sequence[Rated]) -> list[float]:
        """See `ServedReward.rate`."""
        question, length = self._template.question, self._template.max_tokens
        bodies = [chat_body(self.config, question(pair.text), [pair.data_url], length) for pair in pairs]
        return [self._template.read(read_answer(answer)) for answer in self.client.post_all(PATH, bodies)]
