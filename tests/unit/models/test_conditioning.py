"""Text features that several images of a prompt share."""

import torch

from srpo_ray.models.conditioning import Conditioning


def features(size: int) -> Conditioning:
    return Conditioning(torch.rand(size, 5, 4), torch.rand(size, 3))


def test_repeated_samples_are_consecutive() -> None:
    given = features(2)
    repeated = given.repeat(3)
    expected = given[[0, 0, 0, 1, 1, 1]]
    assert torch.equal(repeated.prompt_embeds, expected.prompt_embeds)
    assert torch.equal(repeated.pooled_prompt_embeds, expected.pooled_prompt_embeds)


def test_images_of_a_single_prompt_share_its_memory_until_a_call() -> None:
    given = features(1)
    repeated = given.repeat(3)
    assert len(repeated) == 3
    assert repeated.prompt_embeds.untyped_storage().nbytes() == given.prompt_embeds.nbytes
    called = repeated.contiguous()
    assert called.prompt_embeds.is_contiguous()
    assert torch.equal(called.prompt_embeds, given.prompt_embeds[[0, 0, 0]])
