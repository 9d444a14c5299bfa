"""Workers that share the tokens of each image, against one process in plain torch, and against the plan."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_dispatch import funcol
from torch import Tensor
from torch import distributed as dist

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.config.training import OptimizerConfig, TrainingConfig
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.context_parallel import context_mesh, share_tokens
from srpo_ray.models.families import FLUX
from srpo_ray.models.trainable import load_tuned, make_policy
from srpo_ray.planning.context import call_cost, context_traffic
from srpo_ray.rewards.base import Scores
from srpo_ray.rewards.group import GroupRewards
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.engine import Engine
from srpo_ray.training.setup import build_trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import relative_error, tiny_transformer

TOLERANCE = 1e-5
LR, MAX_NORM = 1e-3, 0.1
SAMPLES = 3
ALONE = load_run([SMALL_WORLD], ["training.batch_size=6"])
TOGETHER: dict[str, object] = {"training.num_workers": 2, "training.context_parallel": 2}
SHARED = apply(ALONE, TOGETHER)


def tiny_sd3() -> SD3Transformer2DModel:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=3,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=7,
        caption_projection_dim=16,
        pooled_projection_dim=5,
        out_channels=3,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


NETWORKS = {"flux": partial(tiny_transformer, heads=4), "sd3": tiny_sd3}
SHAPES = {"flux": (8, 12), "sd3": (3, 8, 8)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def velocity(name: str, network: Any, latents: Tensor) -> Tensor:
    batch = len(latents)
    shared = {
        "hidden_states": latents,
        "timestep": torch.linspace(0.2, 0.8, batch),
        "pooled_projections": draw(batch, 5, seed=1),
        "encoder_hidden_states": draw(batch, 4, 7, seed=2),
        "return_dict": False,
    }
    if name == "sd3":
        return network(**shared)[0]
    # Every token has a position of its own, so that a token at a wrong position changes the result.
    positions = {"txt_ids": draw(4, 3, seed=3), "img_ids": draw(8, 3, seed=4)}
    return network(**shared, **positions, guidance=torch.full((batch,), 3.5))[0]


def chained(name: str, network: Any, latents: Tensor) -> Tensor:
    """Two sampler steps with gradient: the second call's input depends on the first call."""
    for _ in range(2):
        latents = latents - 0.3 * velocity(name, network, latents)
    return latents.pow(2).mean()


def backward_of(name: str, network: Any, *, checkpointing: bool) -> dict[str, Any]:
    if checkpointing:
        network.train().enable_gradient_checkpointing()
    latents = draw(2, *SHAPES[name], seed=5).requires_grad_()
    output = velocity(name, network, latents).detach()
    chained(name, network, latents).backward()
    gradients = {key: value.grad for key, value in network.named_parameters() if value.grad is not None}
    return {"output": output, "input": latents.grad, "gradients": gradients}


def shared_backward(name: str, *, checkpointing: bool) -> dict[str, Any]:
    network = NETWORKS[name]()
    share_tokens(network, context_mesh(2, "cpu"))
    found = backward_of(name, network, checkpointing=checkpointing)
    for gradient in found["gradients"].values():
        dist.all_reduce(gradient)
    return found


STAGES: dict[str, dict[str, Any]] = {
    "stage 1": {"zero_stage": 1},
    "stage 2": {"zero_stage": 2},
    "stage 3": {"zero_stage": 3},
    "stage 3, whole blocks": {"zero_stage": 3, "gather_blocks": True},
}


