"""`srpo-ray encode` through Ray Data."""

import shutil
from pathlib import Path

import pytest
import torch

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.launch.encode import encode
from srpo_ray.models.text_encoders import encode_prompts
from srpo_ray.small_world.weights import flux_dir
from tests.conftest import SMALL_WORLD

pytestmark = pytest.mark.usefixtures("ray_cluster")

PROMPTS = [*(f"a red circle on a {color} background" for color in ("gray", "white", "black")), "绿色", "red " * 16]


def test_job_encodes_what_is_missing_with_several_actors_and_the_next_call_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("srpo_ray.launch.encode.ROWS", 2)
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS, "", PROMPTS[0]]))
    words = [str(SMALL_WORLD), f"run_root={tmp_path}", f"data.prompts={tmp_path / 'prompts.txt'}"]
    (tmp_path / "evaluated.txt").write_text("a blue square\na green star\nnot used")
    words += [f"evaluation.prompts={tmp_path / 'evaluated.txt'}", "evaluation.num_prompts=2", "evaluation.test=null"]
    config = load_run(words[:1], words[1:])
    cache = TextCache.of(config)
    # As if a job before had been stopped after its first part.
    cache.load_encoder("cpu")(PROMPTS[:2])

    assert main(["encode", *words, "--actors", "2"]) == 0
    said = capsys.readouterr()
    assert "text features of 7 texts, 5 encoded now" in said.out
    assert "data.prompts: " in said.err
    assert "1 empty entries left out, 1 repeated prompts kept" in said.err
    assert "data.prompts: 1 prompt is longer than 16 T5 tokens and truncated: 'red red" in said.err
    assert len(list(cache.store.folder.iterdir())) == 1 + 3
    expected = encode_prompts(str(flux_dir()), [text.strip() for text in PROMPTS], 16)
    found = cache.features([text.strip() for text in PROMPTS])[list(range(len(PROMPTS)))]
    torch.testing.assert_close(found.prompt_embeds, expected.prompt_embeds)
    torch.testing.assert_close(found.pooled_prompt_embeds, expected.pooled_prompt_embeds)

    assert main(["encode", *words]) == 0
    assert "text features of 7 texts, none is missing" in capsys.readouterr().out
    assert len(list(cache.store.folder.iterdir())) == 1 + 3


def test_job_that_cannot_load_the_encoders_reports_it(tmp_path: Path) -> None:
    shutil.copytree(flux_dir(), tmp_path / "model")
    (tmp_path / "model" / "text_encoder_2" / "model.safetensors").unlink()
    config = load_run([SMALL_WORLD], [f"run_root={tmp_path}", f"model.path={tmp_path / 'model'}"])
    with pytest.raises(ValueError, match=r"^model.path: expected .* whose text encoders cannot be read"):
        encode(config)
