"""Scores of an HTTP server, against a stand-in server with real sockets."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from srpo_ray.config.served_rewards import HttpRewardConfig
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from tests.helpers.rewards.http_server import Reply, http_server


def red_share(body: Any) -> Reply:
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(file)))) for file in body["images"]]
    return Reply({"scores": [float(image[..., 0].mean()) / 255 + len(text) for image, text in _pairs(images, body)]})


def _pairs(images: list[np.ndarray], body: Any) -> list[tuple[np.ndarray, str]]:
    return list(zip(images, body["prompts"], strict=True))


def config(url: str) -> HttpRewardConfig:
    return HttpRewardConfig(name="mine", url=url, image_size=16, batch_size=2, max_attempts=1)


def test_scores_of_the_server_are_those_of_the_images_and_prompts() -> None:
    images = torch.randint(0, 256, (5, 3, 16, 16)) / 255
    queries = [TextQuery.plain("a" * index) for index in range(1, 5)] + [TextQuery(((2.0, "ab"), (-1.0, "c")))]
    with http_server(red_share) as server:
        scores = LocalRewards.load([config(server.url)]).measure(images, queries)["mine"]

    red = images[:, 0].mean((1, 2))
    expected = torch.cat([red[:4] + torch.arange(1.0, 5.0), 2 * (red[4:] + 2) - (red[4:] + 1)])
    assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert sorted(len(body["images"]) for body in server.bodies) == [1, 2, 2, 2]


@pytest.mark.parametrize(
    "answer", [{}, [], {"scores": []}, {"scores": ["1"]}, {"scores": [True]}, {"scores": [1, 2]}, {"scores": "1"}]
)
def test_answer_without_one_finite_number_per_image_is_an_error(answer: Any) -> None:
    def reply(body: Any) -> Reply:
        return Reply({"scores": [1.0]} if len(server.bodies) == 1 else answer)

    with http_server(reply) as server:
        rewards = LocalRewards.load([config(server.url)])
        with pytest.raises(RewardError, match=r"'mine'.*with 1 finite numbers"):
            rewards.measure(torch.rand(1, 3, 16, 16), [TextQuery.plain("a")])


def test_nan_of_the_server_is_an_error() -> None:
    with http_server(lambda _: Reply(b'{"scores": [NaN]}')) as server:
        with pytest.raises(ValueError, match=r"'mine'.*1 finite numbers"):
            LocalRewards.load([config(server.url)])
