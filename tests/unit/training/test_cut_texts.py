"""Notes on prompts that reward models truncate, against what the scores of the models depend on."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from transformers import AutoTokenizer

from srpo_ray.cli import main
from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.algorithms.control_words import OwnWords
from srpo_ray.config.rewards import ImageRewardConfig, OpenClipRewardConfig, RewardModelConfig
from srpo_ray.data.texts import read_texts
from srpo_ray.inference.cut_texts import job_notes
from srpo_ray.launch.cut_texts import reward_cut_notes
from srpo_ray.launch.preflight import input_notes
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from srpo_ray.rewards.token_limits import token_limit
from srpo_ray.small_world.weights import reward_dir
from tests.conftest import SMALL_WORLD
from tests.helpers.inference.fixtures import TINY
from tests.helpers.rewards.tiny_clip import CONTEXT_LENGTH, save_tiny_clip

SMALL = OpenClipRewardConfig(name="small", type="open_clip", path="small_world:held_out")
PLAIN = ["algorithm.query=plain", "algorithm.branches=[denoise]", "evaluation.relative=null"]


def config_of(folder: Path, prompts: list[str | dict[str, Any]], *settings: str) -> RunConfig:
    rows = [row if isinstance(row, dict) else {"prompt": row} for row in prompts]
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = [f"data.prompts={folder / 'train.jsonl'}", "evaluation.test=null", f"run_root={folder}"]
    return load_run([SMALL_WORLD], [*files, *settings])


def reads_the_last_word(model: RewardModelConfig, words: int) -> bool:
    """True if the score depends on the last of some words."""
    reward = build_rewards([model])[model.name]
    image = torch.rand(1, 3, reward.image_size, reward.image_size, generator=torch.Generator().manual_seed(0))
    texts = [" ".join(["red"] * (words - 1) + [last]) for last in ("circle", "square")]
    first, second = (reward.score(image, [TextQuery.plain(text)]).item() for text in texts)
    return first != second


@pytest.mark.parametrize("kind", ["small world", "tiny CLIP"])
def test_text_beyond_the_limit_has_an_end_that_no_score_depends_on(kind: str, tmp_path: Path) -> None:
    # A folder of open_clip without a tokenizer of its own has that of CLIP.
    folder = save_tiny_clip(tmp_path / "clip", 16, 0) if kind == "tiny CLIP" else None
    model = SMALL if folder is None else SMALL.model_copy(update={"path": f"local-dir:{folder}"})
    limit = token_limit(model)
    assert limit is not None
    assert limit.num_tokens == (CONTEXT_LENGTH if folder else 32)
    for words in (1, limit.num_tokens - 2, limit.num_tokens - 1):
        (tokens,) = limit.count([" ".join(["red"] * words)])
        assert (tokens <= limit.num_tokens) == reads_the_last_word(model, words) == (words < limit.num_tokens - 1)


def test_open_clips_own_tokenizer_counts_as_many_tokens(tmp_path: Path) -> None:
    limit = token_limit(SMALL.model_copy(update={"path": f"local-dir:{save_tiny_clip(tmp_path / 'clip', 16, 0)}"}))
    assert limit is not None
    texts = ["", "a cat", "An  oil painting, of a harbour &amp; 一只猫 at dawn!"]
    padded = open_clip.get_tokenizer("ViT-B-32")(texts, context_length=77)
    assert limit.count(texts) == (padded != 0).sum(dim=1).tolist()


def test_models_that_read_no_text_or_truncate_none_have_no_limit() -> None:
    models = [
        {"type": "python", "name": "own", "target": "a:B"},
        {"type": "judge", "name": "judge", "url": "http://x/v1", "model": "m"},
    ]
    config = load_run([SMALL_WORLD], [f"evaluation.held_out={json.dumps(models)}", "evaluation.relative=null"])
    assert [token_limit(model) for model in config.evaluation.held_out] == [None, None]


def test_note_counts_prompts_once_and_names_the_first_and_the_limit(tmp_path: Path) -> None:
    long = " ".join(["red"] * 31)
    config = config_of(tmp_path, ["a cat", long, "a dog", f"{long} circle", long, " ".join(["red"] * 30)], *PLAIN)
    found = reward_cut_notes(config, read_texts(config))
    count = len(set(read_texts(config).evaluated)) + 5
    assert found == [
        f"rewards.models, reward {name!r}: 2 of {count} prompts are longer than its 32 tokens, so their ends are not"
        f" scored: {long[:57] + '...'!r}"
        for name in ("preference", "contrastive")
    ], "held-out models score no training prompt"
    assert [note for note in input_notes(config) if "its 32 tokens" in note] == found


def test_prompt_that_is_cut_only_behind_a_control_word_is_counted(tmp_path: Path) -> None:
    fits = " ".join(["red"] * 28)
    own = {"prompt": fits, "positive_words": ["a large round red"], "negative_words": ["flat"]}
    settings = ["word_sets.w={positive: [detailed], negative: [flat]}", "algorithm.control_words=w"]
    config = config_of(tmp_path, [own, "a cat"], *settings, "evaluation.relative=null")
    tokenizer = AutoTokenizer.from_pretrained(reward_dir("held_out"))
    assert len(tokenizer(fits)["input_ids"]) == 30
    assert (
        len(tokenizer(f"detailed. {fits}")["input_ids"]) <= 32 < len(tokenizer(f"a large round red. {fits}").input_ids)
    )
    notes = reward_cut_notes(config, read_texts(config))
    assert len(notes) == 2
    assert all("prompts is longer than its 32 tokens (1 only with control words)" in note for note in notes)
    without = config_of(
        tmp_path, [{**own, "positive_words": ["detailed"]}, "a cat"], *settings, "evaluation.relative=null"
    )
    assert reward_cut_notes(without, read_texts(without)) == []


def test_words_of_the_evaluations_and_of_a_distribution_are_read_before_the_prompt(tmp_path: Path) -> None:
    # With one word more, 32 tokens.
    fits = " ".join(["red"] * 28)
    words = "{positive: a large round red, negative: flat}"
    config = config_of(tmp_path, ["a cat"], *PLAIN[:2], f"evaluation.relative={words}")
    texts = read_texts(config)
    texts.validation.prompts[0] = fits
    notes = reward_cut_notes(config, texts)
    assert [note.split(":")[0] for note in notes] == [
        "rewards.models, reward 'preference'",
        "rewards.models, reward 'contrastive'",
        "evaluation.held_out, reward 'held_out'",
    ]
    attributes = "{attributes: [a large round red, dark], shares: [0.5, 0.5]}"
    settings = f"algorithm={{type: direct_align, query: plain, distribution: {attributes}}}"
    spread = config_of(tmp_path, [fits], settings, "evaluation.relative=null")
    notes = reward_cut_notes(spread, read_texts(spread))
    assert [note.split(":")[0] for note in notes] == [
        "rewards.models, reward 'preference'",
        "rewards.models, reward 'contrastive'",
    ]


def test_held_out_models_read_no_control_words_of_the_training(tmp_path: Path) -> None:
    settings = ["word_sets.w={positive: [a large round red], negative: [flat]}", "algorithm.control_words=w"]
    config = config_of(tmp_path, ["a cat"], *settings, "evaluation.relative=null")
    texts = read_texts(config)
    texts.validation.prompts[0] = " ".join(["red"] * 28)
    notes = reward_cut_notes(config, texts)
    assert [note.split(":")[0] for note in notes] == [
        "rewards.models, reward 'preference'",
        "rewards.models, reward 'contrastive'",
    ]


def test_reward_that_cannot_be_read_is_left_to_its_own_error(tmp_path: Path) -> None:
    missing = ImageRewardConfig(name="ir", type="image_reward", path="none.pt", tokenizer=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="reward 'ir': expected a tokenizer"):
        token_limit(missing)
    config = config_of(tmp_path, ["a cat"])
    config = config.model_copy(update={"rewards": config.rewards.model_copy(update={"models": (missing,)})})
    assert reward_cut_notes(config, read_texts(config)) == []


def job_of(config: RunConfig, prompt: str, text: str, own: tuple[OwnWords, ...] = ()) -> Any:
    return SimpleNamespace(config=config, prompts=[prompt], texts=[text], own_words=own, scored=True)


def test_encoders_read_the_conditioning_of_a_job_and_rewards_its_prompts(tmp_path: Path) -> None:
    config = config_of(tmp_path, ["a cat"], *PLAIN)
    (note,) = job_notes(job_of(config, "a cat", " ".join(["red"] * 20)))
    assert note.startswith("model: 1 prompt is longer than 16 T5 tokens and truncated: 'red red")
    notes = job_notes(job_of(config, " ".join(["red"] * 40), "a cat"))
    assert [note.split(":")[0] for note in notes] == [
        "rewards.models, reward 'preference'",
        "rewards.models, reward 'contrastive'",
        "evaluation.held_out, reward 'held_out'",
    ]


def test_own_words_of_a_jobs_prompts_are_read_before_them(tmp_path: Path) -> None:
    settings = ["word_sets.w={positive: [detailed], negative: [flat]}", "algorithm.control_words=w"]
    config = config_of(tmp_path, ["a cat"], *settings, "evaluation.relative=null")
    fits = " ".join(["red"] * 28)
    assert job_notes(job_of(config, fits, "a cat")) == []
    notes = job_notes(job_of(config, fits, "a cat", (OwnWords(("a large round red",), ("flat",)),)))
    assert [note.split(":")[0] for note in notes] == [
        "rewards.models, reward 'preference'",
        "rewards.models, reward 'contrastive'",
    ]


def test_evaluate_notes_what_text_encoders_and_rewards_truncate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = " ".join(["red"] * 40)
    (tmp_path / "p.txt").write_text(f"a red circle\n{long}\n")
    words = ["--prompts", str(tmp_path / "p.txt"), "--samples-per-prompt", "1", "--steps", "1"]
    source = [str(SMALL_WORLD), f"run_root={tmp_path}", *TINY]
    assert main(["evaluate", *source, *words, "--out", str(tmp_path / "out")]) == 0
    assert "model: 1 prompt is longer than 16 T5 tokens and truncated" in caplog.text
    for name in ("preference", "contrastive", "held_out"):
        assert f"reward {name!r}: 1 of 2 prompts is longer than its 32 tokens" in caplog.text
    caplog.clear()
    assert main(["sample", *source, "a cat", long, "--steps", "1", "--out", str(tmp_path / "s")]) == 0
    assert "model: 1 prompt is longer" in caplog.text
    assert "reward" not in caplog.text
