"""Stand-in judge whose answers are functions of the brightness of the images that it receives."""

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.rewards.http_server import Reply, chat_answer

LUMA = np.array([0.2126, 0.7152, 0.0722])


def brightness_of(body: Any) -> list[float]:
    """Mean luma (ITU-R BT.709) of each image of a request, in [0, 1]."""
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    files = [io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))) for url in urls]
    return [float(np.asarray(Image.open(file)).mean(axis=(0, 1)) @ LUMA) / 255 for file in files]


def preference(first: float, second: float, bias: float = 0.0, slope: float = 10.0) -> float:
    """Probability of the answer `1`; a bias above 0 prefers the first place."""
    return 1 / (1 + math.exp(-slope * (first - second) - bias))


def bright_answer(body: Any, bias: float = 0.0) -> Reply:
    """Answer about one image with p(yes) = its brightness, and about two with a preference for the brighter one."""
    found = [min(max(value, 1e-3), 1 - 1e-3) for value in brightness_of(body)]
    if len(found) == 1:
        return Reply(chat_answer({"yes": found[0], "no": 1 - found[0]}))
    chance = preference(found[0], found[1], bias)
    return Reply(chat_answer({"1": chance, "2": 1 - chance}))
