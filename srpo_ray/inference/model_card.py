"""Model card (README) of an exported model: loading, training settings, metrics and images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.models.families import family_of
from srpo_ray.runs.folder import read_rows, read_test_means
from srpo_ray.runs.inputs import CONTROL_WORDS, read_inputs
from srpo_ray.runs.trained import TrainedRun

_CARD = """\
---
base_model: {base}
library_name: diffusers
tags: [{tags}]
---

# {name}

Tuned by `{algorithm}` with srpo_ray: {update} updates of {batch_size} prompts at learning rate {lr:g}.
Rewards: {rewards}. {words}{start}`config.yaml` has every setting.

{image}{contrast}{load}

{metrics}
"""
_TABLE = """\
Metrics on the {prompts} before and after training. `evaluator/` scores are those of held-out models.

| metric | before | after | change |
|---|---|---|---|
"""
_IMAGE = "![Before and after, with the same prompts and noise](before_after.png)\n\n"
_CONTRAST = (
    "Images after training were sampled with `evaluation.rl_guidance={weight}` in contrast with {other}; the files"
    " alone draw others.\n\n"
)
_LORA = """\
```python
pipeline = {family.pipeline}.from_pretrained({base}, torch_dtype=torch.bfloat16).to("cuda")
pipeline.load_lora_weights("FOLDER", weight_name="{diffusers}")
```

ComfyUI: put `{comfyui}` into `models/loras`."""
_TRANSFORMER = """\
```python
transformer = {family.transformer}.from_pretrained("FOLDER", subfolder="transformer", torch_dtype=torch.bfloat16)
pipeline = {family.pipeline}.from_pretrained({base}, transformer=transformer, torch_dtype=torch.bfloat16).to("cuda")
```"""


def model_card(run: TrainedRun, diffusers: str, comfyui: str) -> str:
    """Write the card in Markdown.

    Args:
        run: Trained run.
        diffusers: Name of the LoRA file for diffusers.
        comfyui: Name of the LoRA file for ComfyUI.
    """
    config = run.config
    base, lora = json.dumps(config.model.path), config.model.lora is not None
    load = (_LORA if lora else _TRANSFORMER).format(
        family=family_of(config.model.path), base=base, diffusers=diffusers, comfyui=comfyui
    )
    return _CARD.format(
        base=base,
        tags=", ".join(["text-to-image", "srpo_ray", config.algorithm.type, *["lora"] * lora]),
        name=config.name,
        algorithm=config.algorithm.type,
        update=run.update,
        batch_size=config.training.batch_size,
        lr=config.training.optimizer.lr,
        rewards=", ".join(f"{name} (weight {factor:g})" for name, factor in config.rewards.factors.items()),
        words=_words(run),
        start=_start(config),
        image=_IMAGE if run.folder.gallery.exists() else "",
        contrast=_contrast(config),
        load=load,
        metrics=_metrics(run),
    )


def _words(run: TrainedRun) -> str:
    words = run.config.trained_words
    if not words:
        return ""
    of_set = [f"{', '.join(words.positive)} against {', '.join(words.negative)}"] if words.complete else []
    hashed = read_inputs(run.folder.inputs).get("data.prompts", {}).values()
    own = ["words of the prompts' own"] if any(CONTROL_WORDS in parts for parts in hashed) else []
    return f"Steered by {', and by '.join(of_set + own)}. "


def _start(config: RunConfig) -> str:
    lora = config.model.lora
    if lora is None or lora.start_from is None:
        return ""
    name = Path(lora.start_from).name
    if lora.merged:
        return f"The run merged the LoRA `{name}` into the base model; the files contain it and the trained adapters. "
    return f"The run continued the adapters of `{name}`. "


def _contrast(config: RunConfig) -> str:
    """Sentence on the contrast in the evaluations, whose metrics and images the card shows."""
    evaluation = config.evaluation
    if evaluation.contrast is None:
        return ""
    return _CONTRAST.format(weight=evaluation.rl_guidance, other=evaluation.contrast_name)


def _metrics(run: TrainedRun) -> str:
    """Tables of the metrics, first on the test prompts, which chose nothing, if the run was tested on them."""
    tables = {
        "test prompts, which chose no setting and no weights,": read_test_means(run.folder),
        "evaluation prompts": read_rows(run.folder.evaluations),
    }
    shown = {prompts: _changes(rows, run.update) for prompts, rows in tables.items()}
    return "\n\n".join(
        _TABLE.format(prompts=prompts) + "\n".join(lines)
        for prompts, lines in shown.items()
        if lines or prompts == "evaluation prompts"
    )


def _changes(evaluations: Sequence[Mapping[str, float]], update: int) -> list[str]:
    rows = {row["update"]: row for row in evaluations}
    before, after = rows.get(0, {}), rows.get(update, {})
    return [
        f"| {name} | {number(before[name])} | {number(value)} | {signed(value - before[name])} |"
        for name, value in after.items()
        if name in before and name != "update" and not name.startswith("time/")
    ]
