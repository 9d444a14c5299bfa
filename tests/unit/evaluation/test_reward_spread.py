import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from srpo_ray.evaluation.reward_spread import main, spreads

# Three prompts, two samples each, sample by sample.
SCORES = {
    "reward/a": [1.0, 3.0, 2.0, 1.5, 3.5, 2.5],
    "reward/a/relative": [0.1, 0.2, 0.3, 0.3, 0.2, 0.1],
    "evaluator/b": [5.0, 5.0, 8.0, 5.0, 5.0, 8.0],
}
OTHERS = {"reward/total": [1.0] * 6, "reward/total/trained": [2.0] * 6, "image/contrast": [0.1] * 6}


def write(folder: Path, *steps: int, scores: Mapping[str, Sequence[float]] = SCORES, prompts: int = 3) -> Path:
    rows = [{"update": step, "num_prompts": prompts, "scores": {**scores, **OTHERS}} for step in steps]
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "scores.jsonl"


def test_spread_within_a_prompt_leaves_out_the_differences_between_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = spreads(write(tmp_path, 0, 10))
    assert list(found) == ["a", "a/relative", "b"]
    # Two samples that differ by d have the variance d^2 / 2.
    assert found["a"].within == pytest.approx(0.5 / math.sqrt(2))
    assert found["a/relative"].within == pytest.approx(math.sqrt((0.2**2 + 0 + 0.2**2) / 2 / 3))
    assert found["b"].within == 0
    assert [spread.total for spread in found.values()] == pytest.approx([np.std(values) for values in SCORES.values()])
    assert main([str(tmp_path)]) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "a: {spread: 0.3536}  # within a prompt; over all images 0.8539"


def test_spread_within_a_prompt_is_that_of_the_noise_whatever_the_prompts_add(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples, prompts, between, within = 4, 4000, 3.0, 0.5
    values = between * random.standard_normal(prompts) + within * random.standard_normal((samples, prompts))
    scores = {"reward/a": values.flatten().tolist()}
    path = write(tmp_path, 0, scores=scores, prompts=prompts)
    (found,) = spreads(path).values()
    assert found.within == pytest.approx(within, rel=0.02)
    assert found.total == pytest.approx(math.hypot(between, within), rel=0.03)


def test_run_with_one_image_per_prompt_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 0, prompts=6)
    assert main([str(tmp_path)]) == 2
    assert "at least two images per prompt" in capsys.readouterr().err


def test_folder_without_the_base_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
    for steps in ((), (10, 20)):
        write(tmp_path, *steps)
        with pytest.raises(ValueError, match="the base model's scores in the first row"):
            spreads(tmp_path / "scores.jsonl")
