"""Process of one reward in its environment: loads the reward, answers calls, ends with the process that started it.

It imports torch, numpy and the files of this package that need nothing else, because an environment may have no more.
"""

import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from socket import socket
from typing import Any

import torch
from torch import Tensor

from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.call import RewardCall
from srpo_ray.rewards.environment.protocol import VERSION, Array, ConnectionEndedError, Values, receive, send
from srpo_ray.rewards.python_reward import import_class, load_python_reward
from srpo_ray.rewards.query import TextQuery


def serve(connection: int, lifeline: int) -> None:
    """Answer calls until the connection is closed.

    Args:
        connection: Descriptor of the socket to the other process.
        lifeline: Descriptor of a pipe that is closed when the other process ends.
    """
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    channel = socket(fileno=connection)
    send(channel, {"protocol": VERSION, "python": platform.python_version()})
    calls = Calls()
    try:
        while True:
            values, arrays = receive(channel)
            send(channel, *calls.answer(values, arrays))
    except ConnectionEndedError:
        return


def _end_with(lifeline: int) -> None:
    # A call may take minutes; the memory of the device is needed sooner by the replica that replaces this one.
    os.read(lifeline, 1)
    # This process leads its session, so the group has its own children too.
    os.killpg(os.getpgrp(), signal.SIGKILL)


class Calls:
    """Calls of the other process: `inspect`, `load`, then `score` and `compare`."""

    def __init__(self) -> None:
        self._reward: Any = None

    def answer(self, values: Values, arrays: Sequence[Array]) -> tuple[Values, list[Array]]:
        """Answer one call; an error of the reward is an answer too."""
        methods = {"inspect": self._inspect, "load": self._load, "score": self._score, "compare": self._compare}
        try:
            return methods[values["call"]](values, arrays)
        except (ValueError, RewardError) as error:
            # The standard error of this process is that of the replica.
            traceback.print_exc(file=sys.stderr)
            reason = error.reason if isinstance(error, RewardError) else str(error)
            return {"error": reason, "mistake": not isinstance(error, RewardError)}, []

    def _inspect(self, values: Values, _arrays: Sequence[Array]) -> tuple[Values, list[Array]]:
        found = import_class("key `target`", values["target"])
        gradient = getattr(found, "image_gradient", True) is not False
        return {"image_gradient": gradient, "compares": hasattr(found, "compare")}, []

    def _load(self, values: Values, _arrays: Sequence[Array]) -> tuple[Values, list[Array]]:
        torch.set_num_threads(values["num_threads"])
        reward: Any = load_python_reward(values["name"], values["target"], values["arguments"])
        self._reward = reward
        described = {
            "image_size": int(reward.image_size),
            "image_gradient": bool(reward.image_gradient),
            "fit": getattr(reward, "fit", "crop"),
            "antialias": getattr(reward, "antialias", True),
            "compares": callable(getattr(reward, "compare", None)),
        }
        return described, []

    def _score(self, values: Values, arrays: Sequence[Array]) -> tuple[Values, list[Array]]:
        queries = queries_from(values["queries"])
        images = torch.from_numpy(arrays[0])
        # The other process checks shapes and numbers, as it does for rewards of its own.
        with self._call(queries), torch.set_grad_enabled(values["gradient"]):
            images.requires_grad_(values["gradient"])
            scores = self._reward.score(images, queries)
            if not values["gradient"]:
                return {}, [_to_array(scores, images)]
            # Each score depends on one image only, so the gradient of the sum contains each image's own gradient.
            (gradient,) = torch.autograd.grad(scores.sum(), images)
            return {}, [_to_array(scores, images), _to_array(gradient, images)]

    def _compare(self, values: Values, arrays: Sequence[Array]) -> tuple[Values, list[Array]]:
        queries = queries_from(values["queries"])
        first, second = (torch.from_numpy(array) for array in arrays)
        with self._call(queries), torch.no_grad():
            return {}, [_to_array(self._reward.compare(first, second, queries), first)]

    def _call(self, queries: Sequence[TextQuery]) -> RewardCall:
        return RewardCall(self._reward.name, queries, "its environment")


def queries_from(values: Sequence[Sequence[tuple[float, str]]]) -> list[TextQuery]:
    """Build text queries from their terms."""
    return [TextQuery(tuple((weight, text) for weight, text in terms)) for terms in values]


def _to_array(values: Tensor, like: Tensor) -> Array:
    return values.detach().to("cpu", like.dtype).numpy()
