"""Held-out reward models that an evaluation takes from a file in place of those of the run."""

from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.config.load import apply, read_yaml
from srpo_ray.rewards.registry import prompt_check

_KEYS = ("held_out", "preprocessing", "relative")


def with_held_out(config: RunConfig, path: str | Path) -> RunConfig:
    """Replace the held-out models of a run by those of a file, such as `configs/rewards/evaluators.yaml`.

    Args:
        config: Config of the run.
        path: YAML file with `evaluation.held_out`, and optionally `evaluation.preprocessing` and `evaluation.relative`.

    Raises:
        ValueError: If the file has no such models or other keys, or the models cannot be held out for this run.
    """
    values = read_yaml(path)
    section = values.get("evaluation")
    other = [key for key in values if key != "evaluation"]
    if isinstance(section, dict):
        other += [f"evaluation.{key}" for key in section if key not in _KEYS]
    if other or not isinstance(section, dict) or not section.get("held_out"):
        received = f"also {', '.join(other)}" if other else "no evaluation.held_out"
        raise ValueError(
            f"--held-out: expected a file with evaluation.held_out, and beside it only {' and '.join(_KEYS[1:])}, got"
            f" {path} with {received}; write the reward models that evaluate into a file of their own"
        )
    # The objective of the run names one of its own held-out models. Its weights are chosen already.
    changes = {"evaluation.objective": None, "evaluation.choose": "last"}
    return apply(config, changes | {f"evaluation.{key}": value for key, value in section.items()}, str(path))


def check_prompts(config: RunConfig, prompts: tuple[str, ...], option: str = "--prompts") -> None:
    """Check that each reward model can score every prompt; `option` names their source in messages.

    Raises:
        ValueError: If a question reward has no questions about a prompt, or an OCR reward finds no quoted text in it.
    """
    for model in (*config.rewards.models, *config.evaluation.held_out):
        check = prompt_check(model)
        for prompt in prompts:
            try:
                check(prompt)
            except ValueError as error:
                raise ValueError(f"{option}, reward {model.name!r}: {error}") from None
