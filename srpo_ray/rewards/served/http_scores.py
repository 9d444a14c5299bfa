"""Scores of an HTTP server of the user, which gets images and prompts as JSON."""

import math
from collections.abc import Sequence
from typing import Any

from srpo_ray.config.served_rewards import HttpRewardConfig
from srpo_ray.rewards.served.base import Rated, ServedReward
from srpo_ray.rewards.served.client import ServerClient, ServerError


class HttpReward(ServedReward):
    """Scores of `POST url` with `{"images": [PNG in base64, ...], "prompts": [TEXT, ...]}`.

    The answer is `{"scores": [NUMBER, ...]}`, one finite number per image, in order.
    """

    def __init__(self, config: HttpRewardConfig, client: ServerClient) -> None:
        super().__init__(config, client)
        self._batch_size = config.batch_size

    def rate(self, pairs: Sequence[Rated]) -> list[float]:
        """See `ServedReward.rate`."""
        parts = [pairs[start : start + self._batch_size] for start in range(0, len(pairs), self._batch_size)]
        bodies = [{"images": [pair.png for pair in part], "prompts": [pair.text for pair in part]} for part in parts]
        answers = self.client.post_all("", bodies)
        return [score for answer, part in zip(answers, parts, strict=True) for score in _scores(answer, len(part))]


def _scores(answer: Any, count: int) -> list[float]:
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list) or len(scores) != count or not all(map(_is_number, scores)):
        raise ServerError(
            f'expected {{"scores": [...]}} with {count} finite numbers from the server, received {str(answer)[:200]}'
        )
    return [float(score) for score in scores]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
