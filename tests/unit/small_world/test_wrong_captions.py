"""Wrong captions of the small world: one word of a part is exchanged, and no held-out content is named."""

from collections import Counter

import pytest

from srpo_ray.small_world.prompts import caption, is_held_out, parse_prompt, seen_contents, split_contents
from srpo_ray.small_world.wrong_captions import PARTS, Part, wrong_captions


def changed_parts(right: str, wrong: str) -> set[str]:
    """Parts in which the contents of two captions differ."""
    (_, one), (_, other) = parse_prompt(right), parse_prompt(wrong)
    assert (one.kind, one.relation, len(one.objects)) == (other.kind, other.relation, len(other.objects))
    found = {"background"} if one.background != other.background else set()
    for axis, part in enumerate(("color", "shape")):
        changed = [a[axis] != b[axis] for a, b in zip(one.objects, other.objects, strict=True)]
        assert sum(changed) in ((0, 1) if one.kind == "pair" else (0, len(changed)))
        found |= {part} if any(changed) else set()
    return found


@pytest.mark.parametrize("part", PARTS)
def test_wrong_captions_of_all_seen_contents_differ_in_the_part_alone(part: Part) -> None:
    contents = seen_contents()
    for content, wrong in zip(contents, wrong_captions(contents, 1, [part]), strict=True):
        assert changed_parts(caption(content), wrong) == {part}
        assert not is_held_out(parse_prompt(wrong)[1])


def test_all_parts_are_exchanged_equally_often_and_alike_for_one_seed() -> None:
    contents = list(split_contents("train")) * 5
    wrong = wrong_captions(contents, 3)
    assert wrong == wrong_captions(contents, 3) != wrong_captions(contents, 4)
    counts = Counter(
        part for one, other in zip(contents, wrong, strict=True) for part in changed_parts(caption(one), other)
    )
    # Within four standard deviations of 320.
    assert all(abs(counts[part] - len(contents) / 3) < 4 * (len(contents) * 2 / 9) ** 0.5 for part in PARTS)
