"""Pictures of a finished run, in one process and without Ray."""

from collections.abc import Sequence
from pathlib import Path

import torch

from srpo_ray.evaluation.gallery import picture_grid, save_png
from srpo_ray.flow import generator, shift_at, shifted_sigmas
from srpo_ray.models.encode import encode_prompts
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.tuned import load_tuned, make_policy, model_dtype
from srpo_ray.training.trained import read_trained


def sample_run(
    run_dir: Path, prompts: Sequence[str], out: Path, *, seed: int, num_steps: int, guidance_scale: float
) -> Path:
    """Draw one picture per prompt with a run's newest checkpoint, or the best one where the alarm stopped the run.

    The average of the weights is used where the run kept one.

    Args:
        run_dir: Folder of the run.
        prompts: What to draw.
        out: PNG file to write: a grid of all pictures with their prompts.
        seed: Seed of the noise; the same seed and prompt position give the same noise for every run.
        num_steps: Euler steps, at least 1.
        guidance_scale: Value of the guidance embedding.

    Returns:
        `out`.

    Raises:
        ValueError: If there is no run with a whole checkpoint in the folder.
    """
    run = read_trained(run_dir)
    config = run.config
    dtype = model_dtype(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    transformer = load_tuned(config, dtype, device, run.weights).eval()
    policy = make_policy(config, transformer, transformer.config, device)
    path = resolve_path(config.model.path)
    # The last one is for classifier-free guidance.
    conditioning = encode_prompts(path, [*prompts, ""], config.model.max_sequence_length, dtype, device)
    policy.empty_prompt = conditioning[-1:]
    noise = policy.noise([generator(seed, "sample", index) for index in range(len(prompts))])
    sigmas = shifted_sigmas(num_steps, shift_at(config.rollout.shift, config.model.resolution))
    with torch.no_grad():
        tokens = policy.rollout(noise, conditioning[:-1].to(device, dtype), sigmas, guidance_scale)
        images = policy.decode(tokens)
    scale = max(1.0, 192 / config.model.resolution)
    return save_png(picture_grid(images, list(prompts), columns=min(4, len(prompts)), scale=scale), out)
