import json
from pathlib import Path

import numpy as np
import pytest

from srpo_ray.evaluation.spread import main, spreads

SCORES = {"reward/a": [1.0, 3.0, 2.0], "reward/a/relative": [0.1, 0.2, 0.3], "panel/b": [5.0, 5.0, 8.0]}
OTHERS = {"reward/total": [1.0, 2.0, 3.0], "reward/total/trained": [1.0, 2.0, 3.0], "image/contrast": [0.1, 0.2, 0.3]}


def write(folder: Path, *steps: int) -> None:
    rows = [{"step": step, "num_prompts": 3, "scores": {**SCORES, **OTHERS}} for step in steps]
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_spread_is_the_deviation_over_the_untrained_models_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 0, 10)
    expected = {"a": np.std(SCORES["reward/a"]), "a/relative": np.std([0.1, 0.2, 0.3]), "b": np.std([5, 5, 8])}
    assert spreads(tmp_path / "scores.jsonl") == pytest.approx(expected)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "a: {spread: 0.8165}\na/relative: {spread: 0.08165}\nb: {spread: 1.414}\n"


def test_folder_without_the_untrained_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
    for steps in ((), (10, 20)):
        write(tmp_path, *steps)
        with pytest.raises(ValueError, match="the untrained model's scores in the first row"):
            spreads(tmp_path / "scores.jsonl")
