import codecs

import pytest

from srpo_ray.data.text_files import TextFileError, decode_text, parse_json, split_lines

TEXT = "ein grüner Kreis\n红色的圆 😀"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_marked_text_of_any_unicode_encoding_and_plain_utf_8_are_decoded_without_the_mark(
    mark: bytes, encoding: str
) -> None:
    assert decode_text(mark + TEXT.encode(encoding)) == TEXT
    assert decode_text(mark) == ""


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_without_a_mark_is_refused_with_the_advice_to_save_it_as_utf_8(encoding: str) -> None:
    with pytest.raises(TextFileError, match=r"NUL on line 1, .*; save the file as UTF-8"):
        decode_text("a cat\na dog".encode(encoding))


def test_byte_that_is_no_utf_8_is_named_with_its_line() -> None:
    with pytest.raises(TextFileError, match="byte 0xE9 on line 3; save the file as UTF-8"):
        decode_text(codecs.BOM_UTF8 + "ä\r\nb\rcaf".encode() + b"\xe9\n")
    with pytest.raises(TextFileError, match="byte 0xE9 on line 1;"):
        decode_text("café".encode("latin-1"))
    with pytest.raises(TextFileError, match="NUL on line 2,"):
        decode_text(b"a cat\na \0dog")


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF16_LE + b"a",
        codecs.BOM_UTF16_LE + b"\x00\xd8a\0",
        codecs.BOM_UTF32_LE + b"\x00\xd8\0\0",
        codecs.BOM_UTF16_BE + b"\0\0",
    ],
)
def test_damaged_wide_text_is_refused(content: bytes) -> None:
    with pytest.raises(TextFileError, match="save the file as UTF-8"):
        decode_text(content)


def test_only_line_feeds_and_carriage_returns_end_a_line() -> None:
    inside = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i"
    assert split_lines(f"{inside}\none\r\ntwo\rthree\n\nfive") == [inside, "one", "two", "three", "", "five"]
    assert split_lines("one\r") == ["one"]
    assert split_lines("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "syntax error"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 10_000, "thousands of digits"),
    ],
)
def test_json_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(TextFileError, match=message):
        parse_json(text)
