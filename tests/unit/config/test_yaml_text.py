"""YAML is read without loss: no key, no text and no number comes out as another one."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_ray.config import ConfigError, RunConfig, load_experiment, load_run, to_yaml
from srpo_ray.config.load import parse_override, validate
from srpo_ray.config.yaml_text import YamlTextError, dump, dump_text, load, load_all
from tests.conftest import ROOT, SMALL_WORLD

LOOKS_LIKE_MORE_THAN_TEXT = [
    *("1e5", "12345e67", "3E-6", "5", "017", "0o17", "0x1F", "1_000", "12:30:00", "2024-01-01", "1.", ".5", "-.5e3"),
    *("yes", "no", "on", "off", "y", "true", "False", "null", "~", "", ".inf", "-.INF", ".nan", "=", "<<", "!x", "&x"),
    *("*x", "- a", "a: b", "a #b", "#", "--- a", "...", " a", "a ", "a\nb", "a\n\n b\n", "\ta", "'a", '"a', "%a", "@a"),
    *("a\x85b", "a\u2028b", "a\r\nb", "\ufeffa", "细节", "😀", "[a", "{a", "? a", "a, b"),
]
printable = st.one_of(
    st.sampled_from(LOOKS_LIKE_MORE_THAN_TEXT),
    st.text(
        st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
        | st.sampled_from("\t\n\r\x85")
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
)
filled = printable.filter(str.strip)
quick = settings(derandomize=True, deadline=None, max_examples=120)


@pytest.mark.parametrize("text", LOOKS_LIKE_MORE_THAN_TEXT)
def test_text_is_written_so_that_every_yaml_reader_takes_it_for_text(text: str) -> None:
    written = dump({text: [text], "inner": {"key": text}})
    assert load(written) == yaml.safe_load(written) == {text: [text], "inner": {"key": text}}
    assert load(dump_text(text)) == text
    assert len(dump_text(text).splitlines()) == 1


@quick
@given(st.dictionaries(printable, printable | st.lists(printable | st.floats() | st.integers() | st.booleans())))
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    read = load(dump(values))
    # JSON tells 1 from 1.0 and True, which Python calls equal, and compares NaN.
    assert json.dumps(read) == json.dumps(values)


@settings(quick, max_examples=50)
@given(
    words=st.lists(filled, min_size=2, max_size=4, unique_by=lambda word: word.strip().casefold()),
    texts=st.lists(filled, min_size=4, max_size=4),
    numbers=st.lists(st.floats(1e-300, 1e300), min_size=2, max_size=2),
    hinge=st.floats(allow_nan=False, allow_infinity=False),
    seed=st.integers(),
)
def test_config_is_read_back_as_it_was_written(
    words: list[str], texts: list[str], numbers: list[float], hinge: float, seed: int
) -> None:
    set_name, prompts, experiment, architecture = texts
    config = RunConfig.model_validate(
        {
            "seed": seed,
            "data": {"prompts": prompts},
            "algorithm": {"hinge": hinge, "control_words": set_name},
            "word_sets": {set_name: {"positive": words[:1], "negative": words[1:]}},
            "rewards": {
                "models": [
                    {"name": "a", "type": "open_clip", "path": "b", "architecture": architecture},
                    {
                        "name": "c",
                        "type": "python",
                        "target": "d:e",
                        "arguments": {"x": prompts, "y": hinge, "z": seed},
                    },
                ]
            },
            "training": {"optimizer": {"lr": numbers[0], "eps": numbers[1]}},
            "tracking": {"experiment": experiment},
        }
    )
    assert validate(RunConfig, load(to_yaml(config)), "written") == config


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *((word, word) for word in ("on", "no", "y", "1_000", "12:30:00", "2024-01-01", "0b11", "=", "0o8", "1e5.0")),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("017", 17), ("0o17", 15)),
        *(("0x1F", 31), ("+12", 12), ("1e5", 1e5), ("3E-6", 3e-6), ("-.5", -0.5), ("1.", 1.0), (".inf", math.inf)),
        *(("'1e5'", "1e5"), ('"a\\n"', "a\n"), ("!!str 5", "5"), ("!!int 5", 5)),
    ],
)
def test_scalars_are_those_of_the_core_schema_of_yaml_1_2(written: str, read: object) -> None:
    found = load(f"key: {written}")["key"]
    assert (type(found), found) == (type(read), read)


@pytest.mark.parametrize(
    "written", ["!!int x", "!!timestamp 2024-01-01", "!!binary eA==", "!!bool yes", "9" * 5000, "&a [*b]"]
)
def test_value_that_is_none_is_refused_with_its_location(written: str) -> None:
    with pytest.raises(YamlTextError, match=r"(?s)expected YAML, got a syntax error; correct it:.*line 1"):
        load(f"key: {written}")


def test_bytes_may_be_utf_8_or_utf_16() -> None:
    assert load("key: läufe".encode()) == load("key: läufe".encode("utf-16")) == {"key": "läufe"}
    with pytest.raises(YamlTextError, match="invalid start byte"):
        load(b"key: \xff")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {num_updates: 500}\nseed: 1\ntraining: {num_updates: 40}", "got `training` in lines 1 and 3"),
        ("training:\n  batch_size: 8\n  seed: 1\n  batch_size: 4", "got `batch_size` in lines 2 and 4"),
        ("rewards:\n  models:\n    - {name: a, weight: 1,\n       weight: 2}", "got `weight` in lines 3 and 4"),
        ("a: {b: 1, b: 2}", "got `b` twice in line 1"),
        ("a: 1\n'a': 2", "got `a` in lines 1 and 2"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", "got `<<` in lines 3 and 4"),
        ("1: x", 'line 1: expected a key that is text, got `1`, .* write "1"'),
        ("a: 2\nnull: x", "line 2: expected a key that is text, got `null`"),
        ("1e5: x", "expected a key that is text, got `1e5`"),
        ("? [a, b]\n: c", "expected a key that is text, got a list or a mapping"),
    ],
)
def test_key_that_stands_twice_or_is_no_text_is_refused_with_its_lines(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text(text)
    for read in (lambda path: load_run([SMALL_WORLD, path]), load_experiment):
        with pytest.raises(ConfigError, match=rf"twice\.yaml: .*{message}"):
            read(tmp_path / "twice.yaml")
    with pytest.raises(YamlTextError, match=message):
        load_all(f"a: 1\n---\n{text}".replace("a: 1\n---\n", "", 1))


def test_key_may_replace_one_of_a_merged_section() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b\n  <<: *a\n  x: 2\nc:\n  <<: *b\n  y: 3\nd: {<<: [*b, *a], z: 4}\n"
    read = load(text)
    assert read == yaml.safe_load(text)
    assert (read["b"], read["c"]) == ({"x": 2, "y": 1}, {"x": 2, "y": 3})


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster/gcp.yaml", "cluster/kuberay.yaml"])
def test_cluster_files_are_read_as_ray_reads_them(name: str) -> None:
    content = (ROOT / name).read_text()
    assert load_all(content) == list(yaml.safe_load_all(content))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("name=a #b", r"name: expected no comment, got 'a #b', .* such as \"a #b\""),
        ("name=#b", "expected no comment"),
        ("a=[1, # one\n 2]", "expected no comment"),
        ("a={b: 1, b: 2}", "a: expected each key once in a section, got `b` twice in line 1"),
        ("a={1: 2}", "expected a key that is text"),
        ("name=--- a", "would drop a part"),
        ("name=a\n...", "would drop a part"),
        ("name=&x y", "would drop a part"),
        ("data.prompts=a\nb", r"would drop a part; .* such as \"a\\nb\""),
        ('data.prompts="a\nb"', "would drop a part"),
        ("name=@a", "expected YAML"),
    ],
)
def test_argument_of_which_yaml_would_drop_a_part_is_refused(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        parse_override(argument)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("a=http://x/#frag", "http://x/#frag"),
        ("a='b #c'", "b #c"),
        ('a="b #c"', "b #c"),
        ("a=b#c", "b#c"),
        ("a=[b#c, 'd #e']", ["b#c", "d #e"]),
        ("a=on", "on"),
        ("a=2024-01-01", "2024-01-01"),
        ("a=", None),
    ],
)
def test_argument_is_kept_as_it_was_written(argument: str, value: object) -> None:
    assert parse_override(argument) == ("a", value)


def test_later_argument_for_the_same_key_wins() -> None:
    assert load_run([SMALL_WORLD], ["seed=1", "name=a", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=1e5", r"name: expected text, got the number 100000.0, .* quote it, such as '1e5'"),
        ("name=12345e67", r"name: expected text, got the number 1.2345e\+71"),
        ("name=true", r"name: expected text, got the truth value True"),
        ("evaluation.held_out=[{name: j, type: python, target: null}]", r"target: expected text, got null"),
        (
            "word_sets={x: {positive: [a, 1e5], negative: [b]}}",
            r"word_sets.x.positive.1: expected text, got the number",
        ),
    ],
)
def test_number_where_a_text_belongs_is_refused_with_the_cure(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run([SMALL_WORLD], [override])


def test_only_the_value_that_is_wrong_in_a_list_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_run([SMALL_WORLD], ["word_sets={x: {positive: [1e5], negative: [b]}}"])
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize("text", ["a\0b", "a\x07", "\x7f", "\ufffe", "\x9f"])
def test_control_character_is_refused_in_every_text(text: str) -> None:
    message = rf"expected text without control characters, got .* U\+{ord(text.strip('ab')):04X}"
    quoted = json.dumps(text)
    for override in (
        f"run_root={quoted}",
        f"word_sets={{x: {{positive: [{quoted}], negative: [b]}}}}",
        f"word_sets={{{quoted}: {{positive: [a], negative: [b]}}}}",
    ):
        with pytest.raises(ConfigError, match=message):
            load_run([SMALL_WORLD], [override])


@pytest.mark.parametrize("override", [r'run_root="\ud800"', r'word_sets={"\ud800": {positive: [a], negative: [b]}}'])
def test_half_of_a_surrogate_pair_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"valid string|control characters"):
        load_run([SMALL_WORLD], [override])
