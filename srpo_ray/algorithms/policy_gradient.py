"""Policy gradients for a flow that samples with stochastic steps: a plan, a transition, an advantage, a surrogate.

Every prompt is sampled several times. If an image scores better than its group, the update raises the probability of
the random steps that made it. The reward needs no gradient, so it can be any black box. DanceGRPO (arXiv 2505.07818),
Flow-GRPO (arXiv 2505.05470), MixGRPO (arXiv 2507.21802) and others are settings of this class.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from srpo_ray.algorithms.advantages import prompts_of_update, rows_of, table_of_update
from srpo_ray.algorithms.base import Algorithm, Batch, Gather, Loss, Phase
from srpo_ray.algorithms.comparisons import submit_ranked
from srpo_ray.algorithms.group_sampler import GroupSampler, random_step, repeated
from srpo_ray.algorithms.moves import KnownScores, Move, Moves, TrainedStep, mixed_step, whole_step
from srpo_ray.algorithms.normalization import advantages_of, means_of_blocks
from srpo_ray.algorithms.ranking import discount_weights, ranking_losses
from srpo_ray.algorithms.reward_history import add_rewards, earlier_rewards
from srpo_ray.algorithms.step_pairs import pair_signs
from srpo_ray.algorithms.surrogates import bounded, log_ratio_to_reference, surrogate_loss
from srpo_ray.config.algorithms.policy_gradient import Parts, PolicyGradientSection
from srpo_ray.flow import DrawScope, log_density
from srpo_ray.rewards.base import PendingScore, Scores
from srpo_ray.rewards.query import TextQuery


class RewardTables(NamedTuple):
    """Rewards of an update, `[P, G]` for G images of each of P prompts."""

    total: Tensor
    """Weighted sums of the models' scores."""
    each: dict[str, Tensor]
    """Scores of each model, if they are normalised each or compared as pairs."""
    weights: dict[str, float]
    """Factor of each model in the sum."""
    wins: dict[str, Tensor]
    """Win rates by each model that compares pairs of images; empty if none does or no win rates are used."""


