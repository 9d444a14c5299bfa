"""The probe on the small world, whose rewards and images have known meanings."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srpo_ray.config import load_run
from srpo_ray.data.images import load_images
from srpo_ray.evaluation.gallery import save_png
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.words.images import NO_CAPTION, ProbeImages, from_folder, generated
from srpo_ray.words.probe import WordProbe, count_word, parse_words, probe
from srpo_ray.words.readings import correlation, read_words
from tests.conftest import SMALL_WORLD
from tests.unit.words.conftest import WORDS


@pytest.mark.parametrize(
    ("word", "axis", "direction"),
    [
        ("detailed", "truth/detail", 1),
        ("flat", "truth/detail", -1),
        ("vivid", "truth/saturation", 1),
        ("muted", "truth/saturation", -1),
        ("bright", "truth/brightness", 1),
        ("dark", "truth/brightness", -1),
    ],
)
def test_known_words_are_perceived_on_their_own_axis(
    word: str, axis: str, direction: int, small_world_study: WordProbe
) -> None:
    reading = small_world_study.readings[small_world_study.words.index(word)]
    assert (reading.axis, reading.direction) == (axis, direction)
    assert abs(reading.correlations[axis]) > 0.75
    assert reading.cleanness > 0.8


def test_a_word_that_the_reward_was_never_trained_on_comes_last(small_world_study: WordProbe) -> None:
    assert small_world_study.words[-1] == "cyberpunk"
    assert sorted(small_world_study.words) == sorted(WORDS)


def test_readings_cross_talk_and_counts_follow_the_ranking(small_world_study: WordProbe) -> None:
    found = small_world_study
    scores = [reading.score for reading in found.readings]
    assert scores == sorted(scores, reverse=True)
    row = found.words.index("detailed")
    detail = found.probed.attributes["truth/detail"]
    expected = float(correlation(found.differences[row][None], detail[None]))
    assert found.readings[row].correlations["truth/detail"] == pytest.approx(expected)
    assert found.cross_talk[row][found.words.index("textured")] > 0.8
    assert found.cross_talk[row][found.words.index("flat")] < -0.5
    assert found.counts is not None
    assert found.counts[found.words.index("vivid")] == 2
    assert found.counts[found.words.index("flat")] == 1


def test_suggested_sets_are_the_known_opposites(small_world_study: WordProbe) -> None:
    sets = small_world_study.word_sets
    assert sets["saturation"] == {"positive": ["vivid"], "negative": ["muted"]}
    assert sets["brightness"] == {"positive": ["bright"], "negative": ["dark"]}
    assert sets["detail"]["negative"] == ["flat"]


def test_a_pair_is_read_as_the_reward_scores_one_word_against_the_other(
    small_world_study: WordProbe, images: ProbeImages, scorer: LocalRewards
) -> None:
    pair = small_world_study.pairs[0]
    up, down = small_world_study.words[pair.positive], small_world_study.words[pair.negative]
    queries = [TextQuery(((1.0, f"{up}. {text}"), (-1.0, f"{down}. {text}"))) for text in images.captions]
    difference = scorer.measure(images.images, queries, ["preference"])["preference"]
    plain = scorer.measure(images.images, [TextQuery.plain(text) for text in images.captions], ["preference"])
    (reading,) = read_words(difference[None], plain["preference"], images.attributes, images.axes)
    assert reading.strength == pytest.approx(pair.reading.strength, rel=1e-3)
    assert reading.cleanness == pytest.approx(pair.reading.cleanness, rel=1e-3)


def save_folder(folder: Path, images: ProbeImages, count: int) -> Path:
    folder.mkdir()
    pixels = (images.images[:count] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for index, array in enumerate(pixels):
        save_png(Image.fromarray(array), folder / f"{index:03d}.png")
        if index:
            (folder / f"{index:03d}.txt").write_text(images.captions[index] + "\n")
    return folder


def test_a_folder_gives_images_captions_and_image_statistics(tmp_path: Path, images: ProbeImages) -> None:
    found = from_folder(save_folder(tmp_path / "images", images, 10), 64)
    assert found.captions == [NO_CAPTION, *images.captions[1:10]]
    assert torch.allclose(found.images, images.images[:10], atol=0.51 / 255)
    assert set(found.axes) == {
        f"image/{n}" for n in ("saturation", "contrast", "brightness", "high_frequency", "color_cast")
    }


def test_a_folder_is_read_as_training_reads_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn a quarter clockwise to see it upright: the left half goes to the top.
    turned = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    turned.paste((0, 0, 0, 255), (16, 0, 32, 32))
    names = [*"1234567", "below/0"]
    (tmp_path / "below").mkdir()
    for name in names:
        turned.save(tmp_path / f"{name}.png", exif=exif)
        (tmp_path / f"{name}.txt").write_text(f"number {name}", encoding="utf-8-sig")
    (tmp_path / "7.txt").unlink()
    (tmp_path / "7.json").write_text('{"caption": "number 7"}')
    (tmp_path / "._7.png").touch()
    (tmp_path / "6.txt").unlink()
    with pytest.raises(ValueError, match=r"expected at least 8 images of .*below, got 1"):
        from_folder(tmp_path / "below", 32)
    found = from_folder(tmp_path, 32)
    assert sorted(found.captions) == sorted(["a picture", "number below/0", *(f"number {n}" for n in "123457")])
    assert found.source == f"8 images of {tmp_path} (left out: 1 hidden file or folder)"
    trained = load_images(str(tmp_path / "[1-5].png")).load(range(5), 32)
    assert torch.equal(found.images[-7:-2], trained)
    # White above, where it is transparent.
    assert found.images[:, :, :16].min() == 1
    assert found.images[:, :, 16:].max() == 0


def test_a_folder_with_unreadable_files_is_refused_by_name(tmp_path: Path, images: ProbeImages) -> None:
    folder = save_folder(tmp_path / "images", images, 10)
    (folder / "003.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"--images: expected readable images, got 1 of 10 .*003.png"):
        from_folder(folder, 64)
    (folder / "003.txt").write_bytes(b"\xc3(")
    with pytest.raises(ValueError, match=r"--images: expected a readable caption, got .*003.txt"):
        from_folder(folder, 64)


def test_resized_images_of_a_folder_stay_in_their_range(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(10):
        halves = Image.new("RGB", (16, 16))
        halves.paste((255, 255, 255), (4 + index // 2, 0, 16, 16))
        save_png(halves, folder / f"{index}.png")
    found = from_folder(folder, 32)
    assert (found.images.min(), found.images.max()) == (0, 1)


def stand_in(name: str) -> str:
    model = f"{{name: mine, type: python, target: 'tests.helpers.words.stand_in_rewards:{name}'}}"
    return f"rewards.models=[{model}]"


def test_a_reward_of_ones_own_is_read_along_image_statistics_where_no_truth_is_known(
    tmp_path: Path, images: ProbeImages
) -> None:
    folder = save_folder(tmp_path / "images", images, 40)
    config = load_run([SMALL_WORLD], [stand_in("BrightnessReward")])
    found = probe(config, "mine", ["nothing", "dark", "bright"], images=folder)
    assert found.words == ["bright", "dark", "nothing"]
    bright, dark, nothing = found.readings
    assert bright.axis == dark.axis == "image/brightness"
    assert (bright.direction, dark.direction) == (1, -1)
    assert bright.correlations["image/brightness"] == pytest.approx(1, abs=1e-3)
    assert bright.strength == pytest.approx(2 * dark.strength, rel=1e-3)
    assert nothing.score == 0
    assert found.word_sets == {"brightness": {"positive": ["bright"], "negative": ["dark"]}}


def test_a_reward_that_fails_is_named(tmp_path: Path, images: ProbeImages) -> None:
    folder = save_folder(tmp_path / "images", images, 10)
    config = load_run([SMALL_WORLD], [stand_in("BrokenReward")])
    with pytest.raises(RewardError, match=r"'mine' failed .*out of luck"):
        probe(config, "mine", ["dark", "bright"], images=folder)


def test_generated_images_follow_the_evaluation_prompts_and_noise() -> None:
    config = load_run([SMALL_WORLD], ["evaluation.num_prompts=4", "evaluation.num_steps=2"])
    found = generated(config, 8)
    assert found.images.shape == (8, 3, 64, 64)
    assert found.captions[:4] == found.captions[4:]
    assert not torch.equal(found.images[:4], found.images[4:])
    assert found.axes == ["truth/detail", "truth/saturation", "truth/brightness", "truth/vignette"]
    assert torch.equal(found.images, generated(config, 8).images)


def test_generated_images_are_drawn_from_the_conditioning_and_captioned_by_the_prompts(tmp_path: Path) -> None:
    drawn = ["a red circle on a gray background", "a small blue square on a white background"]
    rows = [{"prompt": f"prompt {index}", "conditioning": text} for index, text in enumerate(drawn)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "drawn.txt").write_text("\n".join(drawn))
    own, plain = (
        generated(load_run([SMALL_WORLD], [f"evaluation.prompts={tmp_path / name}", "evaluation.num_steps=2"]), 8)
        for name in ("own.jsonl", "drawn.txt")
    )
    assert torch.equal(own.images, plain.images)
    assert own.captions == ["prompt 0", "prompt 1"] * 4


def test_words_come_from_a_list_or_a_file_without_repeats(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("flat\noil painting\n\nflat\n")
    assert parse_words("flat, oil painting,,flat") == ["flat", "oil painting"]
    assert parse_words(str(tmp_path / "words.txt")) == ["flat", "oil painting"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_words_file_is_read_in_every_encoding_with_any_line_end(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "words.TXT"
    path.write_bytes("detailed\r\nétendu\rflat\n".encode(encoding))
    assert parse_words(str(path)) == ["detailed", "étendu", "flat"]


def test_commas_separate_words_in_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("flat, oil painting\nvivid,\n,flat\n")
    assert parse_words(str(tmp_path / "words.txt")) == ["flat", "oil painting", "vivid"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.txt", "flat\nvivid".encode("utf-16-le"), "save the file as UTF-8"),
        ("words.txt", b"flat\ncaf\xe9", "byte 0xE9 on line 2"),
        ("words.txt", b"flat\t0.5\nvivid\t0.3\n", "expected one word per line, got a tab"),
        ("words.txt", b"flat\n\x1b[1mvivid\n", r"entry 2 \(the character U\+001B"),
        ("words.txt", b"flat\nflat\n", "at least two different words to compare, got flat"),
        ("words.csv", b"word\nflat\nvivid\n", "expected a .txt file with one word per line"),
    ],
)
def test_unusable_words_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        parse_words(str(tmp_path / name))
    assert str(error.value).startswith("--words: ")


def test_words_beyond_the_length_of_a_file_name_are_read() -> None:
    words = [f"word{number}" for number in range(2000)]
    assert parse_words(",".join(words)) == words


@given(content=st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_random_words_files_are_read_or_refused(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        Path(file.name).write_bytes(content)
        try:
            words = parse_words(file.name)
        except ValueError as error:
            # A subclass would be an error of Python's own, such as UnicodeDecodeError.
            words = [str(error), "refused"] if type(error) is ValueError else []
    assert len(set(words)) == len(words) >= 2
    for word in words:
        assert word.strip()
        assert "\0" not in word


def test_counting_finds_whole_words_and_phrases_in_any_case() -> None:
    prompts = ["An oil painting", "OIL PAINTING, dark", "oily paintings", "darkness. dark"]
    assert count_word("oil painting", prompts) == 2
    assert count_word("dark", prompts) == 2
    assert count_word("c++", ["C++ code", "c+"]) == 1


def test_counting_sees_through_accents_and_white_space() -> None:
    assert count_word("caf\u00e9", ["a cafe\u0301 in Paris", "cafe"]) == 1
    assert count_word("cafe", ["a cafe\u0301 in Paris"]) == 0
    assert count_word("oil painting", ["an oil\n painting", "oilpainting"]) == 1


def test_counting_finds_words_of_scripts_without_blanks_between_words() -> None:
    prompts = ["一只红色的猫在草地上", "一只狗", "猫", "赤いネコの絵"]
    assert count_word("猫", prompts) == 2
    assert count_word("红色", prompts) == 1
    assert count_word("ネコ", prompts) == 1
    assert count_word("cat", ["一只cat在", "concat"]) == 1
