"""Calls to the pool in flight: collect their answers, and connect the scores to the trainer's autograd graph."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from srpo_ray.rewards.autograd import connect_scores
from srpo_ray.rewards.base import Scores
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.pool.messages import Reply
from srpo_ray.rewards.pool.request import RemoteCall
from srpo_ray.rewards.pool.wire import from_wire
from srpo_ray.rewards.statistics import ScoringStatistics


class PendingRemoteScore:
    """Calls in flight, and the pixels that connect their answers to the autograd graph."""

    def __init__(
        self,
        calls: Sequence[Sequence[RemoteCall]],
        pixels: Mapping[InputSpec, Tensor],
        weights: Mapping[str, float],
        statistics: ScoringStatistics,
    ) -> None:
        self._calls = calls
        self._pixels = pixels
        self._weights = weights
        self._statistics = statistics
        self._scores: Scores | None = None

    def result(self) -> Scores:
        """See `PendingScore.result`."""
        if self._scores is None:
            replies = _collect(self._calls, self._statistics)
            device = next(iter(self._pixels.values())).device
            gradients = _join_gradients(replies, device)
            values = _join_values(replies, list(self._weights), device)
            self._scores = connect_scores(values, self._weights, gradients, self._pixels)
        return self._scores


class PendingRemoteValues:
    """Calls in flight that score images without gradient, or compare pairs of images."""

    def __init__(
        self,
        calls: Sequence[Sequence[RemoteCall]],
        names: Sequence[str],
        device: torch.device,
        statistics: ScoringStatistics,
    ) -> None:
        self._calls = calls
        self._names = names
        self._device = device
        self._statistics = statistics
        self._values: dict[str, Tensor] | None = None

    def result(self) -> dict[str, Tensor]:
        """See `PendingValues.result`."""
        if self._values is None:
            self._values = _join_values(_collect(self._calls, self._statistics), self._names, self._device)
        return self._values


def _collect(calls: Sequence[Sequence[RemoteCall]], statistics: ScoringStatistics) -> list[list[Reply]]:
    started = time.perf_counter()
    replies = [[call.collect() for call in part] for part in calls]
    statistics.wait_s += time.perf_counter() - started
    return replies


def _join_values(replies: Sequence[Sequence[Reply]], names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    parts = [{name: value for reply in part for name, value in reply.values.items()} for part in replies]
    return {name: _join([from_wire(part[name]) for part in parts]).to(device) for name in names}


def _join_gradients(replies: Sequence[Sequence[Reply]], device: torch.device) -> dict[InputSpec, Tensor]:
    """Gradient of the weighted sum per input spec, summed over the replicas of a micro-batch."""
    input_specs = sorted({input_spec for reply in replies[0] for input_spec in reply.gradients})
    return {input_spec: _join([_add(part, input_spec) for part in replies]).to(device) for input_spec in input_specs}


def _add(part: Sequence[Reply], input_spec: InputSpec) -> Tensor:
    first, *others = [from_wire(reply.gradients[input_spec]) for reply in part if input_spec in reply.gradients]
    for other in others:
        first += other
    return first


def _join(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]
