"""Contrast of a tuned model with its base model or another run, against the models loaded separately."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.models import contrast_networks
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.contrast import BASE, TUNED, Contrast, ContrastWeight, check_different
from srpo_ray.models.contrast_networks import Networks, Trained, load_networks
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.sd3 import SD3Policy
from srpo_ray.models.trainable import load_tuned, make_policy
from tests.conftest import SMALL_WORLD
from tests.helpers.models.tiny_sd3 import save_tiny_sd3

KINDS = {"full": (), "lora": ("model.lora={rank: 4, alpha: 8}",), "wide lora": ("model.lora={rank: 6, alpha: 3}",)}
SIGMA = torch.tensor([0.9, 0.3])
Weight = ContrastWeight.constant


def trained(kind: str, seed: int = 0) -> Trained:
    """A run of that kind, with trained weights far from the initial ones."""
    config = load_run([SMALL_WORLD], KINDS[kind])
    source = torch.Generator().manual_seed(seed)
    parameters = load_tuned(config, torch.float32, "cpu", None).named_parameters()
    return Trained(
        config,
        {
            name: (parameter + 0.05 * torch.randn(parameter.shape, generator=source)).detach()
            for name, parameter in parameters
            if parameter.requires_grad
        },
    )


def velocity(policy: FlowPolicy, sigma: Tensor = SIGMA) -> Tensor:
    source = torch.Generator().manual_seed(1)
    config = policy.transformer_config
    text = torch.randn(2, 4, config["joint_attention_dim"], generator=source)
    pooled = torch.randn(2, config["pooled_projection_dim"], generator=source)
    tokens = torch.randn(2, *policy.token_shape, generator=source)
    with torch.no_grad():
        return policy.velocity(tokens, sigma, Conditioning(text, pooled), 3.5)


def separately(run: Trained | None) -> Tensor:
    """Velocity of a run's tuned model, in a transformer of its own; of the base model for None."""
    config = run.config if run else load_run([SMALL_WORLD])
    transformer = load_tuned(config, torch.float32, "cpu", run and run.weights)
    return velocity(make_policy(config, transformer, transformer.config, "cpu"))


def contrasts(run: Trained, networks: Networks) -> FlowPolicy:
    return make_policy(run.config, networks.tuned, networks.transformer.config, "cpu")


