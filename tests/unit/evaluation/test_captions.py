import importlib.util
import random
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from srpo_ray.evaluation import captions
from srpo_ray.evaluation.captions import FONT_SIZE, caption_lines, default_font, fit_lines, installed_fonts
from srpo_ray.evaluation.gallery import before_after, image_grid

found = importlib.util.find_spec("matplotlib")
assert found
assert found.origin
FONTS = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
DEJAVU, SYMBOLS, ANY = (FONTS / name for name in ("DejaVuSans.ttf", "cmsy10.ttf", "LastResortHE-Regular.ttf"))
CAPTION = (192, 36)


class CountingFont:
    """Ten pixels a character; counts the characters that are measured."""

    def __init__(self) -> None:
        self.measured = 0

    def getlength(self, text: str) -> float:
        self.measured += len(text)
        return 10 * len(text)

    def getmask(self, text: str) -> object:
        return Image.new("L", (1, 1), 1 if text == "\uffff" else 2).im


def cut_letter_by_letter(text: str, width: int) -> list[str]:
    """Two lines as they are defined: words while they fit, then letters taken off until the dots fit."""
    measure = default_font().getlength
    first, *rest = text.split() or [""]
    while rest and measure(f"{first} {rest[0]}") <= width:
        first += f" {rest.pop(0)}"
    lines = [first, " ".join(rest)] if measure(first) <= width else [" ".join([first, *rest])]
    for index, line in enumerate(lines):
        if measure(line) > width:
            while line and measure(f"{line}...") > width:
                line = line[:-1]
            lines[index] = f"{line.rstrip()}..."
    return [line for line in lines if line]


def test_lines_contain_the_most_words_and_letters_that_fit() -> None:
    rng = random.Random(3)
    for alphabet in ("".join(map(chr, range(32, 127))), "AVTo. ", "il'. "):
        for _ in range(40):
            text = "".join(rng.choices(alphabet, k=rng.randrange(120)))
            width = rng.choice([40, 192, 388])
            assert fit_lines(text, default_font().getlength, width, 2) == cut_letter_by_letter(text, width)


@pytest.mark.parametrize("words", ["a long and winding prompt ", "x"])
def test_as_few_characters_of_a_huge_text_are_measured_as_of_a_long_one(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    counts = []
    for length in (4000, 100_000):
        font = CountingFont()
        monkeypatch.setattr(captions, "default_font", lambda font=font: font)
        lines, _ = caption_lines((words * length)[:length], 516, 2, files=[])
        assert max(map(len, lines)) <= 51
        assert lines[-1].endswith("...")
        counts.append(font.measured)
    assert counts[0] == counts[1] < 6 * 516


def test_text_that_is_cut_unmeasured_ends_in_dots_even_if_its_characters_have_no_width() -> None:
    assert fit_lines("a" * 10, lambda text: 10 * len(text), 100, 2) == ["a" * 10]
    lines, _ = caption_lines("e" + "\u0301" * 1000, 100, 2, files=[DEJAVU])
    assert lines[-1].endswith("...")


def test_text_of_ascii_is_drawn_with_the_font_of_pillow_whatever_fonts_there_are() -> None:
    text = "".join(map(chr, range(33, 127)))
    assert caption_lines(text, 2000, 2, files=[DEJAVU]) == ([text], default_font())
    image = image_grid(torch.zeros(1, 3, 192, 192), [f'A cat, sitting "{text[:8]}"'], 1, 1.0)
    drawn = Image.new("RGB", CAPTION, "#ffffff")
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(drawn).text((0, 0), f'A cat, sitting "{text[:8]}"', fill="#1f2328", font=font)
    assert image.crop((12, 12 + 192 + 4, 12 + 192, 12 + 192 + 4 + 36)).tobytes() == drawn.tobytes()


@pytest.mark.parametrize("text", ["ein grüner Kreis", "красный круг", "دائرة حمراء", "a — b", "한 א Ω ≤"])
def test_first_font_with_all_characters_is_taken(text: str) -> None:
    files = [DEJAVU, ANY] if "한" not in text else [SYMBOLS, DEJAVU, ANY]
    lines, font = caption_lines(text, 1000, 2, files=files)
    assert lines == [text]
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.path == str(ANY if "한" in text else DEJAVU)


def test_characters_that_no_font_has_are_escaped() -> None:
    lines, font = caption_lines("grün 猫 \ud800\x1b हि", 1000, 2, files=[DEJAVU])
    assert lines == ["(no font) grün \\u732b \\ud800\\x1b \\u0939\\u093f"]
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.path == str(DEJAVU)
    assert caption_lines("a 猫", 1000, 2, files=[]) == (["(no font) a \\u732b"], default_font())


def test_files_that_are_no_fonts_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(DEJAVU.read_bytes()[:100])
    lines, font = caption_lines("é", 1000, 2, files=[tmp_path / "none.ttf", tmp_path / "broken.ttf", DEJAVU])
    assert lines == ["é"]
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.path == str(DEJAVU)


def test_captions_and_labels_show_escapes_where_the_machine_has_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "installed_fonts", lambda: ())
    images = torch.ones(1, 3, 192, 192)
    assert image_grid(images, ["猫"], 1, 1.0) == image_grid(images, ["(no font) \\u732b"], 1, 1.0)
    assert before_after(images, images, ["猫"]) == before_after(images, images, ["(no font) \\u732b"])
    assert image_grid(images, ["猫"], 1, 1.0) != image_grid(images, ["狗"], 1, 1.0)


def test_fonts_of_the_machine_begin_with_one_of_many_scripts() -> None:
    assert installed_fonts()[0] == DEJAVU


def test_caption_names_the_text_of_the_model_only_if_it_is_another_one() -> None:
    assert captions.caption_of_row("a cat", "a cat") == "a cat"
    assert captions.caption_of_row("a cat", "A fluffy cat.") == "a cat (model: A fluffy cat.)"
