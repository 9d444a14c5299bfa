import json
from pathlib import Path

import pytest
import torch

from srpo_ray.data import embeddings
from srpo_ray.data.embeddings import load_or_encode
from srpo_ray.data.prompts import load_prompts, prompt_indices

PROMPTS = ["a red circle", "ein grüner Kreis", "红色的圆"]


def test_text_json_and_json_lines_hold_the_same_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(["  a red circle ", "", *PROMPTS[1:], ""]))
    (tmp_path / "p.json").write_text(json.dumps([{"prompt": PROMPTS[0], "tag": 1}, *PROMPTS[1:]]))
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    for name in ("p.txt", "p.json", "p.jsonl"):
        assert load_prompts(str(tmp_path / name)) == PROMPTS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", " \n\n", "expected at least one prompt"),
        ("p.json", "{", "syntax error"),
        ("p.json", '{"prompt": "x"}', "expected a JSON list"),
        ("p.jsonl", '{"text": "x"}', "entry 1"),
        ("p.csv", "x", "expected a .txt, .json or .jsonl file"),
    ],
)
def test_unusable_prompt_file_is_refused_with_its_key(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_prompts(str(tmp_path / name), "evaluation.prompts")
    assert str(error.value).startswith("evaluation.prompts: ")


def test_missing_prompt_file_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a readable prompt file"):
        load_prompts("no/such/file.txt")


def test_every_prompt_comes_once_per_epoch_in_an_order_of_its_own() -> None:
    batches = [prompt_indices(10, step, 4, seed=3) for step in range(5)]
    order = [index for batch in batches for index in batch]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:] != sorted(order[10:])
    assert prompt_indices(10, 3, 4, seed=3) == batches[3]


def test_features_are_encoded_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("small_world", PROMPTS[:2], 16, torch.float32, "cpu", tmp_path)
    first = load_or_encode(*arguments)
    assert first.prompt_embeds.shape[:2] == (2, 16)

    def refuse(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(embeddings, "encode_prompts", refuse)
    second = load_or_encode(*arguments)
    assert torch.equal(first.prompt_embeds, second.prompt_embeds)
    assert torch.equal(first.pooled_prompt_embeds, second.pooled_prompt_embeds)
    with pytest.raises(AssertionError, match="encoded again"):
        load_or_encode("small_world", PROMPTS[1:], 16, torch.float32, "cpu", tmp_path)
