"""Tar files of Pick-a-Pic's webdataset mirror: samples, incomplete ones, repeated keys, damage, the converted file."""

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.data.pair_files import convert
from srpo_ray.data.pair_rows import Pair
from srpo_ray.data.pair_sets import PAIR_SETS, read_set
from srpo_ray.data.pairs import load_judged
from tests.helpers.red_jpeg import jpeg

MEMBERS = ("jpg_0.jpg", "jpg_1.jpg", "label_0.txt", "label_1.txt", "original_prompt.txt")
"""Members of a sample in the order in which webdataset writes them."""
Members = list[tuple[str, bytes]]


def sample(key: str, first: int, second: int, label: float = 1.0, caption: str = "a circle") -> Members:
    contents = (jpeg(first), jpeg(second), str(label).encode(), str(1 - label).encode(), caption.encode())
    return [(f"{key}.{name}", content) for name, content in zip(MEMBERS, contents, strict=True)]


def changed(members: Members, **contents: bytes | None) -> Members:
    """A sample with other contents of some members, named without their suffix; None drops one."""
    given = {name.split(".", 1)[1].rsplit(".", 1)[0]: (name, content) for name, content in members}
    named = [(name, contents.get(part, content)) for part, (name, content) in given.items()]
    return [(name, content) for name, content in named if content is not None]


