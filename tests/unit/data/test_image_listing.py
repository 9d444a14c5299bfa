"""Files of a source: every file is read or counted, and every link is followed once."""

import os
from pathlib import Path

import pytest
from PIL import Image

from srpo_ray.data.images import load_images

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def add(path: Path, color: tuple[int, int, int], caption: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)
    path.with_suffix(".txt").write_text(caption)


def shown(source: str | Path) -> dict[str, tuple[int, ...]]:
    """Captions of a source and the colours of their images."""
    images = load_images(str(source))
    assert len(set(images.identities)) == len(images.captions)
    pixels = (images.load(range(len(images.captions)), 8)[:, :, 4, 4] * 255).round().int()
    return {caption: tuple(color) for caption, color in zip(images.captions, pixels.tolist(), strict=True)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three folders with an image of the same name each."""
    folder = tmp_path / "tree"
    add(folder / "0.bmp", RED, "red")
    add(folder / "10_cats" / "0.bmp", GREEN, "green")
    add(folder / "10_cats" / "deeper" / "0.bmp", BLUE, "blue")
    for file in folder.rglob("*.bmp"):
        os.utime(file, ns=(0, 0))
    return folder


def test_folders_below_are_read_with_the_captions_of_each(tree: Path) -> None:
    # All files have the same name, size and time, so that only their folders tell them apart.
    assert shown(tree) == {"red": RED, "green": GREEN, "blue": BLUE}
    assert load_images(str(tree)).note is None


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", {"red", "green", "blue"}),
        ("*/*", {"green", "blue"}),
        ("**/*.bmp", {"red", "green", "blue"}),
        ("**/*", {"red", "green", "blue"}),
        ("10_c?ts/*.bmp", {"green"}),
        ("0.bmp", {"red"}),
        ("[d0]*.txt", None),
    ],
)
def test_pattern_gives_its_images_and_the_captions_beside_them(
    tree: Path, pattern: str, found: set[str] | None
) -> None:
    colors = {"red": RED, "green": GREEN, "blue": BLUE}
    if found is None:
        with pytest.raises(ValueError, match="with none that is read"):
            load_images(f"{tree}/{pattern}")
    else:
        assert shown(f"{tree}/{pattern}") == {caption: colors[caption] for caption in found}


def test_pattern_counts_what_its_folder_counts(tree: Path) -> None:
    for name in (".git", "10_cats/__MACOSX"):
        add(tree / name / "a" / "b.png", RED, "hidden")
    (tree / "10_cats" / "readme.md").touch()
    for source in (str(tree), f"{tree}/*", f"{tree}/**/*"):
        images = load_images(source)
        assert len(images.captions) == 3
        assert images.note == f"{source}: 3 images, left out: 2 hidden files or folders, 1 .md file"


def test_pattern_of_masks_never_gets_the_caption_of_their_images(tmp_path: Path) -> None:
    add(tmp_path / "0.jpg", RED, "red")
    Image.new("RGB", (8, 8)).save(tmp_path / "0.seg.png")
    with pytest.raises(ValueError, match=r"with none that is read \(left out: 1 further image of a sample"):
        load_images(f"{tmp_path}/*.png")


def test_everything_left_out_is_counted(tmp_path: Path) -> None:
    add(tmp_path / "a.png", RED, "red")
    for name in (
        "._a.png",
        "._a.txt",
        ".DS_Store",
        "b.txt",
        "c.json",
        "a.json",
        "d.heic",
        "README.md",
        "e.HEIC",
        "LICENSE",
    ):
        (tmp_path / name).write_bytes(b"\xff\0")
    for name in ("__MACOSX", ".thumbnails"):
        add(tmp_path / name / "a.png", GREEN, "green")
    Image.new("L", (8, 8)).save(tmp_path / "a.mask.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    images = load_images(str(tmp_path))
    assert images.captions == ["red"]
    assert images.note is not None
    text, _, left_out = images.note.partition(", left out: ")
    assert text == f"{tmp_path}: 1 image"
    assert sorted(left_out.split(", ")) == [
        "1 .md file",
        "1 broken link or special file",
        "1 caption file beside the one in use",
        "1 file without a suffix",
        "1 further image of a sample that has its image",
        "2 .heic files",
        "2 captions without an image",
        "5 hidden files or folders",
    ]


def test_many_types_of_files_are_summed(tmp_path: Path) -> None:
    add(tmp_path / "a.png", RED, "red")
    for number in range(9):
        (tmp_path / f"data.{number}").touch()
    note = load_images(str(tmp_path)).note
    assert note is not None
    assert note.endswith(", 4 files of other types")
    assert note.count("1 .") == 5


def test_links_are_followed_once_and_never_in_a_loop(tree: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    add(elsewhere / "0.bmp", (9, 9, 9), "grey")
    (tree / "linked").symlink_to(elsewhere)
    (tree / "10_cats" / "again").symlink_to(tree / "10_cats" / "deeper")
    (tree / "10_cats" / "loop").symlink_to(tree)
    (tree / "up").symlink_to(tmp_path)
    (tree / "self").symlink_to(tree / "self")
    assert shown(tree) == {"red": RED, "green": GREEN, "blue": BLUE, "grey": (9, 9, 9)}
    note = load_images(str(tree)).note
    assert note is not None
    assert "3 links to a folder that is already read or contains the source" in note
    assert "1 broken link or special file" in note
    assert len(shown(f"{tree}/*")) == 4


def test_tar_files_and_tables_below_are_read(tmp_path: Path) -> None:
    import tarfile

    add(tmp_path / "a.png", RED, "red")
    (tmp_path / "shards" / "more").mkdir(parents=True)
    for place in ("shards/0.tar", "shards/more/0.tar"):
        with tarfile.open(tmp_path / place, "w") as archive:
            archive.add(tmp_path / "a.png", "a.png")
            archive.add(tmp_path / "a.txt", "a.txt")
        os.utime(tmp_path / place, ns=(0, 0))
    (tmp_path / "shards" / "stats.json").touch()
    images = load_images(str(tmp_path / "shards"))
    assert images.captions == ["red", "red"]
    assert len(set(images.identities)) == 2
    assert images.note == f"{tmp_path / 'shards'}: 2 images, left out: 1 .json file"
    with pytest.raises(ValueError, match="got 1, 2 and 0 of them; keep one kind"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_caption_with_a_nul_character_is_refused_by_name(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / name).write_bytes("a cat".encode("utf-16-le") if name == "a.txt" else b'{"text": "a\\u0000cat"}')
    reason = "the character NUL on line 1.* save the file as UTF-8" if name == "a.txt" else r"the character U\+0000"
    with pytest.raises(ValueError, match=rf"expected a readable caption, got .*{name} .*{reason}"):
        load_images(str(tmp_path))


def test_ambiguous_caption_is_refused_by_name(tmp_path: Path) -> None:
    add(tmp_path / "0.left.png", RED, "left")
    Image.new("RGB", (8, 8)).save(tmp_path / "0.right.png")
    assert load_images(f"{tmp_path}/0.left.png").captions == ["left"]
    (tmp_path / "0.left.txt").rename(tmp_path / "0.txt")
    with pytest.raises(ValueError, match=r"data.images: .*0.left.png: expected one image for 0.txt"):
        load_images(str(tmp_path))
