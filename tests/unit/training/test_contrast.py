"""Contrast of a run's evaluations with other models: against the images of `srpo-ray sample` on the same noise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from srpo_ray.cli import main
from srpo_ray.config import apply, load_run
from srpo_ray.config.algorithms.base import Role
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.evaluator import Evaluator
from srpo_ray.evaluation.gallery import to_images
from srpo_ray.flow import shifted_sigmas
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text_encoders import encode_prompts
from srpo_ray.models.trainable import load_tuned, make_policy
from srpo_ray.planning.workload import evaluation_work
from srpo_ray.runs.other_model import check_other_model, contrast_weights
from srpo_ray.runs.trained import read_trained
from srpo_ray.training.contrast import adapters_scaled_to_zero, evaluated_weights
from tests.conftest import ROOT, SMALL_WORLD
from tests.helpers.training.trained_run import trained_run

PROMPTS = ["a red circle", "a blue square"]
LORA = "model.lora={rank: 4}"
FULL = ("algorithm.anchor={reference: 0.1}",)
"""Full fine-tuning that keeps the base model's weights."""


class PlainEngine:
    """Weights of the roles of a module without shards, and what was entered."""

    def __init__(self, module: nn.Module, **others: Mapping[str, Tensor]) -> None:
        self.module = module
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._weights = {"ema": own, "policy": own} | {role: own | dict(value) for role, value in others.items()}
        self.shown_roles: list[str] = []
        self._gathered = False

    @contextmanager
    def shown(self, role: str) -> Iterator[None]:
        assert not self._gathered, "roles are shown outside of a gather"
        self.shown_roles.append(role)
        self.module.load_state_dict(self._weights[role])
        yield
        self.module.load_state_dict(self._weights["policy"])

    @contextmanager
    def gathered(self) -> Iterator[None]:
        self._gathered = True
        yield
        self._gathered = False


def drawn(
    run_dir: Path, weight: str, *, lora: bool, text: float = 1.0, contrast_with: Path | None = None
) -> tuple[list[np.ndarray], PlainEngine, Any]:
    """Images of a run's evaluator under a weight, and a scale of the prompt in the other model's text."""
    run = read_trained(run_dir)
    transformer = load_tuned(run.config, torch.float32, "cpu", run.weights)
    if contrast_with:
        changes = {"evaluation.rl_guidance": weight, "evaluation.contrast_with": str(contrast_with)}
        config = apply(run.config, changes)
        check_other_model(config)
        shapes = {name: value.shape for name, value in transformer.named_parameters() if value.requires_grad}
        engine: Any = PlainEngine(transformer, contrast=contrast_weights(config, shapes))
    else:
        base = {} if lora else load_tuned(run.config, torch.float32, "cpu", None).state_dict()
        engine = PlainEngine(transformer, reference=dict(base))
    other: Role | None = "contrast" if contrast_with else None if lora else "reference"
    policy = make_policy(run.config, transformer, transformer.config, "cpu")
    evaluator = Evaluator(
        run.config.evaluation,
        PROMPTS,
        encode_prompts(resolve_path("small_world"), PROMPTS, 16),
        size=run.config.model.size,
        sigmas=shifted_sigmas(3, 3.0),
        truth=False,
    )
    if text != 1:
        policy.empty_prompt = encode_prompts(resolve_path("small_world"), [""], 16)
    with evaluated_weights(engine, policy, ContrastWeight.parse("w", weight), other=other, text=text):
        images = evaluator.sample(policy, range(2))
    return [np.asarray(image).astype(int) for image in to_images(images)], engine, policy


