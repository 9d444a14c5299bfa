import pytest
import torch

from srpo_ray.config.model import LoraConfig
from srpo_ray.models.families import FLUX
from srpo_ray.models.trainable import add_adapters, load_trained
from tests.helpers.training.tiny_flux import batches, call, tiny_transformer


def test_only_adapters_are_trainable_and_their_initial_output_is_zero() -> None:
    network = tiny_transformer().eval()
    first, _, sigma = batches(range(1))[0]
    before = call(network, first, sigma)
    add_adapters(network, LoraConfig(rank=2), seed=0)
    assert torch.equal(call(network, first, sigma), before)
    trainable = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trainable == {name for name, _ in network.named_parameters() if ".lora_" in name}
    adapted = {name.split(".lora_")[0].split("transformer_blocks.0.")[1] for name in trainable}
    assert adapted == set(FLUX.lora_layers)


def test_adapters_are_initialised_from_the_seed_alone() -> None:
    drawn = []
    for seed, noise in ((0, 1), (0, 2), (3, 1)):
        network = tiny_transformer()
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        add_adapters(network, LoraConfig(rank=2, target_modules=("to_q",)), seed)
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator was used up"
        drawn.append(network.get_parameter("transformer_blocks.0.attn.to_q.lora_A.default.weight"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("target", ["to_query", "o_q", "attn", "norm_q"])
def test_target_that_ends_no_linear_layers_name_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=rf"expected ends of .* got '{target}', .* correct or remove it .*attn.to_q"):
        add_adapters(tiny_transformer(), LoraConfig(target_modules=("attn.to_k", target)), seed=0)


def test_weights_of_a_model_without_adapters_are_refused() -> None:
    weights = {name: value.detach() for name, value in tiny_transformer().named_parameters()}
    network = tiny_transformer()
    add_adapters(network, LoraConfig(rank=2), seed=0)
    with pytest.raises(ValueError, match=r"expected a checkpoint with the 30 trainable weights of this model, got \d+"):
        load_trained(network, weights)
