"""Tar files: concatenated, with links, damaged."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from srpo_ray.data.images import load_images


def image(color: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, target
    return info


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def files(**contents: bytes) -> bytes:
    names = {name.replace("_", "."): content for name, content in contents.items()}
    return packed(*((member(name, content), content) for name, content in names.items()))


def shown(path: Path, content: bytes) -> dict[str, int]:
    path.write_bytes(content)
    images = load_images(str(path))
    assert len(set(images.identities)) == len(images.captions)
    pixels = (images.load(range(len(images.captions)), 8)[:, 0, 4, 4] * 255).round().int().tolist()
    return dict(zip(images.captions, pixels, strict=True))


def test_concatenated_archives_are_read_one_after_the_other(tmp_path: Path) -> None:
    # Equal names in two archives are two samples, so that neither has the caption of the other.
    one, two = files(a_png=image(1), a_txt=b"one"), files(a_txt=b"two", a_png=image(2))
    path = tmp_path / "joined.tar"
    assert shown(path, one + two) == {"one": 1, "two": 2}
    assert shown(path, one + bytes(1 << 21) + two + bytes(100)) == {"one": 1, "two": 2}
    assert load_images(str(path)).note is None


@pytest.mark.parametrize("behind", [b"garbage", bytes(512) + b"\x01" * 512, b"\x1f\x8b" + bytes(600)])
def test_bytes_behind_the_archive_are_refused_with_their_number(tmp_path: Path, behind: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(files(a_png=image(1), a_txt=b"one") + behind)
    with pytest.raises(ValueError, match=rf"a.tar \(after 0 members, {len(behind.lstrip(bytes(1)))} bytes follow"):
        load_images(str(path))


def test_truncated_concatenated_archive_is_refused(tmp_path: Path) -> None:
    one, two = files(a_png=image(1), a_txt=b"one"), files(a_png=image(2), a_txt=b"two")
    for end in (100, 512, 600, 1024, 1536):
        (tmp_path / "a.tar").write_bytes(one + two[:end])
        with pytest.raises(ValueError, match=r"expected a complete, uncompressed tar file, got .*a.tar"):
            load_images(str(tmp_path / "a.tar"))


def test_links_within_the_archive_have_the_data_of_their_targets(tmp_path: Path) -> None:
    first, text = image(7), b"seven"
    content = packed(
        (member("data/0.png", first), first),
        (member("data/0.txt", text), text),
        (member("hard.png", kind=tarfile.LNKTYPE, target="data/0.png"), b""),
        (member("hard.txt", b"hard"), b"hard"),
        (member("sub/soft.png", kind=tarfile.SYMTYPE, target="../hard.png"), b""),
        (member("sub/soft.txt", b"soft"), b"soft"),
        (member("out.png", kind=tarfile.SYMTYPE, target="/etc/passwd"), b""),
        (member("gone.png", kind=tarfile.LNKTYPE, target="nothing.png"), b""),
        (member("circle.png", kind=tarfile.SYMTYPE, target="circle2.png"), b""),
        (member("circle2.png", kind=tarfile.SYMTYPE, target="circle.png"), b""),
        (member("fifo", kind=tarfile.FIFOTYPE), b""),
    )
    assert shown(tmp_path / "a.tar", content) == {"seven": 7, "hard": 7, "soft": 7}
    note = load_images(str(tmp_path / "a.tar")).note
    assert note is not None
    assert note.endswith("3 images, left out: 5 links or special files without data in the archive")


def test_hidden_other_and_replaced_members_are_counted(tmp_path: Path) -> None:
    old, new = image(1), image(2)
    content = packed(
        *((member(name, content), content) for name, content in [("a.png", old), ("a.txt", b"a"), ("a.png", new)]),
        *((member(name), b"") for name in ("._a.png", "__MACOSX/b.png", ".git/x", "a.cls", "b.txt")),
    )
    assert shown(tmp_path / "a.tar", content) == {"a": 2}
    note = load_images(str(tmp_path / "a.tar")).note
    assert note is not None
    for part in ("3 hidden files", "1 .cls file", "1 caption without an image", "1 member replaced by a later one"):
        assert part in note


def with_size(content: bytes, start: int, size: int) -> bytes:
    """An archive of which one header has another size, in GNU's binary form, and the right checksum for it."""
    field = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
    header = content[start : start + 512]
    header = header[:124] + field + header[136:148] + b" " * 8 + header[156:]
    header = header[:148] + f"{sum(header):06o}\0 ".encode() + header[156:]
    return content[:start] + header + content[start + 512 :]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("start", [0, 1024])
@pytest.mark.parametrize("size", [-512, -1024, -1, 2**60])
def test_damaged_size_is_refused_and_never_read_in_a_loop(tmp_path: Path, start: int, size: int) -> None:
    (tmp_path / "a.tar").write_bytes(with_size(files(a_png=image(1), a_txt=b"one"), start, size))
    with pytest.raises(ValueError, match=r"expected a complete, uncompressed tar file, got .*a.tar"):
        load_images(str(tmp_path / "a.tar"))


def test_sparse_member_is_refused_by_name(tmp_path: Path) -> None:
    sparse = member("a.png", image(1), kind=tarfile.GNUTYPE_SPARSE)
    (tmp_path / "a.tar").write_bytes(packed((sparse, image(1))))
    with pytest.raises(ValueError, match=r"member 'a.png' is stored without its zeros"):
        load_images(str(tmp_path / "a.tar"))