@pytest.mark.parametrize(
    ("kind", "weight", "text"), [("lora", "1.5", 1), ("lora", "1,2@0.6", -0.5), ("full", "1.5", 1), ("full", "2", 0)]
)
def test_evaluation_draws_the_images_of_sample_with_the_same_weight_and_text(
    tmp_path: Path, kind: str, weight: str, text: float
) -> None:
    run_dir, lora = tmp_path / "runs" / "mine", kind == "lora"
    trained_run(run_dir, f"run_root={tmp_path / 'runs'}", *((LORA,) if lora else FULL))
    images, engine, policy = drawn(run_dir, weight, lora=lora, text=text)
    words = ["sample", str(run_dir), *PROMPTS, "--seed", "1234", "--steps", "3", "--out", str(tmp_path / "out")]
    assert main([*words, "--rl-guidance", weight, "--contrast-text", str(text)]) == 0
    plain = main([*words[:-1], str(tmp_path / "tuned")])
    assert plain == 0
    for index, image in enumerate(images):
        (file,) = (tmp_path / "out" / "images").glob(f"{index:05d}_0_*")
        (other,) = (tmp_path / "tuned" / "images").glob(f"{index:05d}_0_*")
        assert np.abs(image - np.asarray(Image.open(file)).astype(int)).max() <= 1
        assert np.abs(image - np.asarray(Image.open(other)).astype(int)).max() > 1, "the weight changes images"
    assert policy.network is engine.module
    assert policy.contrast is None
    assert engine.shown_roles == (["ema"] if lora else ["reference", "ema"] * 3)


FEWER = "target_modules: [attn.to_q, ff.net.2]"
OTHERS = {
    "another alpha": (LORA, "model.lora={rank: 4, alpha: 3}"),
    "a lower rank, its own alpha and fewer layers": (
        "model.lora={rank: 4, alpha: 6}",
        f"model.lora={{rank: 2, alpha: 5, {FEWER}}}",
    ),
    "all weights": ("seed=0", "seed=0"),
    "adapters beside all weights": ("seed=0", f"model.lora={{rank: 2, alpha: 5, {FEWER}}}"),
}
"""Model of a run and of the other one."""


@pytest.mark.parametrize(
    ("case", "exported"), [*((case, False) for case in OTHERS), *((case, True) for case in OTHERS if case[:3] != "all")]
)
def test_evaluation_draws_the_images_of_sample_with_another_run_or_its_lora(
    tmp_path: Path, case: str, *, exported: bool
) -> None:
    run_dir, other = tmp_path / "mine", tmp_path / "other"
    own, theirs = OTHERS[case]
    trained_run(run_dir, f"run_root={tmp_path}", own)
    trained_run(other, f"run_root={tmp_path}", theirs, seed=1)
    (other / "finished.json").write_text("{}")
    if exported:
        assert main(["export", str(other), "--out", str(tmp_path / "exported")]) == 0
        other = tmp_path / "exported" / "comfyui_lora.safetensors"
    images, engine, _ = drawn(run_dir, "1.5", lora="lora" in own, text=-0.5, contrast_with=other)
    words = ["sample", str(run_dir), *PROMPTS, "--seed", "1234", "--steps", "3", "--rl-guidance", "1.5"]
    words += ["--contrast-text", "-0.5"]
    assert main([*words, "--contrast-with", str(other), "--out", str(tmp_path / "out")]) == 0
    assert main([*words, "--out", str(tmp_path / "base")]) == 0
    for index, image in enumerate(images):
        (file,) = (tmp_path / "out" / "images").glob(f"{index:05d}_0_*")
        (base,) = (tmp_path / "base" / "images").glob(f"{index:05d}_0_*")
        assert np.abs(image - np.asarray(Image.open(file)).astype(int)).max() <= 1
        assert np.abs(image - np.asarray(Image.open(base)).astype(int)).max() > 1, "the other model changes images"
    assert engine.shown_roles == ["contrast", "ema"] * 3