def train_engine(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One update of an engine whose two workers share each image."""
    network: Any = NETWORKS[name]().train()
    network.enable_gradient_checkpointing()
    share_tokens(network, context_mesh(2, "cpu"))
    optimizer = OptimizerConfig(lr=LR, weight_decay=0.0, max_grad_norm=MAX_NORM)
    workers = {"num_workers": 2, "context_parallel": 2, "batch_size": 2}
    training = TrainingConfig.model_validate({**workers, "optimizer": optimizer, **settings})
    engine = Engine(network, training, torch.float32, blocks=(*FLUX.blocks, "JointTransformerBlock"))
    latents = draw(2, *SHAPES[name], seed=5)
    with torch.no_grad(), engine.gathered():
        output = velocity(name, engine, latents)
    # DeepSpeed averages the workers' gradients, whose sum is the gradient.
    engine.backward(training.context_parallel * velocity(name, engine, latents).pow(2).mean())
    gradients = engine.gradients()
    norm = engine.step()
    return {"output": output, "gradients": gradients, "norm": norm, "weights": joined(engine.weights())}


def train_torch(name: str) -> dict[str, Any]:
    """The same in plain torch, in one process."""
    network = NETWORKS[name]()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.0)
    output = velocity(name, network, draw(2, *SHAPES[name], seed=5))
    output.pow(2).mean().backward()
    gradients = {key: value.grad.clone() for key, value in network.named_parameters() if value.grad is not None}
    norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM))
    optimizer.step()
    return {"output": output, "gradients": gradients, "norm": norm, "weights": dict(network.named_parameters())}


def everything(folder: str, *configs: RunConfig) -> dict[str, Any]:
    """What two ranks find, in one start of their processes."""
    backwards = {
        f"{name} {checkpointing}": shared_backward(name, checkpointing=checkpointing)
        for name in NETWORKS
        for checkpointing in (False, True)
    }
    updates = {f"{name} {stage}": train_engine(name, values) for name in NETWORKS for stage, values in STAGES.items()}
    runs = first_updates(folder, *configs)
    return {
        "backwards": backwards,
        "updates": updates,
        "saved": saved_bytes(),
        "scores": scores_of_group(),
        "runs": runs,
    }


TINIER = ["rollout.num_steps=2", "evaluation.num_prompts=2", "evaluation.num_steps=1"]
DRAFT = {"algorithm.type": "draft", "algorithm.num_steps": 2, "algorithm.renoisings": 0}
LORA = {"model.lora.rank": 4, "model.gradient_checkpointing": True}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[RunConfig]:
    """Runs of one worker: all weights with SRPO, adapters with chained transformer calls."""
    config = load_run([SMALL_WORLD], [*TINY, *TINIER, f"run_root={tmp_path_factory.mktemp('runs')}"])
    return [config, apply(config, {**DRAFT, **LORA})]


@pytest.fixture(scope="module")
def found(configs: list[RunConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shared")
    return run_ranks(everything, 2, folder, str(folder), *(apply(config, TOGETHER) for config in configs))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_two_workers_have_the_output_and_gradients_of_one(
    found: dict[str, Any], name: str, checkpointing: bool
) -> None:
    shared, alone = (
        found["backwards"][f"{name} {checkpointing}"],
        backward_of(name, NETWORKS[name](), checkpointing=False),
    )
    torch.testing.assert_close(shared["output"], alone["output"], rtol=0, atol=TOLERANCE)
    # Through the first call too: its output is the second call's input.
    assert relative_error({"": shared["input"]}, {"": alone["input"]}) < TOLERANCE
    assert shared["gradients"].keys() == alone["gradients"].keys()
    assert relative_error(shared["gradients"], alone["gradients"]) < TOLERANCE


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", NETWORKS)
def test_updates_of_two_workers_equal_plain_torch(found: dict[str, Any], name: str, stage: str) -> None:
    shared, alone = found["updates"][f"{name} {stage}"], train_torch(name)
    torch.testing.assert_close(shared["output"], alone["output"], rtol=0, atol=TOLERANCE)
    assert relative_error(shared["gradients"], alone["gradients"]) < TOLERANCE
    assert shared["norm"] == pytest.approx(alone["norm"], rel=TOLERANCE)
    assert relative_error(shared["weights"], alone["weights"]) < TOLERANCE


class Asked:
    """Rewards that answer on the first rank alone: the sum of squares, and its half."""

    def submit(self, images: Tensor, queries: Any) -> Any:
        assert dist.get_rank() == 0, "only the first worker of a group asks the rewards"
        total = images.pow(2).sum((1, 2, 3))
        return SimpleNamespace(result=lambda: Scores(total, {"half": total.detach() / 2}))

    def request(self, images: Tensor, requests: Any) -> Any:
        assert dist.get_rank() == 0, "only the first worker of a group asks the rewards"
        means = {"mean": images.mean((1, 2, 3))}
        return [SimpleNamespace(result=lambda: means) for _ in requests]

    pairwise, trained = frozenset({"half"}), ("half",)

    def compare(self, images: Tensor, queries: Any, pairs: Any, names: Any = None) -> Any:
        assert dist.get_rank() == 0, "only the first worker of a group asks the rewards"
        assert (pairs, names) == ([(0, 1)], ["half"])
        return SimpleNamespace(result=lambda: {"half": images[:1].mean((1, 2, 3)) / 2})


def scores_of_group() -> dict[str, Any]:
    """What the second worker of a group has, which asks no reward."""
    rewards: Any = GroupRewards(Asked(), context_mesh(2, "cpu")["ulysses"].get_group())  # type: ignore[arg-type]
    images = draw(2, 3, 4, 4, seed=6).requires_grad_()
    scores = rewards.submit(images, ["a", "b"]).result()
    (scores.total * torch.tensor([1.0, 3.0])).sum().backward()
    plain = rewards.submit(images.detach(), ["a", "b"]).result().total
    wins = rewards.compare(images.detach(), ["a", "a"], [(0, 1)], sorted(rewards.pairwise)).result()["half"]
    mine = {"total": scores.total.detach(), **scores.raw, "gradient": images.grad, "plain": plain, "wins": wins}
    return joined({str(dist.get_rank()): {**mine, **rewards.measure(images, ["a", "b"])}})["1"]


def test_one_worker_of_a_group_asks_the_rewards_and_the_others_have_its_scores_and_gradients(
    found: dict[str, Any],
) -> None:
    images, scores = draw(2, 3, 4, 4, seed=6), found["scores"]
    squares = images.pow(2).sum((1, 2, 3))
    expected = {"total": squares, "plain": squares, "half": squares / 2, "mean": images.mean((1, 2, 3))}
    expected["wins"] = images[:1].mean((1, 2, 3)) / 2
    expected["gradient"] = 2 * images * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    for name, value in expected.items():
        torch.testing.assert_close(scores[name], value)


def saved_bytes() -> int:
    """Bytes that a worker saves for the backward pass of one transformer call of the small world."""
    transformer = load_tuned(SHARED, torch.float32, "cpu", None).train()
    share_tokens(transformer, context_mesh(2, "cpu"))
    policy = make_policy(SHARED, transformer, transformer.config, "cpu")
    parameters = {parameter.untyped_storage().data_ptr() for parameter in transformer.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    features = Conditioning(torch.ones(SAMPLES, 16, 64), torch.ones(SAMPLES, 64))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy.velocity(torch.ones(SAMPLES, 16, 64), torch.ones(SAMPLES), features, 1.0)
    return sum(saved.values())


def test_a_worker_saves_the_activations_that_the_plan_counts(found: dict[str, Any]) -> None:
    planned, alone = call_cost(SHARED, SAMPLES, 1.0, gradient=True), call_cost(ALONE, SAMPLES, 1.0, gradient=True)
    assert planned.saved == pytest.approx(alone.saved / 2, abs=1)
    assert found["saved"] == pytest.approx(planned.saved, rel=0.15)


def first_updates(folder: str, *configs: RunConfig) -> list[dict[str, Any]]:
    """An evaluation and an update of real trainers on the small world, and the bytes of their exchanges of tokens."""
    return [_first_update(config, folder) for config in configs]


def _first_update(config: RunConfig, folder: str) -> dict[str, Any]:
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    trainer = build_trainer(config, RunFolder(folder), rewards, "cpu", None)
    exchange, received = funcol.all_to_all_single, 0.0

    def counted(tokens: Tensor, *arguments: Any) -> Tensor:
        nonlocal received
        received += tokens.numel() * tokens.element_size() / 2
        return exchange(tokens, *arguments)

    with patch.object(funcol, "all_to_all_single", counted):
        metrics = trainer.update(0)
    kept = {name: value for name, value in metrics.items() if not name.startswith(("time/", "memory/", "pool/"))}
    evaluated = trainer._evaluate(trainer.evaluator).metrics
    found = {"metrics": kept, "evaluation": evaluated, "weights": joined(trainer.engine.weights())}
    return {**found, "received": received}


def test_runs_whose_workers_share_images_equal_runs_of_one_worker(
    found: dict[str, Any], configs: list[RunConfig], tmp_path: Path
) -> None:
    expected = run_ranks(first_updates, 1, tmp_path, str(tmp_path), *configs)
    # Two groups of two workers: each group has a half of the images.
    groups = apply(configs[0], {**TOGETHER, "training.num_workers": 4})
    (divided,) = run_ranks(first_updates, 4, tmp_path, str(tmp_path), groups)
    pairs = [apply(config, TOGETHER) for config in configs]
    shared = [*zip(pairs, found["runs"], strict=True), (groups, divided)]
    for (config, other), one in zip(shared, [*expected, expected[0]], strict=True):
        assert other["metrics"] == pytest.approx(one["metrics"], rel=1e-4, abs=1e-6)
        assert other["evaluation"] == pytest.approx(one["evaluation"], rel=1e-3, abs=1e-5)
        assert relative_error(other["weights"], one["weights"]) < TOLERANCE
        assert other["received"] == sum(part.bytes for part in context_traffic(config))
