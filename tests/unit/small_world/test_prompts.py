"""Captions can be read back, and prompts are split into seen and held-out contents."""

import pytest

from srpo_ray.small_world import prompts


def test_every_caption_parses_back_to_its_word_and_content() -> None:
    for color, shape, background in prompts.all_contents():
        for word in (None, *prompts.WORDS):
            text = prompts.caption((color, shape, background), word)
            expected = (word, prompts.COLORS[color], prompts.SHAPES[shape], prompts.BACKGROUNDS[background])
            assert prompts.parse_prompt(text) == expected


def test_captions_read_as_english() -> None:
    assert prompts.caption((0, 0, 1)) == "a red circle on a gray background"
    assert prompts.caption((1, 2, 3), "detailed") == "detailed. an orange triangle on a brown background"


@pytest.mark.parametrize("text", ["", "a red circle", "shiny. a red circle on a gray background", "a cat"])
def test_a_foreign_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="a red circle on a gray background"):
        prompts.parse_prompt(text)


def test_train_and_test_prompts_share_no_content() -> None:
    train, test = prompts.train_prompts(), prompts.test_prompts()
    assert (len(set(train)), len(set(test))) == (96, 32)
    assert not set(train) & set(test)


def test_every_color_shape_and_background_is_seen_in_training() -> None:
    parsed = [prompts.parse_prompt(text)[1:] for text in prompts.train_prompts()]
    assert {color for color, _, _ in parsed} == set(prompts.COLORS)
    assert {(color, shape) for color, shape, _ in parsed} == {(c, s) for c in prompts.COLORS for s in prompts.SHAPES}


def test_unseen_prompts_are_distinct_and_name_held_out_contents_only() -> None:
    unseen = prompts.unseen_prompts(500)
    assert len(set(unseen)) == 500
    plain = {text.partition(". ")[2] or text for text in unseen}
    assert plain == set(prompts.test_prompts())
    with pytest.raises(ValueError, match=r"1\.\.512"):
        prompts.unseen_prompts(513)
