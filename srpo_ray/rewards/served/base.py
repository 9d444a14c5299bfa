"""Parts of all served rewards: images as lossless PNG, one rating per image and text, weighted sums of them."""

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from srpo_ray.config.reward_section import Fit
from srpo_ray.config.served_rewards import ServedRewardSection
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.served.client import ServerClient, ServerError


@dataclass(frozen=True)
class Rated:
    """Image and text that the server rates."""

    png: str
    """PNG file, base64."""
    text: str

    @property
    def data_url(self) -> str:
        """The image as a data URL."""
        return f"data:image/png;base64,{self.png}"


class ServedReward(ABC):
    """`score = sum_i w_i * rating(image, text_i)` with ratings of a server; not differentiable.

    All ratings of a call are requested at once. A failed request raises an error and is never replaced by a number.

    Args:
        config: Address and options.
        client: Sends the requests.
    """

    image_gradient = False

    def __init__(self, config: ServedRewardSection, client: ServerClient) -> None:
        self.name = config.name
        self.image_size = config.image_size
        self.fit: Fit = config.fit
        self.client = client

    @classmethod
    def load(cls, config: Any, _device: str = "cpu") -> Self:
        """Connect to the server and check that it rates an image.

        Args:
            config: Section of the reward.

        Raises:
            ValueError: If it does not, or its answer lacks what the rating needs.
        """
        reward = cls(config, ServerClient(config))
        reward.check()
        return reward

    @abstractmethod
    def rate(self, pairs: Sequence[Rated]) -> list[float]:
        """Rate each image against its text.

        Raises:
            ServerError: If the server fails or answers something else.
        """

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """See `Reward.score`."""
        files = encode_png(images)
        pairs = [Rated(file, text) for file, query in zip(files, queries, strict=True) for text in query.texts]
        ratings = iter(self.rate(pairs))
        sums = [sum(weight * next(ratings) for weight, _ in query.terms) for query in queries]
        return torch.tensor(sums, dtype=torch.float32)

    def check(self, text: str = 'a grey square with the text "A"') -> None:
        """Rate a grey image, so that a server that cannot answer stops the run before it starts.

        Args:
            text: Text that the reward can rate an image against.

        Raises:
            ValueError: If the server fails or answers something else.
        """
        try:
            self.ask_grey(text)
        except ServerError as error:
            raise ValueError(f"reward {self.name!r}: {error}") from None

    def ask_grey(self, text: str) -> None:
        """Ask the server about a grey image.

        Raises:
            ServerError: If the server fails or answers something else.
        """
        self.rate([Rated(encode_png(grey_image(self.image_size))[0], text)])


def grey_image(size: int) -> Tensor:
    """Return a grey image, `[1, 3, size, size]`."""
    return torch.full((1, 3, size, size), 0.5)


def encode_png(images: Tensor) -> list[str]:
    """Encode images `[B, 3, H, W]` as PNG files in base64, rounded to 8 bits; values outside [0, 1] are clamped."""
    steps = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    files: list[str] = []
    for array in steps:
        file = io.BytesIO()
        # Half the time of the default level, and a tenth more bytes.
        Image.fromarray(array).save(file, format="PNG", compress_level=1)
        files.append(base64.b64encode(file.getvalue()).decode("ascii"))
    return files
