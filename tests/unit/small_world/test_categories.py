"""Tasks of GenEval in the small world, on rendered images whose contents are known."""

from collections.abc import Callable

import torch
from torch import Tensor

from srpo_ray.small_world.categories import judge_tasks, tasks_of
from srpo_ray.small_world.prompts import COLORS, SHAPES, Content, caption, split_contents
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import scenes_of

Kind = tuple[int, int]


def drawn(contents: list[Content]) -> Tensor:
    """Images `[B, 3, 64, 64]`."""
    return torch.from_numpy(render(scenes_of(contents, 3))).float()


def kind(name: str) -> Kind:
    color, shape = name.split()
    return COLORS.index(color), SHAPES.index(shape)


def content(*names: str, relation: str | None = None) -> Content:
    return Content(tuple(kind(name) for name in names), 1, relation)  # pyright: ignore[reportArgumentType]


def judged(shown: Content, asked: Content) -> dict[str, bool]:
    (found,) = judge_tasks(drawn([shown]), [caption(asked)])
    return found


def test_prompts_belong_to_the_tasks_of_their_contents() -> None:
    assert tasks_of("detailed. a red circle on a gray background") == ("single_object", "colors")
    assert tasks_of("two red circles on a gray background") == ("counting",)
    assert tasks_of("a red circle left of a blue square on a gray background") == (
        "two_object",
        "position",
        "color_attr",
    )


def test_single_objects_are_judged_by_shape_and_colour() -> None:
    asked = content("red circle")
    assert judged(asked, asked) == {"single_object": True, "colors": True}
    assert judged(content("blue circle"), asked) == {"single_object": True, "colors": False}
    assert judged(content("red cross"), asked) == {"single_object": False, "colors": False}


def test_counts_are_exact_and_do_not_ask_for_colours() -> None:
    two, three = content(*["red square"] * 2), content(*["red square"] * 3)
    assert judged(two, two) == {"counting": True}
    assert judged(content(*["green square"] * 2), two) == {"counting": True}
    assert judged(three, two) == judged(content("red square"), two) == {"counting": False}
    assert judged(content(*["red circle"] * 2), two) == {"counting": False}


def test_pairs_are_judged_by_shapes_places_and_colours_of_the_shapes() -> None:
    asked = content("red circle", "blue square", relation="left of")
    assert judged(asked, asked) == {"two_object": True, "position": True, "color_attr": True}
    # The colours are exchanged: both shapes are there, at their places.
    exchanged = judged(content("blue circle", "red square", relation="left of"), asked)
    assert exchanged == {"two_object": True, "position": True, "color_attr": False}
    turned = judged(content("blue square", "red circle", relation="left of"), asked)
    assert turned == {"two_object": True, "position": False, "color_attr": True}
    missing = judged(content("red circle"), asked)
    assert missing == {"two_object": False, "position": False, "color_attr": False}


def test_judgements_of_wrong_images_are_those_of_the_contents() -> None:
    """Each image is judged by the caption of the next pair, and compared with the contents themselves."""
    pairs = [each for each in split_contents("validation") if each.relation is not None]
    others = pairs[1:] + pairs[:1]
    has: dict[str, Callable[[Content, Content], bool]] = {
        "two_object": lambda shown, asked: {s for _, s in asked.objects} == {s for _, s in shown.objects},
        "color_attr": lambda shown, asked: set(asked.objects) == set(shown.objects),
    }
    found = judge_tasks(drawn(pairs), [caption(each) for each in others])
    for task, expected in has.items():
        agreed = [
            judgement[task] == expected(shown, asked)
            for judgement, shown, asked in zip(found, pairs, others, strict=True)
        ]
        # The measured shape of a rendered object is right in 99 % of images.
        assert sum(agreed) >= len(pairs) - 1, task