@pytest.mark.parametrize(
    ("kind", "other", "loaded"),
    [
        ("full", None, 2),
        ("lora", None, 1),
        ("full", "full", 2),
        ("lora", "wide lora", 1),
        ("lora", "full", 2),
        ("full", "lora", 2),
    ],
)
def test_velocity_is_the_other_models_plus_weight_times_the_difference(
    kind: str, other: str | None, loaded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, second = trained(kind), trained(other, seed=5) if other else None
    tuned, start = separately(run), separately(second)
    assert (tuned - start).abs().max() > 0.01

    loads: list[object] = []
    monkeypatch.setattr(contrast_networks, "load_tuned", lambda *given: (loads.append(given), load_tuned(*given))[1])
    networks = load_networks(run, [second], torch.float32, "cpu")
    assert len(loads) == loaded, "adapters of one base model share its transformer"
    policy = contrasts(run, networks)
    # 1 comes after 0 and 1.5, which switch adapters that have to be switched back.
    for weight, expected in ((0.0, start), (1.0, tuned), (0.0, start)):
        policy.contrast = Contrast(networks.others[0], Weight(weight))
        assert torch.equal(velocity(policy), expected)
    policy.contrast = Contrast(networks.others[0], Weight(1.5))
    expected = start.double() + 1.5 * (tuned.double() - start.double())
    torch.testing.assert_close(velocity(policy).double(), expected, rtol=0, atol=1e-5)
    policy.contrast = None
    assert torch.equal(velocity(policy), tuned)


@pytest.mark.parametrize(("weight", "calls"), [("0", 1), ("1", 1), ("2", 2), ("0,1@0.5", 2)])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_one_model_alone_costs_one_call(kind: str, weight: str, calls: int) -> None:
    run = trained(kind)
    networks = load_networks(run, [None], torch.float32, "cpu")
    policy, made = contrasts(run, networks), []
    policy.contrast = Contrast(networks.others[0], ContrastWeight.parse("--w", weight))
    for network in {networks.transformer, networks.others[0]}:
        if isinstance(network, nn.Module):
            network.register_forward_hook(lambda *_: made.append(1))
    velocity(policy)
    assert len(made) == calls


def test_samples_at_different_sigmas_have_their_own_weights() -> None:
    run = trained("lora")
    networks = load_networks(run, [None], torch.float32, "cpu")
    policy = contrasts(run, networks)
    policy.contrast = Contrast(networks.others[0], ContrastWeight.parse("--w", "0,3@0.5"))
    base, tuned = separately(None), separately(run)
    expected = torch.stack([base[0], base[1] + 3 * (tuned[1] - base[1])])
    torch.testing.assert_close(velocity(policy), expected, rtol=0, atol=1e-5)


def test_weight_by_sigma_samples_with_the_base_model_first_and_the_tuned_one_then() -> None:
    run = trained("lora")
    networks = load_networks(run, [None], torch.float32, "cpu")
    policy, base = (
        contrasts(run, networks),
        make_policy(run.config, networks.others[0], networks.transformer.config, "cpu"),
    )
    grid = torch.tensor([1.0, 0.8, 0.6, 0.3, 0.0])
    source = torch.Generator().manual_seed(2)
    sizes = policy.transformer_config
    text = Conditioning(
        torch.randn(1, 4, sizes["joint_attention_dim"], generator=source),
        torch.randn(1, sizes["pooled_projection_dim"], generator=source),
    )
    noise = policy.noise([source])
    expected = noise
    for step, (sigma, after) in enumerate(pairwise(grid)):
        model = base if step < 2 else policy
        with torch.no_grad():
            expected = expected + (after - sigma) * model.velocity(expected, sigma[None], text, 3.5)
    # The third step starts at 0.6, which is not a float32.
    policy.contrast = Contrast(networks.others[0], ContrastWeight.parse("--w", "0,1@0.6"))
    torch.testing.assert_close(policy.rollout(noise, text, grid, 3.5), expected, rtol=0, atol=1e-5)


def test_each_model_has_classifier_free_guidance_of_its_own(tmp_path: Path) -> None:
    path = str(save_tiny_sd3(tmp_path))
    networks = [load_transformer(path, torch.float32).eval() for _ in range(2)]
    for parameter in networks[1].parameters():
        parameter.data *= 1.1
    vae = load_vae("small_world", torch.float32)
    policies = [SD3Policy(each, vae, each.config, resolution=64, dtype=torch.float32) for each in networks]
    sizes = networks[0].config
    empty = Conditioning(
        torch.zeros(1, 4, sizes["joint_attention_dim"]), torch.zeros(1, sizes["pooled_projection_dim"])
    )
    for policy in policies:
        policy.empty_prompt = empty
    tuned, other = (velocity(policy).double() for policy in policies)
    assert (tuned - other).abs().max() > 1e-3
    policies[0].contrast = Contrast(networks[1], Weight(2.0))
    found = velocity(policies[0]).double()
    torch.testing.assert_close(found, other + 2 * (tuned - other), rtol=0, atol=1e-5 * tuned.abs().max().item())


def test_run_that_learned_nothing_is_its_base_at_every_weight() -> None:
    run = Trained(load_run([SMALL_WORLD]), None)
    networks = load_networks(run, [None], torch.float32, "cpu")
    policy, expected = contrasts(run, networks), separately(None)
    for weight in (BASE, TUNED, Weight(2.0)):
        policy.contrast = Contrast(networks.others[0], weight)
        assert torch.equal(velocity(policy), expected)


@pytest.mark.parametrize("other", [None, "wide lora"])
def test_adapters_of_the_run_are_enabled_again_after_a_failed_call(other: str | None) -> None:
    run = trained("lora")
    networks = load_networks(run, [trained(other) if other else None], torch.float32, "cpu")
    expected = separately(run)
    with pytest.raises(TypeError):
        networks.others[0](unknown=1)
    assert torch.equal(velocity(contrasts(run, networks)), expected)


def test_base_of_a_run_that_continues_a_lora_has_no_adapters_and_its_untrained_model_has_them(tmp_path: Path) -> None:
    run = trained("lora")
    assert run.weights
    tensors = {f"transformer.{name.replace('.default.', '.')}": value for name, value in run.weights.items()}
    layers = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    alphas = {f"{layer}.alpha": torch.tensor(8.0) for layer in layers}
    save_file(tensors | alphas, tmp_path / "start.safetensors")
    continued: RunConfig = apply(run.config, {"model.lora.start_from": str(tmp_path / "start.safetensors")})
    base, start = separately(None), separately(run)

    untrained = Trained(continued, None)
    networks = load_networks(untrained, [None], torch.float32, "cpu")
    policy = contrasts(untrained, networks)
    assert torch.equal(velocity(policy), start)
    policy.contrast = Contrast(networks.others[0], BASE)
    assert torch.equal(velocity(policy), base)
    # Where only the base model is needed, adapters are not trained ones either.
    only_base = load_networks(Trained(continued, run.weights), [None], torch.float32, "cpu", tuned=False)
    policy = contrasts(untrained, only_base)
    policy.contrast = Contrast(only_base.others[0], BASE)
    assert torch.equal(velocity(policy), base)


def test_weight_holds_from_its_sigma_down() -> None:
    weight = ContrastWeight.parse("--w", "0,1@0.9,2.5@0.5")
    assert [weight.at(sigma) for sigma in (1.0, 0.91, 0.9, 0.6, 0.5, 0.0)] == [0, 0, 1, 1, 2.5, 2.5]
    assert weight.plain == "0,1@0.9,2.5@0.5"
    assert weight.label == "0_1_below_0.9_2.5_below_0.5"
    assert ContrastWeight.parse("--w", "1.50").plain == 1.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("many", "expected a weight, or weights by noise level as 1,1.5@0.6, got 'many'"),
        ("1,2", "expected a weight, or weights by noise level"),
        ("1,2@0.5@0.3", "expected a weight, or weights by noise level"),
        ("-0.5", "expected weights of at least 0, got '-0.5'"),
        ("nan", "expected weights of at least 0"),
        ("1,inf@0.5", "expected weights of at least 0"),
        ("1,2@1", "expected sigmas below 1 and above 0"),
        ("1,2@0", "expected sigmas below 1 and above 0"),
        ("1,2@nan", "expected sigmas below 1 and above 0"),
        ("1,2@0.5,3@0.7", "each below the one before, got '1,2@0.5,3@0.7'; sort them"),
    ],
)
def test_weight_of_another_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ContrastWeight.parse("--rl-guidance", text)
    assert str(caught.value).startswith("--rl-guidance: ")
    assert message in str(caught.value)


