"""Sources of judged images: rows of `data.pairs`, sampled images that rewards rank, real against sampled images."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch
from srpo_ray.algorithms.normalization import win_rates
from srpo_ray.algorithms.pair_choice import choose_pairs, confidence_of_gap
from srpo_ray.algorithms.preference_sampling import SampledImages, States
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import Scores

NO_METRICS: Mapping[str, Tensor] = MappingProxyType({})


class Judged(NamedTuple):
    """Judged images of a micro-batch."""

    clean: tuple[Tensor, ...]
    """Clean tokens `[B, N, C]` of each side: preferred and other images, or labelled ones."""
    conditionings: tuple[Conditioning, ...]
    """Text features of each side."""
    signs: tuple[Tensor, ...]
    """1 for preferred and liked images, -1 for others, `[B]` of each side."""
    confidence: Tensor
    """Confidence of each row in its judgement, `[B]` in (0, 1]."""
    valid: Tensor | None = None
    """False where no two images of a prompt make a pair, `[B]`; None if all rows are valid."""
    children: tuple[tuple[int, ...], ...] = ()
    """Index of the sampled image, among those of its prompt, whose initial noise belongs to each row of each side;
    empty if no image is sampled."""
    states: tuple[States | None, ...] = ()
    """States of the rollout of each side; None for real images. Empty if points are clean images mixed with noise."""
    metrics: Mapping[str, Tensor] = NO_METRICS
    """Metrics of the source."""

    def swapped(self, count: int, *, reverse: bool) -> "Judged":
        """Return the first sides, after exchanging both sides if `reverse`."""

        order = slice(None, None, -1) if reverse else slice(None)
        return self._replace(
            clean=self.clean[order][:count],
            conditionings=self.conditionings[order][:count],
            signs=self.signs[:count],
            children=self.children[order][:count],
            states=self.states[order][:count],
        )


def rows_of_prompts(batch: Batch, group: int) -> Batch:
    """Return a micro-batch with one row for the images of each prompt, which are consecutive rows."""
    if group == 1:
        return batch
    return Batch(
        prompts=batch.prompts[::group],
        conditioning=batch.conditioning[::group],
        draws=replace(batch.draws, samples=batch.draws.samples[::group], children=()),
        size=batch.size,
    )


def judged_images(config: PreferenceConfig, batch: Batch, sampled: SampledImages | None = None) -> Judged:
    """Order the judged images of a micro-batch by side, preferred ones first.

    Args:
        config: Section `algorithm`.
        batch: Micro-batch with one row for each prompt.
        sampled: Images that the update has sampled; None for those of `data.pairs`.
    """
    reverse = config.orientation == "reversed"
    if config.source == "labels":
        return _labelled(batch, reverse=reverse)
    if sampled is None:
        found = _pairs_of_file(config, batch)
    elif config.source == "online":
        found = _chosen(config, batch, sampled)
    else:
        found = _against_real(batch, sampled)
    return found.swapped(config.sides, reverse=reverse)


def _labelled(batch: Batch, *, reverse: bool) -> Judged:
    images, labels = _given(batch)
    label = labels[:, 0]
    sign = -label.sign() if reverse else label.sign()
    return Judged((images[:, 0],), (batch.conditioning,), (sign,), label.abs())


def _pairs_of_file(config: PreferenceConfig, batch: Batch) -> Judged:
    images, labels = _given(batch)
    other = batch.conditioning
    if config.uses_own_captions:
        assert batch.other_conditioning is not None, "the data requires other captions"
        other = batch.other_conditioning
    confidence = labels[:, 0] if config.source == "captions" else labels[:, 0] - labels[:, 1]
    # Both captions of source `captions` are those of one image, the first and last of its row.
    return Judged((images[:, 0], images[:, -1]), (batch.conditioning, other), _signs(confidence), confidence)


def _given(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.images is not None, "the config requires data.pairs"
    assert batch.labels is not None, "judged images have labels"
    return batch.images, batch.labels.to(batch.images)


def _signs(like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(like), -torch.ones_like(like)


def _against_real(batch: Batch, sampled: SampledImages) -> Judged:
    """Prefer the real image of each row to the sampled one."""
    assert batch.images is not None, "the config requires data.images"
    real, first = batch.images[:, 0], (0,) * len(batch.prompts)
    confidence = torch.ones(len(real), device=real.device)
    return Judged(
        (real, sampled.clean.to(real)),
        (batch.conditioning,) * 2,
        _signs(confidence),
        confidence,
        children=(first, first),
        states=() if sampled.states is None else (None, sampled.states),
    )


def _chosen(config: PreferenceConfig, batch: Batch, sampled: SampledImages) -> Judged:
    """Choose two images of each prompt by their rewards; waits for the rewards."""
    scores, device = sampled.scores, sampled.clean.device
    rewards, weights = reward_table(config, scores, sampled.group)
    choice = choose_pairs(rewards, weights, config.select, config.min_gap)
    starts = sampled.group * torch.arange(len(rewards))
    rows = [(starts + index).to(device) for index in (choice.preferred, choice.other)]
    totals = (rewards * weights).sum(dim=2)
    gap = (totals.gather(1, choice.preferred[:, None]) - totals.gather(1, choice.other[:, None]))[:, 0]
    confidence = confidence_of_gap(gap, config.temperature).to(device, torch.float32)
    metrics = {f"reward/{name}/sample": values for name, values in scores.raw.items()}
    return Judged(
        tuple(sampled.clean[each] for each in rows),
        (batch.conditioning,) * 2,
        _signs(confidence),
        confidence,
        choice.valid.to(device),
        (tuple(choice.preferred.tolist()), tuple(choice.other.tolist())),
        () if sampled.states is None else tuple(sampled.states.of(each) for each in rows),
        metrics
        | {
            "reward/total/sample": scores.total.detach(),
            "preference/without_pair": (~choice.valid).double(),
            "preference/gap": gap[choice.valid],
        },
    )


def reward_table(config: PreferenceConfig, scores: Scores, group: int) -> tuple[Tensor, Tensor]:
    """Arrange the scores of R rewards by prompt, or their win rates within a prompt.

    Args:
        config: Section `algorithm`.
        scores: Scores of P * G images.
        group: Images per prompt G.

    Returns:
        Table `[P, G, R]` float64 on the CPU, and the weights of the rewards `[R]`.
    """
    names = sorted(scores.weights)
    columns = [scores.raw[name].double().cpu().reshape(-1, group) for name in names]
    if config.rank == "win_rate":
        known = {name: wins.double().cpu().reshape(-1, group) for name, wins in scores.wins.items()}
        columns = [
            known[name] if name in known else win_rates(column, 0.0)
            for name, column in zip(names, columns, strict=True)
        ]
    return torch.stack(columns, dim=2), torch.tensor([scores.weights[name] for name in names], dtype=torch.float64)