def packed(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write(path: Path, *samples: Members) -> Path:
    path.write_bytes(packed([member for members in samples for member in members]))
    return path


def read(*files: Path) -> tuple[list[tuple[bytes | None, bytes | None, str]], dict[str, int]]:
    """Content of the preferred and the other image of each pair with its caption, and the counts of left out rows."""
    left_out: Counter[str] = Counter()
    pairs = [pair for pair in read_set(PAIR_SETS["pick_a_pic"], files, left_out) if isinstance(pair, Pair)]
    assert {image.name for pair in pairs for image in pair.images} <= {None}
    return [(pair.preferred.content, pair.other.content, pair.prompt) for pair in pairs], dict(left_out)


def test_sample_is_the_part_before_the_first_dot_and_keys_repeat_in_other_shards(tmp_path: Path) -> None:
    one = write(tmp_path / "00000.tar", sample("0", 10, 20), sample("1", 30, 40, 0.0, "a square"))
    two = write(tmp_path / "00001.tar", sample("0", 50, 60, 0.25, " v1.5 photo "))
    expected = [(10, 20, "a circle"), (40, 30, "a square"), (60, 50, "v1.5 photo")]
    assert read(one, two) == ([(jpeg(first), jpeg(second), caption) for first, second, caption in expected], {})


def test_members_of_a_sample_may_be_in_any_order_in_folders_and_in_capitals(tmp_path: Path) -> None:
    first = [(f"./v1.0/{name}", content) for name, content in reversed(sample("a b", 10, 20))]
    second = [(f"./v1.0/{name.upper()}", content) for name, content in sample("1", 30, 40)]
    folder = tarfile.TarInfo("./v1.0")
    folder.type = tarfile.DIRTYPE
    path = tmp_path / "a.tar"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(folder)
    header = buffer.getvalue()[: tarfile.BLOCKSIZE]
    path.write_bytes(header + packed([first[0], ("./v1.0/._a b.jpg_0.jpg", b"hidden"), *first[1:], *second]))
    assert read(path) == ([(jpeg(10), jpeg(20), "a circle"), (jpeg(30), jpeg(40), "a circle")], {})


def test_incomplete_samples_are_counted_with_their_missing_members(tmp_path: Path) -> None:
    whole = sample("4", 10, 20)
    file = write(
        tmp_path / "a.tar",
        changed(sample("0", 10, 20), jpg_1=None),
        changed(sample("1", 10, 20), label_0=None, original_prompt=None),
        changed(sample("2", 10, 20), jpg_1=None),
        # A file of another name is no sample.
        [("README.md", b"text")],
        # Other samples between the members of one: neither part is complete.
        [*whole[:3], *sample("5", 30, 40), *whole[3:]],
    )
    pairs, left_out = read(file)
    assert pairs == [(jpeg(30), jpeg(40), "a circle")]
    assert left_out == {
        "without jpg_1.jpg": 2,
        "without original_prompt.txt, label_0.txt": 1,
        "without original_prompt.txt, label_1.txt": 1,
        "without jpg_0.jpg, jpg_1.jpg, label_0.txt": 1,
    }


def test_link_has_no_data_and_leaves_its_sample_incomplete(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("7.jpg_1.jpg", "0.jpg_1.jpg"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "../1.jpg"
            archive.addfile(link)
    headers = buffer.getvalue()[: 2 * tarfile.BLOCKSIZE]
    path = tmp_path / "a.tar"
    path.write_bytes(headers + packed([*changed(sample("0", 10, 20), jpg_1=None), *sample("1", 30, 40)]))
    nothing = "without original_prompt.txt, jpg_0.jpg, jpg_1.jpg, label_0.txt, label_1.txt"
    assert read(path) == ([(jpeg(30), jpeg(40), "a circle")], {"without jpg_1.jpg": 1, nothing: 1})


def test_samples_without_a_preferred_image_or_caption_are_counted_by_reason(tmp_path: Path) -> None:
    def labels(key: str, first: bytes, second: bytes) -> Members:
        return changed(sample(key, 10, 20), label_0=first, label_1=second)

    file = write(
        tmp_path / "a.tar",
        sample("0", 10, 20, 0.5),
        sample("1", 10, 10),
        labels("2", b"None", b"None"),
        labels("3", b"1.0", b"1.0"),
        labels("4", b"nan", b"0.0"),
        labels("5", b"best", b"0.0"),
        labels("6", b"\xff", b"0.0"),
        sample("7", 10, 20, caption=" "),
        changed(sample("8", 10, 20), original_prompt=b"\xff\xfe\xfd"),
        changed(sample("9", 10, 20), jpg_0=b""),
        labels("10", b" 1\n", b"0"),
    )
    pairs, left_out = read(file)
    assert pairs == [(jpeg(10), jpeg(20), "a circle")]
    assert left_out == {
        "ties": 1,
        "with the same image twice": 1,
        "without a label": 1,
        "with labels that do not add up to 1": 1,
        "with a label outside [0, 1]": 3,
        "without a caption": 1,
        "with a caption that is no text": 1,
        "without the bytes of an image": 1,
    }


@pytest.mark.parametrize("joined", ["cat", "tar -A"])
def test_repeated_key_of_joined_shards_is_another_sample(tmp_path: Path, joined: str) -> None:
    shards = [sample("0", 10, 20), sample("1", 30, 40)], [sample("0", 50, 60)], [sample("0", 70, 80)]
    contents = [[member for members in samples for member in members] for samples in shards]
    file = tmp_path / "a.tar"
    file.write_bytes(
        b"".join(map(packed, contents)) if joined == "cat" else packed([*contents[0], *contents[1], *contents[2]])
    )
    pairs, left_out = read(file)
    assert pairs == [(jpeg(red), jpeg(red + 10), "a circle") for red in (10, 30, 50, 70)]
    assert not left_out


REPEATED = "with a repeated key and a missing member"


@pytest.mark.parametrize("member", ["jpg_0", "jpg_1", "label_0", "label_1", "original_prompt"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_incomplete_sample_beside_others_of_its_key_makes_no_pair_with_their_members(
    tmp_path: Path, member: str, place: int
) -> None:
    samples = [sample("0", red, red + 5, caption=f"{red}") for red in (10, 20, 30)]
    samples[place] = changed(samples[place], **{member: None})
    file = write(tmp_path / "a.tar", *samples, sample("1", 40, 50))
    assert read(file) == ([(jpeg(40), jpeg(50), "a circle")], {REPEATED: 3})


def sparse(content: bytes) -> bytes:
    """A tar file whose first member has GNU tar's type of sparse files, with one part of data."""
    header = bytearray(content[: tarfile.BLOCKSIZE])
    size = header[124:136]
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[257:265] = tarfile.GNU_MAGIC
    header[386:410] = b"00000000000\0" + size
    header[483:495] = size
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + content[tarfile.BLOCKSIZE :]


GOOD = packed([*sample("0", 10, 20), *sample("1", 30, 40)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:1536], "; decompress it or copy it again; name another file"),
        (gzip.compress(GOOD), "; decompress it or copy it again; name another file"),
        (b"", "no complete, uncompressed tar file"),
        (packed([("0.png", jpeg(1)), ("0.txt", b"a circle")]), "a tar file without original_prompt.txt, jpg_0.jpg, "),
        (packed(changed(sample("0", 1, 2), label_1=None)), "a tar file without label_1.txt;"),
        (packed([]), "a tar file without original_prompt.txt"),
        (sparse(GOOD), "member '0.jpg_0.jpg', which is stored without its zeros; pack without --sparse; name another"),
    ],
    ids=["truncated", "compressed", "empty", "other", "unlabelled", "without members", "sparse"],
)
def test_damaged_or_other_tar_file_is_refused_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    good, bad = tmp_path / "good.tar", tmp_path / "bad.tar"
    good.write_bytes(GOOD)
    bad.write_bytes(content)
    command = ["pairs", str(good), str(bad), "--set", "pick_a_pic", "--to", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{bad}: expected Pick-a-Pic" in error
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_compressed_tar_file_by_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(GOOD))
    with pytest.raises(ValueError, match=r"expected .parquet or .tar files with --set pick_a_pic, got .*a.tar.gz"):
        convert(PAIR_SETS["pick_a_pic"], [tmp_path / "a.tar.gz"], tmp_path / "out")


def test_converted_tar_files_are_read_as_pairs_with_equal_bytes_as_one_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "00000.tar", sample("0", 10, 120), sample("1", 10, 240, 0.0, "a square"))
    two = write(tmp_path / "00001.tar", changed(sample("0", 10, 20), jpg_1=b"no image"), sample("1", 10, 120))
    out = tmp_path / "out"
    command = ["pairs", str(one), str(two), "--set", "pick_a_pic", "--to", str(out), "--confidence"]
    assert main(command) == 0
    reasons = "1 with bytes that are no image of JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF"
    weight = "no row states 1 / num_example_per_prompt, so no confidence is written"
    counts = f"3 pairs of 3 images, 1 repeat an earlier row, left out: {reasons}; {weight}\n"
    assert capsys.readouterr().out.endswith(counts)
    judged = load_judged(str(out / "pairs.jsonl"), "pairs")
    assert judged.captions == ["a circle", "a square", "a circle"]
    assert [row.images for row in judged.rows] == [(0, 1), (2, 0), (0, 1)]
    reds = (judged.images.load([0, 1, 2], 16)[:, 0, 0, 0] * 255).tolist()
    assert reds == pytest.approx([10, 120, 240], abs=2)
    assert sorted(file.read_bytes() for file in (out / "images").iterdir()) == sorted(map(jpeg, (10, 120, 240)))
