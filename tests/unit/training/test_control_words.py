"""Control words and conditioning of prompt files: what a run refuses, notes, hashes and encodes before it starts."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_ray.config import RunConfig, load_experiment, load_run, to_yaml
from srpo_ray.data.rollouts import Item
from srpo_ray.data.texts import read_texts
from srpo_ray.launch.control_words import check_control_words
from srpo_ray.launch.leakage import check_leakage, leakage_notes
from srpo_ray.launch.preflight import check_inputs, input_notes
from srpo_ray.runs.inputs import changed_inputs, text_hashes
from srpo_ray.search.experiment import run_experiment
from srpo_ray.training.base_rollouts import needed_images
from srpo_ray.training.baseline_cache import baseline_identity, other_words
from srpo_ray.training.evaluation import make_evaluator
from tests.conftest import SMALL_WORLD

Rows = Sequence[dict[str, Any]]
PLAIN = ["algorithm.query=plain", "algorithm.branches=[denoise]"]
EMPTY = ["word_sets.none={positive: [], negative: []}", "algorithm.control_words=none"]
HALF = ["word_sets.half={positive: [detailed], negative: []}", "algorithm.control_words=half"]
CAT = {"prompt": "a cat", "positive_words": ["vivid"], "negative_words": ["grey"]}
DOG = {"prompt": "a dog", "positive_words": ["vivid"]}
FOX = {"prompt": "a fox"}


def config_of(folder: Path, trained: Rows, *settings: str, evaluated: Rows = ({"prompt": "a house"},)) -> RunConfig:
    for name, rows in (("train", trained), ("evaluate", evaluated)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = [f"data.prompts={folder / 'train.jsonl'}", f"evaluation.prompts={folder / 'evaluate.jsonl'}"]
    return load_run([SMALL_WORLD], [*files, "evaluation.test=null", f"run_root={folder}", *settings])


def refusal(config: RunConfig) -> str:
    with pytest.raises(ValueError, match="expected") as error:
        check_control_words(config, read_texts(config))
    return str(error.value)


def test_rows_with_and_without_words_are_accepted_in_a_run_with_a_set(tmp_path: Path) -> None:
    config = config_of(tmp_path, [CAT, DOG, FOX])
    check_inputs(config)
    texts = read_texts(config)
    found = texts.training.words_over(config.trained_words)
    assert found is not None
    assert [(words.positive, words.negative) for words in found] == [
        (("vivid",), ("grey",)),
        (("vivid",), ("flat", "simple")),
        (("detailed", "textured"), ("flat", "simple")),
    ]
    assert f"data.prompts: {config.data.prompts}: 3 prompts, positive_words of 2, negative_words of 1" in texts.notes


@pytest.mark.parametrize(
    ("settings", "reads", "cure"),
    [
        (PLAIN, "srpo, whose rewards read the prompt alone", "set algorithm.query to relative"),
        (["algorithm.type=refl"], "refl, whose rewards read the prompt alone", "set algorithm.query to relative"),
        (
            ["algorithm.type=direct_align", "algorithm.distribution={attributes: [bright, dark], shares: [0.5, 0.5]}"],
            "direct_align, whose rewards read its attributes alone",
            "remove algorithm.distribution and set algorithm.query to relative",
        ),
    ],
)
def test_words_are_refused_by_an_algorithm_that_uses_none(
    tmp_path: Path, settings: list[str], reads: str, cure: str
) -> None:
    config = config_of(tmp_path, [FOX, CAT, DOG], *settings)
    with pytest.raises(ValueError, match=r"^data\.prompts: expected no control words") as error:
        check_inputs(config)
    said = str(error.value)
    assert f"algorithm.type={reads}" in said
    assert f"got words for 2 of 3 prompts of {config.data.prompts} (first: prompt 2, 'a cat')" in said
    assert f"; {cure}, or remove the columns positive_words and negative_words" in said


def test_search_over_queries_is_refused_before_it_starts_if_a_trial_would_not_use_the_words(tmp_path: Path) -> None:
    base = config_of(tmp_path, [CAT], "algorithm.type=refl", "algorithm.query=relative")
    (tmp_path / "base.yaml").write_text(to_yaml(base))
    arm = {"name": "ReFL", "space": {"algorithm.query": {"choice": ["relative", "plain"]}}}
    (tmp_path / "search.yaml").write_text(json.dumps({"base": str(tmp_path / "base.yaml"), "arms": [arm]}))
    config, base = load_experiment(tmp_path / "search.yaml")
    with pytest.raises(ValueError, match=r"expected no control words with algorithm\.type=refl"):
        run_experiment(config, base, None, "a test", "a test")
    assert not (tmp_path / "search").exists()


def test_prompts_without_words_are_refused_where_the_set_has_none(tmp_path: Path) -> None:
    said = refusal(config_of(tmp_path, [CAT, FOX, DOG, FOX], *EMPTY))
    assert said.startswith("data.prompts: expected positive_words for every prompt, as the positive side of the set of")
    assert f"got none for 2 of 4 prompts of {tmp_path / 'train.jsonl'} (first: prompt 2, 'a fox')" in said
    said = refusal(config_of(tmp_path, [CAT, DOG], *HALF))
    assert "expected negative_words for every prompt" in said
    assert "none for 1 of 2 prompts" in said
    said = refusal(config_of(tmp_path, [CAT], *EMPTY))
    assert said.startswith("evaluation.prompts: expected positive_words for every prompt")


def test_set_without_words_is_enough_if_all_prompts_have_their_own(tmp_path: Path) -> None:
    check_inputs(config_of(tmp_path, [CAT], *EMPTY, evaluated=[{**CAT, "prompt": "a house"}]))


def test_own_word_on_the_other_side_of_the_set_is_refused(tmp_path: Path) -> None:
    said = refusal(config_of(tmp_path, [CAT, {"prompt": "a fox", "positive_words": "Flat."}]))
    assert "got 'flat' on both sides for 1 of 2 prompts" in said
    assert "(first: prompt 2, 'a fox')" in said


def test_words_of_evaluation_prompts_that_no_score_reads_are_noted(tmp_path: Path) -> None:
    config = config_of(tmp_path, [FOX], *PLAIN, evaluated=[{**CAT, "prompt": "a house"}])
    check_inputs(config)
    (note,) = [note for note in input_notes(config) if "not read" in note]
    assert note.startswith("evaluation.prompts: control words of 1 of 1 prompts of ")
    assert not [note for note in input_notes(config_of(tmp_path, [FOX])) if "not read" in note]


def test_set_that_lacks_a_side_scores_no_images_of_other_runs(tmp_path: Path) -> None:
    with_set, without = config_of(tmp_path, [FOX], HALF[0]), config_of(tmp_path, [FOX])
    assert other_words(with_set) == other_words(without)


def test_conditioning_is_encoded_and_measured_and_the_prompt_is_not(tmp_path: Path) -> None:
    long = " ".join(["fur"] * 20)
    config = config_of(tmp_path, [{"prompt": long, "conditioning": "A cat."}, {**FOX, "conditioning": f"A {long}"}])
    texts = read_texts(config)
    assert texts.encoded == ["A cat.", f"A {long}", "a house"]
    notes = [note for note in input_notes(config) if "T5 tokens" in note]
    assert notes == [
        f"data.prompts, conditioning: 1 prompt is longer than 16 T5 tokens and truncated: {f'A {long}'[:57] + '...'!r}"
    ]


def test_base_model_samples_the_conditioning_once_for_rows_that_share_it(tmp_path: Path) -> None:
    rows = [{"prompt": "a cat", "conditioning": "A pet."}, {"prompt": "a dog", "conditioning": "A pet."}, FOX]
    base = ["rollout.source=base_model", "training.num_updates=3", "training.batch_size=1"]
    config = config_of(tmp_path, rows, *base)
    items = needed_images(config, read_texts(config))
    assert items == {0: Item("A pet.", 0), 1: Item("A pet.", 0), 2: Item("a fox", 0)}


def test_baseline_of_other_conditioning_or_words_is_another_one(tmp_path: Path) -> None:
    def identity(**row: str) -> dict[str, Any]:
        config = config_of(tmp_path, [FOX], evaluated=[{"prompt": "a house", **row}])
        features: Any = lambda texts: [None] * len(texts)  # noqa: E731
        evaluator = make_evaluator(config, config.evaluation, read_texts(config).validation, features=features)
        return baseline_identity(config, evaluator, torch.device("cpu"))

    plain = identity()
    assert identity(conditioning="a house", positive_words=" ") == plain
    found = [plain, identity(conditioning="x"), identity(positive_words="x"), identity(negative_words="x")]
    assert all(one != other for one, other in combinations(found, 2))


@pytest.mark.parametrize(
    ("trained", "evaluated"),
    [
        ({"prompt": "x", "conditioning": "A House."}, {"prompt": "a house"}),
        ({"prompt": "a house"}, {"prompt": "y", "conditioning": "A House."}),
        ({"prompt": "x", "conditioning": "one house"}, {"prompt": "y", "conditioning": "one house"}),
        ({"prompt": "a house", "conditioning": "x"}, {"prompt": "a house", "conditioning": "y"}),
    ],
)
def test_evaluation_on_a_training_text_of_either_kind_is_refused(
    tmp_path: Path, trained: dict[str, str], evaluated: dict[str, str]
) -> None:
    config = config_of(tmp_path, [trained, FOX], evaluated=[evaluated])
    with pytest.raises(ValueError, match=f"got 1 of 1 that data.prompts has too .'{evaluated['prompt']}'"):
        check_leakage(config, read_texts(config))
    apart = config_of(tmp_path, [{"prompt": "p", "conditioning": "q"}], evaluated=[{"prompt": "r"}])
    check_leakage(apart, read_texts(apart))
    assert not leakage_notes(read_texts(apart))


def hashes(folder: Path, trained: Rows) -> Any:
    config = config_of(folder, trained)
    return text_hashes(config, read_texts(config))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"conditioning": "A cat."}, {"conditioning": "The cat."}),
        ({"positive_words": "vivid"}, {"positive_words": "vivid,bright"}),
        ({"positive_words": "vivid"}, {"negative_words": "vivid"}),
        ({}, {"conditioning": "A cat."}),
        ({"negative_words": "grey"}, {}),
    ],
)
def test_other_words_or_conditioning_change_the_hash_of_the_file(
    tmp_path: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    first, second = (hashes(tmp_path, [FOX, {"prompt": "a cat", **row}]) for row in (before, after))
    assert changed_inputs(first, first) == []
    assert [key for key, _ in changed_inputs(first, second)] == ["data.prompts"]


def test_columns_that_change_nothing_change_no_hash(tmp_path: Path) -> None:
    plain = hashes(tmp_path, [FOX])
    assert hashes(tmp_path, [{**FOX, "conditioning": "a fox", "positive_words": "", "negative_words": []}]) == plain