def test_weight_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="expected different weights, got 2 2; give each once"):
        check_different("--rl-guidance", [Weight(2.0), ContrastWeight.parse("--w", "2.0")])


class LinearFlux:
    """Network whose velocity is linear in the features of the first text token and in the pooled ones."""

    def __init__(self, seed: int, width: int, pooled: int, channels: int) -> None:
        source = torch.Generator().manual_seed(seed)
        self.token_weights = torch.randn(width, channels, generator=source)
        self.pooled_weights = torch.randn(pooled, channels, generator=source)
        self.texts: list[Tensor] = []

    def of(self, text: Conditioning) -> Tensor:
        """Velocity of one image token for each text, in float64."""
        token, pooled = text.prompt_embeds[:, 0].double(), text.pooled_prompt_embeds.double()
        return (token @ self.token_weights.double() + pooled @ self.pooled_weights.double())[:, None]

    def __call__(self, **inputs: Tensor) -> tuple[Tensor]:
        token, pooled = inputs["encoder_hidden_states"], inputs["pooled_projections"]
        self.texts.append(token)
        velocity = token[:, 0] @ self.token_weights + pooled @ self.pooled_weights
        return (velocity[:, None].expand_as(inputs["hidden_states"]),)


def linear_policy(dtype: torch.dtype = torch.float32) -> tuple[FluxPolicy, LinearFlux, Conditioning]:
    """A policy with the contrast of two linear networks; the other network; and texts of two prompts."""
    vae = load_vae("small_world", torch.float32)
    config = {"guidance_embeds": True}
    policy = FluxPolicy(lambda **_: (torch.empty(0),), vae, config, resolution=64, dtype=dtype)
    channels = policy.token_shape[1]
    tuned, other = LinearFlux(1, 6, 3, channels), LinearFlux(2, 6, 3, channels)
    policy.network = tuned
    source = torch.Generator().manual_seed(3)
    texts = Conditioning(torch.randn(2, 5, 6, generator=source), torch.randn(2, 3, generator=source))
    policy.empty_prompt = Conditioning(torch.randn(1, 5, 6, generator=source), torch.randn(1, 3, generator=source))
    return policy, other, texts


def velocity_of(policy: FlowPolicy, texts: Conditioning) -> Tensor:
    tokens = torch.zeros(2, *policy.token_shape)
    return policy.velocity(tokens, SIGMA, texts, 3.5)


@pytest.mark.parametrize("scale", [-0.5, 0.25, 0.75, 2.0])
@pytest.mark.parametrize("weight", [0.0, 1.5, 6.0])
def test_other_model_reads_the_empty_prompt_plus_scale_times_the_difference(scale: float, weight: float) -> None:
    policy, other, texts = linear_policy()
    tuned, empty = policy.network, policy.empty_prompt
    assert isinstance(tuned, LinearFlux)
    assert empty
    policy.contrast = Contrast(other, Weight(weight), scale)
    # Linear in the text, so that the velocity of the mixed text is the mixture of the velocities.
    start = other.of(empty) + scale * (other.of(texts) - other.of(empty))
    expected = start + weight * (tuned.of(texts) - start)
    found = velocity_of(policy, texts)
    torch.testing.assert_close(found.double(), expected.expand_as(found), rtol=0, atol=2e-4)
    if scale == -0.5 and weight == 6.0:
        # CHATS (arXiv 2502.12579) with guidance 5 and alpha 0.5.
        published = tuned.of(texts) + 5 * (tuned.of(texts) - (1.5 * other.of(empty) - 0.5 * other.of(texts)))
        torch.testing.assert_close(found.double(), published.expand_as(found), rtol=0, atol=2e-4)