def test_adapters_keep_their_gradients_and_scale_after_a_call_of_the_base_model(tmp_path: Path) -> None:
    config, _ = trained_run(tmp_path / "run", f"run_root={tmp_path}", LORA)
    transformer = load_tuned(config, torch.float32, "cpu", read_trained(tmp_path / "run").weights)
    base = load_tuned(load_run([SMALL_WORLD], [f"run_root={tmp_path}"]), torch.float32, "cpu", None)
    learning = {name for name, each in transformer.named_parameters() if each.requires_grad}
    inputs = {
        "hidden_states": torch.randn(1, 16, transformer.config.in_channels),
        "timestep": torch.ones(1),
        "guidance": torch.ones(1),
        "pooled_projections": torch.ones(1, transformer.config.pooled_projection_dim),
        "encoder_hidden_states": torch.ones(1, 2, transformer.config.joint_attention_dim),
        "txt_ids": torch.zeros(2, 3),
        "img_ids": torch.zeros(16, 3),
    }
    with torch.no_grad():
        before = transformer(**inputs)[0]
        with adapters_scaled_to_zero(transformer):
            without = transformer(**inputs)[0]
        assert torch.equal(without, base(**inputs)[0])
        assert torch.equal(transformer(**inputs)[0], before)
    assert not torch.equal(without, before)
    assert {name for name, each in transformer.named_parameters() if each.requires_grad} == learning


def test_full_fine_tuning_without_reference_weights_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected model\.lora, or an algorithm that keeps .*rl_guidance=1\.5, got full"
    ):
        load_run([SMALL_WORLD], ["evaluation.rl_guidance=1.5"])
    assert load_run([SMALL_WORLD], ["evaluation.rl_guidance=1"]).evaluation.contrast is None
    pairs = ROOT / "configs" / "small_world_preference.yaml"
    assert load_run([pairs], ["evaluation.rl_guidance=1.5"]).evaluation.contrast == ContrastWeight.constant(1.5)


@pytest.mark.parametrize("text", ["x", "-1", "1,2", "1,2@1.5"])
def test_other_weights_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.rl_guidance: expected "):
        load_run([SMALL_WORLD], [LORA, f"evaluation.rl_guidance={text}"])


def test_levels_are_a_text_and_the_test_has_them_too() -> None:
    config = load_run([SMALL_WORLD], [LORA, "evaluation.rl_guidance=1,1.50@0.6"])
    assert config.evaluation.rl_guidance == "1,1.5@0.6"
    assert config.evaluation.tested
    assert config.evaluation.tested.contrast == ContrastWeight(((1.0, 1.0), (0.6, 1.5)))


@pytest.mark.parametrize("weight", [None, "1", "1,1@0.5"])
def test_text_of_the_base_model_without_a_contrast_is_refused(weight: str | None) -> None:
    given = [f"evaluation.rl_guidance={weight}"] if weight else []
    with pytest.raises(ValueError, match=r"expected rl_guidance other than 1 with contrast_text=-0\.5, got (none|1)"):
        load_run([SMALL_WORLD], [LORA, *given, "evaluation.contrast_text=-0.5"])
    with pytest.raises(ValueError, match=r"contrast_text"):
        load_run([SMALL_WORLD], [LORA, "evaluation.rl_guidance=2", "evaluation.contrast_text=.nan"])


def test_run_encodes_the_empty_prompt_only_for_a_contrast_that_reads_it() -> None:
    def encoded(*overrides: str) -> list[str]:
        return read_texts(load_run([SMALL_WORLD], [LORA, "evaluation.rl_guidance=2", *overrides])).encoded

    assert "" not in encoded()
    assert encoded("evaluation.contrast_text=0") == [*encoded(), ""]


@pytest.mark.parametrize(("weight", "factor"), [("1", 1), ("0", 1), ("1.5", 2), ("1,1.5@0.6", 2)])
def test_plan_counts_the_calls_of_an_evaluation_twice(weight: str, factor: int) -> None:
    def flops(*overrides: str) -> float:
        work = evaluation_work(load_run([SMALL_WORLD], [LORA, "evaluation.num_prompts=8", *overrides]), (64,))
        assert work
        return work.flops

    more = flops(f"evaluation.rl_guidance={weight}") - flops()
    a_step = flops("evaluation.num_steps=2") - flops("evaluation.num_steps=1")
    assert more == pytest.approx((factor - 1) * 20 * a_step, abs=1e-6 * a_step)
