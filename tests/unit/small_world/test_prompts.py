"""Captions can be read back, and the sets of prompts share no content."""

from collections import Counter

import pytest

from srpo_ray.small_world import prompts
from srpo_ray.small_world.prompts import Content


def test_every_caption_parses_back_to_its_word_and_content() -> None:
    for content in prompts.all_contents():
        assert prompts.parse_prompt(prompts.caption(content)) == (None, content)
    for word in prompts.WORDS:
        content = prompts.all_contents()[len(word)]
        assert prompts.parse_prompt(prompts.caption(content, word)) == (word, content)


def test_captions_read_as_english() -> None:
    assert prompts.caption(Content(((0, 0),), 1)) == "a red circle on a gray background"
    assert prompts.caption(Content(((1, 2),), 3), "detailed") == "detailed. an orange triangle on a brown background"
    assert prompts.caption(Content(((5, 3),) * 3, 0)) == "three blue crosses on a white background"
    pair = Content(((0, 0), (1, 1)), 2, "left of")
    assert prompts.caption(pair) == "a red circle left of an orange square on a black background"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "shiny. a red circle on a gray background",
        "a cat",
        "two red circle on a gray background",
        "a red circle left of a red square on a gray background",
    ],
)
def test_a_foreign_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="a red circle on a gray background"):
        prompts.parse_prompt(text)


def test_there_are_as_many_contents_as_combinations() -> None:
    kinds = Counter(content.kind for content in prompts.all_contents())
    assert kinds == {"one": 8 * 4 * 4, "equal": 2 * 8 * 4 * 4, "pair": (8 * 7) * (4 * 3) * 2 * 4}
    assert len(set(map(prompts.caption, prompts.all_contents()))) == kinds.total()


def test_train_validation_and_test_prompts_share_no_content_and_only_train_is_seen() -> None:
    train, validation, test = (set(prompts.split_contents(split)) for split in prompts.SPLITS)
    assert (len(train), len(validation), len(test)) == (192, 48, 192)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert train <= set(prompts.seen_contents())
    assert validation | test <= set(prompts.held_out_contents())
    assert not set(prompts.seen_contents()) & set(prompts.held_out_contents())


@pytest.mark.parametrize("split", prompts.SPLITS)
def test_the_first_prompts_of_a_set_have_every_kind(split: prompts.SplitName) -> None:
    assert {content.kind for content in prompts.split_contents(split)[:16]} == {"one", "equal", "pair"}


def test_every_part_of_a_held_out_content_is_seen_in_training() -> None:
    seen = prompts.seen_contents()
    parts = {
        (content.kind, len(content.objects), content.relation, kind) for content in seen for kind in content.objects
    }
    grounds = {(content.kind, content.background) for content in seen}
    for content in prompts.held_out_contents():
        assert (content.kind, content.background) in grounds
        for kind in content.objects:
            assert (content.kind, len(content.objects), content.relation, kind) in parts