class PolicyGradient(Algorithm[PolicyGradientSection]):
    """Policy gradient of a flow."""

    @cached_property
    def parts(self) -> Parts:
        """Parts of the method, from the config."""
        return self.config.parts

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Sampling with the policy, then means of the trained steps under the initial model, if a loss needs them."""
        reference = (Phase("reference", self._ask_reference),) if self.parts.surrogate.needs_reference else ()
        return (*super().phases, *reference)

    @torch.no_grad()
    def collect(self, batch: Batch) -> Moves:
        """Sample the images of each prompt, and submit them to the rewards."""
        plan = self.parts.plan
        shared = self.parts.noise == "per_sample"
        walks = plan.walks(
            self.rollout.num_steps, self.config.group_size, shared, batch.draws.update, _permutation(batch)
        )
        noise = self.noise(batch, scope="per_sample" if shared else "per_image")
        moves, results = self._sampler(batch).run(noise, walks)
        queries = self.queries(batch)
        scores = tuple(tuple(self._submit(batch, tokens, queries) for tokens in tails) for tails in results)
        return Moves(len(batch.prompts), tuple(moves), scores)

    def _submit(self, batch: Batch, tokens: Tensor, queries: Sequence[TextQuery]) -> PendingScore:
        """Submit images to the rewards, and if win rates are used their pairs to those that compare pairs."""
        compare = self.parts.advantage.rank == "win_rate"
        images = self.policy.decode_for_training(tokens)
        return submit_ranked(self.rewards, images, queries, batch.draws.samples, compare=compare)

    def _sampler(self, batch: Batch) -> GroupSampler:
        parts, scale = self.parts, self.rollout.guidance_scale
        keeps_means = parts.surrogate.needs_old_mean
        return GroupSampler(
            self.policy, self.sigmas, scale, parts.transition, batch, self.config.images, keeps_means=keeps_means
        )

    def _ask_reference(self, batch: Batch, moves: Moves) -> Moves:
        """Compute the means of the trained steps, under the weights of the phase."""
        means = tuple(self._distribution(batch, step)[0] for step in self._trained(batch, moves))
        return replace(moves, reference=means)

    def _distribution(self, batch: Batch, step: TrainedStep) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation of a step under the present weights."""
        here, there = self.sigmas[step.steps], self.sigmas[step.steps + 1]
        rows = batch.conditioning[:: len(batch.prompts) // len(step.before)]
        velocity = self.policy.velocity(step.before, here, rows, self.rollout.guidance_scale)
        return random_step(self.parts.transition, step.before, velocity, here, there)

    def settle(self, rounds: Sequence[tuple[Batch, Moves]], gather: Gather) -> list[Moves]:
        """Compute the advantages of all steps, over all micro-batches and workers."""
        batches, found = [batch for batch, _ in rounds], [moves for _, moves in rounds]
        advantages, statistics = self._compare_images(batches, found, gather)
        settled = [
            replace(
                moves,
                scores=tuple(tuple(KnownScores(pending.result()) for pending in tails) for tails in moves.scores),
                advantages=tuple(
                    _rows_of_states(advantages[move.scores, move.sharing], batch, move) for move in moves.moves
                ),
                metrics=tuple(
                    _metrics_of_images(batch, tails, statistics[entry]) for entry, tails in enumerate(moves.scores)
                ),
            )
            for batch, moves in rounds
        ]
        kind = self.parts.surrogate.type
        if kind == "pair":
            return [
                replace(moves, weights=self._step_weights(batch, moves))
                for batch, moves in zip(batches, settled, strict=True)
            ]
        if kind == "ranking":
            return self._rank_trajectories(batches, settled, advantages[0, 1], gather)
        return settled

    def _compare_images(
        self, batches: Sequence[Batch], found: Sequence[Moves], gather: Gather
    ) -> tuple[dict[tuple[int, int], Tensor], list[dict[str, Tensor]]]:
        """Compare the images of each prompt by their rewards, and keep the rewards for the prompts' history.

        Returns:
            Entry of the scores and number of images that share a state -> advantages `[P, states]`, with surrogate
            `pair` the signs of the chosen pair; and the statistics of the groups, `[P, G]`, of each entry.
        """
        history = self.parts.advantage.history
        prompts = prompts_of_update(batches, gather) if history else []
        entries = [
            [
                self._tables(batches, [moves.scores[entry][tail].result() for moves in found], gather)
                for tail in range(len(tails))
            ]
            for entry, tails in enumerate(found[0].scores)
        ]
        sizes = {(move.scores, move.sharing) for move in found[0].moves} | {(entry, 1) for entry in range(len(entries))}
        advantages = {
            (entry, sharing): self._advantages(entries[entry], sharing, prompts) for entry, sharing in sorted(sizes)
        }
        statistics = [_statistics(tables, advantages[entry, 1]) for entry, tables in enumerate(entries)]
        if history:
            add_rewards(self.state, prompts, entries[0][0].total, history)
        if self.parts.surrogate.type == "pair":
            for entry, tables in enumerate(entries):
                # Images share no state after the random steps of the plans that pairs accept.
                advantages[entry, 1] = signs = self._pairs(tables, advantages[entry, 1])
                refused = (signs == 0).all(dim=1, keepdim=True).double()
                statistics[entry]["pair/refused"] = refused.expand_as(signs)
        return advantages, statistics

    def _pairs(self, tables: Sequence[RewardTables], advantages: Tensor) -> Tensor:
        """Choose a pair of each prompt's images by their rewards, on average over the tails, `[P, G]`."""
        names = sorted(tables[0].each)
        rewards = [torch.stack([one.wins.get(name, one.each[name]) for name in names], dim=2) for one in tables]
        surrogate, weights = self.parts.surrogate, [tables[0].weights[name] for name in names]
        return pair_signs(advantages, torch.stack(rewards).mean(dim=0), weights, surrogate.select, surrogate.min_gap)

    def _step_weights(self, batch: Batch, moves: Moves) -> tuple[Tensor, ...]:
        """Compute the weight of each trained step, `[V]`, from the discount."""
        steps = [repeated(step.steps, len(step.after) // len(step.before)) for step in self._trained(batch, moves)]
        return tuple(discount_weights(torch.stack(steps), self.parts.surrogate.discount))

    def _rank_trajectories(
        self, batches: Sequence[Batch], found: Sequence[Moves], values: Tensor, gather: Gather
    ) -> list[Moves]:
        """Replace the advantages, by which images are ranked, by the derivatives of the ranking's likelihood.

        The policy has not moved since it sampled the trajectories, so the recorded log-densities are those of the
        policy, and the likelihood is known before any loss. Its gradient is the sum of those of single steps.
        """
        surrogate, columns, weighted = self.parts.surrogate, [], []
        for batch, moves in zip(batches, found, strict=True):
            weights = self._step_weights(batch, moves)
            # The grid may depend on the size of the images.
            with nullcontext() if batch.size is None else self.policy.at_size(batch.size):
                ratios = [self._recorded_ratio(step).double().cpu() for step in self._trained(batch, moves)]
            columns.append(surrogate.beta * (torch.stack(weights) * torch.stack(ratios)).mean(dim=0))
            weighted.append(replace(moves, weights=weights))
        losses, slopes = ranking_losses(table_of_update(batches, columns, gather), values)
        table = (losses / values.shape[1])[:, None].expand_as(values)
        return [
            replace(
                moves,
                advantages=(rows_of(slopes, batch),) * len(moves.moves),
                metrics=tuple(each | {"loss/ranking": rows_of(table, batch)} for each in moves.metrics),
            )
            for batch, moves in zip(batches, weighted, strict=True)
        ]

    def _recorded_ratio(self, step: TrainedStep) -> Tensor:
        """Bounded logarithm of the ratio of a step's probabilities under the sampling policy and the initial model."""
        here, there = self.sigmas[step.steps], self.sigmas[step.steps + 1]
        # The standard deviation of a step does not depend on the velocity.
        _, std = random_step(self.parts.transition, step.before, torch.zeros_like(step.before), here, there)
        return bounded(
            log_ratio_to_reference(self.parts.surrogate, step, std, step.log_density), self.parts.surrogate.clip_range
        )

    def _tables(self, batches: Sequence[Batch], scores: Sequence[Scores], gather: Gather) -> RewardTables:
        """Gather the rewards of the update."""
        total = table_of_update(batches, [each.total for each in scores], gather)
        separate = self.parts.advantage.rewards == "each" or self.parts.surrogate.type == "pair"
        names = sorted(scores[0].weights) if separate else []
        each = {name: table_of_update(batches, [one.raw[name] for one in scores], gather) for name in names}
        wins = {name: table_of_update(batches, [one.wins[name] for one in scores], gather) for name in scores[0].wins}
        return RewardTables(total, each, scores[0].weights, wins)

    def _advantages(self, tables: Sequence[RewardTables], sharing: int, prompts: Sequence[str]) -> Tensor:
        """Compute the advantages of states that `sharing` images have in common, on average over the tails."""
        earlier = earlier_rewards(self.state, list(prompts)) if prompts else None
        parts = [
            advantages_of(
                means_of_blocks(one.total, sharing),
                {name: means_of_blocks(values, sharing) for name, values in one.each.items()},
                one.weights,
                self.parts.advantage,
                earlier,
                {name: means_of_blocks(values, sharing) for name, values in one.wins.items()},
            )
            for one in tables
        ]
        return parts[0] if len(parts) == 1 else torch.stack(parts).mean(dim=0)

    def losses(self, batch: Batch, collected: Moves, part: int = 0) -> Iterator[Loss]:
        """Yield one loss per trained step. The optimizer steps of an update share the trained steps in their order."""
        count = self.calls.losses
        for step in islice(self._trained(batch, collected), part * count, (part + 1) * count):
            mean, std = self._distribution(batch, step)
            children = len(step.after) // len(step.before)
            density = log_density(step.after, repeated(mean, children), repeated(std, children))
            length = self.sigmas[step.steps] - self.sigmas[step.steps + 1]
            if self.parts.surrogate.ratio == "exact":
                step = replace(step, log_density=density.detach(), mean=mean.detach())
            share, images = 1 / count, self.config.images
            yield partial(surrogate_loss, self.parts.surrogate, step, mean, std, length, density, share, images)

    def _trained(self, batch: Batch, collected: Moves) -> Iterator[TrainedStep]:
        """Yield the trained steps of an update; in a plan that mixes steps, each image has its own order of them.

        Images that are compared as pairs are at the same step, so those of a prompt have one order.
        """
        if not self.parts.plan.mixes_steps:
            for index, move in enumerate(collected.moves):
                yield whole_step(collected, index, move)
            return
        scope: DrawScope = "per_sample" if self.parts.surrogate.type == "pair" else "per_image"
        sources = batch.draws.generators("grpo_steps", scope=scope)
        count = self.parts.plan.trained(self.rollout.num_steps)
        orders = torch.stack(
            [torch.randperm(len(collected.moves), generator=source)[:count] for source in sources], dim=1
        )
        for index, indices in enumerate(orders):
            yield mixed_step(collected, index, indices)


def _permutation(batch: Batch) -> Callable[[int], list[int]]:
    """Return a function that draws a permutation of so many indices for the update."""
    return lambda count: torch.randperm(count, generator=batch.draws.of_update("plan")).tolist()


def _rows_of_states(table: Tensor, batch: Batch, move: Move) -> Tensor:
    """Select the values of the states after a step, `[V]`, from a table of the update with a column per state."""
    images = batch.draws.images
    owners = images[:: len(images) // len(move.after)]
    return table[[sample for sample, _ in owners], [child // move.sharing for _, child in owners]]


def _statistics(tables: Sequence[RewardTables], advantages: Tensor) -> dict[str, Tensor]:
    """Compute statistics of the groups, `[P, G]` each."""
    spreads = torch.stack([one.total.std(dim=1, keepdim=True) for one in tables])
    equal = (spreads == 0).all(dim=0)
    if tables[0].wins:
        # Scores may differ where comparisons do not.
        equal = advantages.amax(dim=1, keepdim=True) == advantages.amin(dim=1, keepdim=True)
    return {
        "reward/group_std": spreads.mean(dim=0).expand_as(advantages),
        "advantage/std": advantages.std(dim=1, keepdim=True).expand_as(advantages),
        "advantage/zero_groups": equal.double().expand_as(advantages),
    }


def _metrics_of_images(
    batch: Batch, tails: Sequence[PendingScore], statistics: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Collect the rewards of a micro-batch's images, of all tails, and the statistics of their groups."""
    scores = [pending.result() for pending in tails]
    rewards = {f"reward/{name}/sample": torch.cat([each.raw[name] for each in scores]) for name in scores[0].raw}
    rewards["reward/total/sample"] = torch.cat([each.total for each in scores])
    return rewards | {name: rows_of(table, batch) for name, table in statistics.items()}