def test_scale_1_is_the_contrast_with_the_prompt_bit_for_bit_and_needs_no_empty_prompt() -> None:
    policy, other, texts = linear_policy()
    policy.empty_prompt = None
    policy.contrast = Contrast(other, Weight(2.0))
    expected = velocity_of(policy, texts)
    policy.contrast = Contrast(other, Weight(2.0), 1.0)
    assert torch.equal(velocity_of(policy, texts), expected)
    assert all(torch.equal(each, texts.prompt_embeds) for each in other.texts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_0_is_the_other_model_on_the_empty_prompt_bit_for_bit(dtype: torch.dtype) -> None:
    run = trained("lora")
    networks = load_networks(run, [trained("wide lora", seed=5)], dtype, "cpu")
    config = apply(run.config, {"model.dtype": str(dtype).removeprefix("torch.")})
    policy = make_policy(config, networks.tuned, networks.transformer.config, "cpu")
    sizes, source = policy.transformer_config, torch.Generator().manual_seed(4)
    texts = Conditioning(
        torch.randn(2, 4, sizes["joint_attention_dim"], generator=source),
        torch.randn(2, sizes["pooled_projection_dim"], generator=source),
    ).to("cpu", dtype)
    policy.empty_prompt = Conditioning(texts.prompt_embeds[:1] * 0.3, texts.pooled_prompt_embeds[:1] * 0.3)
    tokens = torch.randn(2, *policy.token_shape, generator=source)

    def found(weight: float, scale: float, given: Conditioning) -> Tensor:
        policy.contrast = Contrast(networks.others[0], Weight(weight), scale)
        with torch.no_grad():
            return policy.velocity(tokens, SIGMA, given, 3.5)

    both = policy.empty_prompt[[0, 0]]
    other, tuned = found(0.0, 1.0, both), found(1.0, 1.0, texts)
    assert torch.equal(found(0.0, 0.0, texts), other)
    assert not torch.equal(found(0.0, 1.0, texts), other)
    # The tuned model keeps the prompt.
    assert torch.equal(found(1.0, 0.0, texts), tuned)
    torch.testing.assert_close(found(2.0, 0.0, texts), other + 2 * (tuned - other), rtol=0, atol=1e-5)


def test_features_keep_their_data_type_and_are_rounded_once() -> None:
    source = torch.Generator().manual_seed(5)
    texts, empty = (
        Conditioning(torch.randn(n, 5, 6, generator=source), torch.randn(n, 3, generator=source)).to(
            "cpu", torch.bfloat16
        )
        for n in (2, 1)
    )
    found = texts.scaled(empty, -0.5)
    assert found.prompt_embeds.dtype == found.pooled_prompt_embeds.dtype == torch.bfloat16
    exact = 1.5 * empty.prompt_embeds.double() - 0.5 * texts.prompt_embeds.double()
    # Half a unit in the last of bfloat16's 8 bits: rounded once.
    assert ((found.prompt_embeds.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


def test_classifier_free_guidance_of_the_other_model_guides_its_own_text(tmp_path: Path) -> None:
    path = str(save_tiny_sd3(tmp_path))
    network = load_transformer(path, torch.float32).eval()
    vae = load_vae("small_world", torch.float32)
    policy = SD3Policy(network, vae, network.config, resolution=64, dtype=torch.float32)
    source = torch.Generator().manual_seed(6)
    sizes = network.config
    texts, empty = (
        Conditioning(
            torch.randn(n, 4, sizes["joint_attention_dim"], generator=source),
            torch.randn(n, sizes["pooled_projection_dim"], generator=source),
        )
        for n in (2, 1)
    )
    policy.empty_prompt = empty
    mixed = Conditioning(
        1.5 * empty.prompt_embeds - 0.5 * texts.prompt_embeds,
        1.5 * empty.pooled_prompt_embeds - 0.5 * texts.pooled_prompt_embeds,
    )
    tokens = torch.randn(2, *policy.token_shape, generator=source)
    with torch.no_grad():
        guided = policy.velocity(tokens, SIGMA, mixed, 3.5)
        plain = policy.velocity(tokens, SIGMA, empty[[0, 0]], 1.0)
        policy.contrast = Contrast(network, BASE, -0.5)
        torch.testing.assert_close(policy.velocity(tokens, SIGMA, texts, 3.5), guided)
        # On the empty prompt, guidance has nothing to add.
        policy.contrast = Contrast(network, BASE, 0.0)
        torch.testing.assert_close(policy.velocity(tokens, SIGMA, texts, 3.5), plain)
