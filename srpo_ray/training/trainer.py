"""One worker's share of a run: updates, evaluations, checkpoints. No Ray."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from srpo_ray.algorithms import Algorithm, Batch, Loss
from srpo_ray.algorithms.batching import in_groups, join_batches, split_collected
from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.continuation import run_identity
from srpo_ray.data.mixture import Prompts, stack_rows
from srpo_ray.evaluation.evaluator import Evaluation, Evaluator, combine
from srpo_ray.evaluation.gallery import before_after, save_png
from srpo_ray.evaluation.image_statistics import drift
from srpo_ray.flow import Draws
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.trainable import start_weights
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.runs.checkpoint import Checkpoint, save_checkpoint
from srpo_ray.runs.checkpoint_files import OLD, ROLLOUTS, STATE
from srpo_ray.runs.collectives import from_worker_0, gather
from srpo_ray.runs.folder import RunFolder, append_row, load_images, read_rows, save_images, write_rows
from srpo_ray.runs.storage import Storage
from srpo_ray.training.baseline_evaluation import baseline_evaluation
from srpo_ray.training.contrast import evaluated_weights
from srpo_ray.training.engine import Engine
from srpo_ray.training.meters import MeanMeter, StageTimer, peak_memory, require_finite
from srpo_ray.training.rollouts import KeptRollouts, resume_rollouts


@dataclass
class Trainer:
    """Model, data, rewards and algorithm of a run on one worker."""

    config: RunConfig
    folder: RunFolder
    engine: Engine
    policy: FlowPolicy
    rewards: RewardScorer
    algorithm: Algorithm[Any]
    evaluator: Evaluator
    prompts: Prompts
    rollouts: KeptRollouts
    rank: int
    world_size: int
    timer: StageTimer
    meter: MeanMeter
    tester: Evaluator | None = None
    """Evaluator of the test prompts; None without `evaluation.test`."""

    def update(self, update: int) -> dict[str, float]:
        """Make one update: prompts, rollout, losses, backward, optimizer.

        Args:
            update: Index of the update, from 0.

        Returns:
            Metrics of the update, the same on every worker except for the times, which are this worker's.

        Raises:
            ValueError: If a loss or the gradient is infinite or not a number.
        """
        # Discard the calls of an evaluation since the last update: they are no cost of this update.
        self.policy.take_evaluations()
        with self.timer.stage("update"):
            rounds = self.collect(update)
            norms = []
            for part in range(self.algorithm.calls.optimizer_steps):
                for batch, share, collected in rounds:
                    with self.at_size(batch):
                        self.backward(self.algorithm.losses(batch, collected, part), share)
                with self.timer.stage("optimizer"):
                    norms.append(self.engine.step())
            self.engine.refresh_old(self.algorithm.old_kept(update))
        # Every worker makes the same calls with equal shares, so the total needs no communication, unless workers skip
        # different blocks.
        cost = self.policy.take_evaluations()
        _, workers = self.config.training.data_parallel(self.rank, self.world_size)
        forward = float(cost.forward * workers)
        if self.config.rollout.cache_threshold is not None:
            forward = float(sum(gather(cost.forward)))
        metrics = {
            **self.meter.take(),
            "cost/forward": forward,
            "cost/forward_backward": float(cost.forward_backward * workers),
            **self.timer.take(),
            **self.rewards.take_statistics(),
            "update/gradient_norm": sum(norms) / len(norms),
            "update/lr": self.engine.lr,
            "memory/peak_gib": peak_memory(self.policy.device),
        }
        require_finite(update, metrics)
        return metrics

    def collect(self, update: int) -> list[tuple[Batch, float, Any]]:
        """Collect this worker's micro-batches of an update, the share of each, and the inputs of its losses.

        All micro-batches go through a phase before the next phase starts, `rollout.batch_size` images at a time. The
        weights change only at the end of the update, so each phase gathers them once.
        """
        batches = list(self.batches(update))
        groups = in_groups([batch for batch, _ in batches], self.config.rollout_passes)
        joined = [join_batches(group) for group in groups]
        sampled = any(len(batch.image_rows) < len(batch.prompts) for batch in joined)
        sampled = sampled or self.config.algorithm.samples_for_images
        collected: list[Any] = [None] * len(groups)
        with self.timer.stage("rollout"):
            for phase in self.algorithm.phases:
                # If every image is given, the policy samples none, so its weights need no gather.
                gathered = self.engine.gathered() if sampled or phase.role != "policy" else nullcontext()
                with self.engine.shown(phase.role), gathered, torch.no_grad():
                    for index, batch in enumerate(joined):
                        with self.at_size(batch):
                            collected[index] = phase.run(batch, collected[index])
        parts = [part for found, group in zip(collected, groups, strict=True) for part in split_collected(found, group)]
        unsettled = [(batch, found) for (batch, _), found in zip(batches, parts, strict=True)]
        with self.timer.stage("score"):
            settled = self.algorithm.settle(unsettled, gather)
        rounds = [(batch, share, found) for (batch, share), found in zip(batches, settled, strict=True)]
        self.rollouts.keep(update, rounds)
        return rounds

    def at_size(self, batch: Batch) -> AbstractContextManager[None]:
        """Let the policy take and return images of a micro-batch's size during the block.

        Workers may be at different sizes: they exchange weights and gradients only, whose shapes do not depend on it.
        """
        return nullcontext() if batch.size is None else self.policy.at_size(batch.size)

    def backward(self, losses: Iterable[Loss], share: float) -> None:
        """Back-propagate losses in groups of `losses_in_flight`.

        The forward passes of a group run first, so that reward scoring overlaps with the next forward pass. One
        backward pass over the sum of the group follows. ZeRO-3 needs this order.

        Args:
            losses: Iterator that runs a forward pass for each next loss.
            share: Weight of the losses in this worker's update; 0 for a repeated micro-batch.
        """
        waiting = iter(losses)
        in_flight = self.config.losses_in_flight
        while True:
            with self.timer.stage("forward"):
                pending = list(islice(waiting, in_flight))
            if not pending:
                return
            with self.timer.stage("score"):
                outputs = [loss() for loss in pending]
            with self.timer.stage("backward"):
                self.engine.backward(torch.stack([output.loss for output in outputs]).sum() * share)
            for output in outputs:
                self.meter.add(output.metrics, counted=share > 0)

    def batches(self, update: int) -> Iterable[tuple[Batch, float]]:
        """Yield this worker's micro-batches of an update, and the weight of the loss of each.

        ZeRO-3 averages gradients over the workers and needs the same number of forward passes on each. If the number
        of micro-batches is not divisible by the number of workers, some are computed twice, the second time with
        weight 0. The update is therefore the same with any number of workers.

        Workers that share the tokens of an image have the same micro-batches. Each computes a part of the gradient
        there, so their gradients add up, where DeepSpeed averages over all workers.
        """
        training, calls = self.config.training, self.algorithm.calls
        rank, workers = training.data_parallel(self.rank, self.world_size)
        chosen = self.prompts.indices(self.rollouts.window(update), training.batch_size, self.config.seed)
        size, parts = training.pass_size, calls.passes_per_prompt
        number, passes = training.batch_size // size * parts, training.num_passes(workers, parts)
        images = calls.images_per_prompt // parts
        for position in range(rank * passes, (rank + 1) * passes):
            block, part = divmod(position % number, parts)
            samples = range(block * size, (block + 1) * size)
            children = range(part * images, (part + 1) * images)
            batch = self._batch(update, {sample: chosen[sample] for sample in samples}, children)
            yield batch, self.world_size / number if position < number else 0.0

    def _batch(self, update: int, chosen: Mapping[int, int], children: range) -> Batch:
        """Build a micro-batch.

        Args:
            update: Index of the update, from 0.
            chosen: Sample of the update -> index of its text.
            children: Indices of the images of each sample.
        """
        prompts, indices, device = self.prompts, [*chosen.values()], self.policy.device
        rows = [row for row in range(len(indices)) for _ in children]
        given = self.rollouts.tokens(update, list(chosen)) or prompts.given_tokens(indices)
        images, labels = (stack_rows(values, len(indices)) for values in (given, prompts.real_labels(indices)))
        others = prompts.other_conditioning[indices] if given and prompts.other_conditioning else None
        return Batch(
            prompts=tuple(prompts.texts[indices[row]] for row in rows),
            words=None if prompts.words is None else tuple(prompts.words[indices[row]] for row in rows),
            keys=None if prompts.keys is None else tuple(prompts.keys[indices[row]] for row in rows),
            conditioning=prompts.conditioning[indices].to(device, self.policy.dtype).repeat(len(children)),
            draws=Draws(
                seed=self.config.seed,
                update=update,
                samples=tuple(sample for sample in chosen for _ in children),
                worker=self.config.training.data_parallel(self.rank, self.world_size)[0],
                children=tuple(children) * len(indices),
            ),
            images=None if images is None else images.to(device)[rows],
            labels=None if labels is None else labels.to(device)[rows],
            image_rows=tuple(place for place, row in enumerate(rows) if row in given),
            other_conditioning=None if others is None else others.to(device, self.policy.dtype)[rows],
            size=prompts.size_of(indices),
        )

    def evaluate(self, update: int) -> dict[str, float]:
        """Evaluate the model on the validation prompts, with the EMA of the weights if the run keeps one.

        Trained weights are contrasted with the base model's, or those of `evaluation.contrast_with`, by
        `evaluation.rl_guidance`.

        The evaluation at update 0 is that of the weights before the first update, which the engine may have kept since.
        It is read from the cache if another run has written it. Worker 0 writes the rows and the before/after images.

        Args:
            update: Updates made.
        """
        start = time.perf_counter()
        evaluation = self._evaluate(self.evaluator) if update else self._evaluate_base(self.evaluator)
        self.engine.release_start()
        metrics, images = evaluation.metrics, evaluation.images
        if self.rank == 0 and update == 0:
            save_images(self.folder.base_images, images)
        metrics["image/drift"] = from_worker_0(lambda: drift(load_images(self.folder.base_images), images))
        metrics["time/evaluate"] = time.perf_counter() - start
        self.rewards.take_statistics()
        if self.rank == 0:
            append_row(self.folder.scores, _scores_row(update, len(self.evaluator.prompts), evaluation))
            append_row(self.folder.evaluations, {"update": update, **metrics})
            save_images(self.folder.tuned_images, images)
            base = load_images(self.folder.base_images)
            prompts = [self.evaluator.captions[index] for index in images]
            grid = before_after(torch.stack([*base.values()]), torch.stack([*images.values()]), prompts)
            # The smallest file would take ten times as long, for 3 %.
            save_png(grid, self.folder.gallery, optimize=False)
        return metrics

    def test(self, update: int) -> None:
        """Evaluate the model on the test prompts as `evaluate` does; worker 0 writes to `test_scores.jsonl`.

        Args:
            update: Updates made by the weights. The file keeps the row of the base model, update 0, and the latest one.
        """
        self._test(update, self._evaluate)

    def test_base(self) -> None:
        """Evaluate the weights before training on the test prompts. They replace the trained ones, so it comes last.

        Nothing is loaded if another run has written the evaluation to the cache.
        """

        def load() -> None:
            self.engine.load_start(start_weights(self.config, self.engine.module))

        self._test(0, lambda tester: self._evaluate_base(tester, load))

    def _test(self, update: int, evaluate: Callable[[Evaluator], Evaluation]) -> None:
        assert self.tester, "a run without test prompts is not tested"
        evaluation = evaluate(self.tester)
        # An evaluation is no cost of an update.
        self.rewards.take_statistics()
        if self.rank == 0:
            row = _scores_row(update, len(self.tester.prompts), evaluation)
            others = [each for each in read_rows(self.folder.test_scores) if bool(each["update"]) != bool(update)]
            write_rows(self.folder.test_scores, sorted([row, *others], key=lambda each: each["update"]))

    def _evaluate_base(self, evaluator: Evaluator, load: Callable[[], None] = lambda: None) -> Evaluation:
        @contextmanager
        def base() -> Iterator[FlowPolicy]:
            load()
            with self.engine.shown("start" if self.engine.keeps_start else "policy"), self.engine.gathered():
                yield self.policy

        return baseline_evaluation(self.config, evaluator, self.policy.device, base, self.rewards)

    def _evaluate(self, evaluator: Evaluator) -> Evaluation:
        with self._evaluated_weights(self.config.evaluation.contrast):
            evaluated = evaluator.evaluate(self.policy, self.rewards, self.config.rewards.factors)
        return combine(gather(evaluated), len(evaluator.prompts))

    def _evaluated_weights(self, contrast: ContrastWeight | None) -> AbstractContextManager[None]:
        evaluation = self.config.evaluation
        base: Role | None = None if self.config.model.lora else "reference"
        other = "contrast" if evaluation.contrast_with else base
        return evaluated_weights(self.engine, self.policy, contrast, other=other, text=evaluation.contrast_text)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint before the first update of this start: weights, optimizer, EMA and the algorithm's state.

        Raises:
            ValueError: If the checkpoint is inside a window of reused rollouts and lacks a part of its batch.
        """
        old, device = checkpoint.extra.get(OLD), self.policy.device
        self.engine.load(checkpoint.weights, checkpoint.optimizer, checkpoint.update, checkpoint.ema, old)
        self.algorithm.state.update({name: value.to(device) for name, value in checkpoint.extra.get(STATE, {}).items()})
        self.rollouts = resume_rollouts(self.config, checkpoint, str(device))

    def load_for_evaluation(self, checkpoint: Checkpoint) -> None:
        """Load the weights and EMA of a checkpoint, after the last update; the optimizer's state is not read."""
        self.engine.load(checkpoint.weights, {}, checkpoint.update, checkpoint.ema, checkpoint.extra.get(OLD))

    def save(self, update: int, protected: int | None = None) -> None:
        """Write a checkpoint, each worker its share. All workers must call.

        Args:
            update: Updates made.
            protected: Update whose checkpoint is kept regardless of its age.

        Raises:
            CheckpointError: If a write fails. Earlier checkpoints stay valid, so the run can continue.
        """
        progress = {"samples": update * self.config.training.batch_size, "num_workers": self.world_size}
        save_checkpoint(
            Storage(self.folder.checkpoints),
            update,
            self.engine.weights(),
            self.engine.optimizer_state(),
            self.engine.ema(),
            run_identity(self.config) | progress | self.folder.tracker_state,
            self.config.training.checkpoints_kept,
            protected,
            {
                OLD: self.engine.old(),
                STATE: self.algorithm.state if self.rank == 0 else {},
                ROLLOUTS: self.rollouts.state(update),
            },
        )


def _scores_row(update: int, num_prompts: int, evaluation: Evaluation) -> dict[str, Any]:
    """Row of `scores.jsonl`: every metric of every image, to six digits."""
    scores = {name: [float(f"{value:.6g}") for value in column] for name, column in evaluation.scores.items()}
    return {"update": update, "num_prompts": num_prompts, "scores": scores}
