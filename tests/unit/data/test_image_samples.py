"""Only names determine the caption of an image; an image never gets the caption of another name."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_ray.data.image_samples import Samples


def pairs(*names: str) -> dict[str, str | None]:
    """Images with their captions; further images of a sample have the caption `further`."""
    samples = Samples([PurePosixPath(name) for name in names])
    return {
        str(image): "further"
        if samples.is_further(image)
        else str(found)
        if (found := samples.caption(image))
        else None
        for image in samples.images
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "a.txt"], {"a.png": "a.txt"}),
        (["a.b.png", "a.b.txt"], {"a.b.png": "a.b.txt"}),
        (["a.b.png", "a.b.txt", "a.c.png", "a.c.txt"], {"a.b.png": "a.b.txt", "a.c.png": "a.c.txt"}),
        (["0.image.png", "0.caption.txt"], {"0.image.png": "0.caption.txt"}),
        (["0.image.png", "0.mask.png", "0.prompt.json"], {"0.image.png": "0.prompt.json", "0.mask.png": "further"}),
        (["0.jpg", "0.seg.png", "0.txt"], {"0.jpg": "0.txt", "0.seg.png": "further"}),
        (["0.jpg", "0.text.txt", "0.json"], {"0.jpg": "0.json"}),
        (["0.photo.jpg", "0.txt"], {"0.photo.jpg": "0.txt"}),
        (["0.photo.jpg", "0.caption.txt", "0.meta.json"], {"0.photo.jpg": "0.caption.txt"}),
        (["a.png", "a.jpg", "a.txt"], {"a.jpg": "a.txt", "a.png": "a.txt"}),
        (["a.png", "a.txt", "a.json"], {"a.png": "a.txt"}),
        (["A.PNG", "A.TXT"], {"A.PNG": "A.TXT"}),
        (["x/0.png", "y/0.txt"], {"x/0.png": None}),
        (["x/0.png", "x/0.txt", "y/0.png", "y/0.txt"], {"x/0.png": "x/0.txt", "y/0.png": "y/0.txt"}),
        # Versions of a name are no parts of a sample.
        (["v1.0.png", "v1.5.txt"], {"v1.0.png": None}),
        (["v1.0.png", "v1.0.txt", "v1.5.png"], {"v1.0.png": "v1.0.txt", "v1.5.png": None}),
        (["ab.png", "a.txt"], {"ab.png": None}),
    ],
)
def test_caption_is_that_of_the_name_or_of_the_sample(names: list[str], expected: dict[str, str | None]) -> None:
    assert pairs(*names) == expected
    assert pairs(*reversed(names)) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.left.png", "0.right.png", "0.txt"], r"one image for 0.txt, got 0.left.png, 0.right.png; name it 0.image"),
        (["0.image.png", "0.caption.txt", "0.prompt.txt"], "one caption for an image, got 0.caption.txt, 0.prompt.txt"),
        (["0.png", "0.txt", "0.TXT"], "one caption for an image, got 0.txt, 0.TXT"),
    ],
)
def test_ambiguous_caption_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs(*names)


NAMES = st.tuples(
    st.sampled_from(["", "x/"]), st.sampled_from("ab"), st.sampled_from(["", ".1", ".image", ".caption", ".seg"])
).map("".join)
FILES = st.tuples(NAMES, st.sampled_from([".png", ".jpg", ".txt", ".json", ".cls"])).map("".join)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(FILES, unique=True, max_size=12))
def test_caption_has_the_folder_and_sample_of_its_image_in_any_order(names: list[str]) -> None:
    try:
        found = pairs(*names)
    except ValueError:
        return
    assert set(found) == {name for name in names if name.endswith((".png", ".jpg"))}
    for image, caption in found.items():
        if caption not in (None, "further"):
            assert caption in names
            assert caption.split(".")[0] == image.split(".")[0]
        own = [name for name in names if name in (f"{image[:-4]}.txt", f"{image[:-4]}.json")]
        assert caption in own or not own
    assert pairs(*sorted(names)) == found
