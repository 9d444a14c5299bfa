"""Tables of the contrast experiment, from scores that are made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from srpo_ray.config import load_experiment
from srpo_ray.inference.job import guided_name
from tests.conftest import ROOT


def scores_of(
    detail: dict[str, float], content: dict[str, float], columns: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Scores of four prompts that differ, with the given means; other metrics are 0."""
    spread = np.array([-0.3, -0.1, 0.1, 0.3])
    return {
        model: {
            metric: (detail[model] if metric == columns[0] else content[model] if metric == columns[3] else 0.0)
            + spread
            for metric in columns
        }
        for model in detail
    }


def test_changes_at_an_equal_gain_lie_on_the_line_between_two_weights(script) -> None:
    module = script("contrast")
    columns = list(module.WORDS.columns)
    names = ["base", "tuned", "rl_guidance_1.5", "rl_guidance_2", "rl_guidance_3"]
    detail = dict(zip(names, (0.1, 0.3, 0.5, 0.9, 0.8), strict=True))
    content = dict(zip(names, (0.9, 0.8, 0.7, 0.3, 0.0), strict=True))
    scores = scores_of(detail, content, columns)
    assert module.gains(module.WORDS, scores, "base model") == pytest.approx([0.2, 0.4, 0.8, 0.7])
    found = module.at_gain(module.WORDS, scores, "base model", 0.6)
    # Half of the way from weight 1.5 to weight 2: detail 0.7, content 0.5.
    assert found[columns[0]] == pytest.approx([0.6] * 4)
    assert found[columns[3]] == pytest.approx([-0.4] * 4)


def test_gain_of_the_tuned_model_itself_is_its_change(script) -> None:
    module = script("contrast")
    columns = list(module.WORDS.columns)
    names = ["base", "tuned", "contrast_1.25", "contrast_1.5", "contrast_2"]
    values = dict(zip(names, (0.0, 0.25, 0.5, 0.75, 1.0), strict=True))
    found = module.at_gain(module.WORDS, scores_of(values, values, columns), "reversed run", 0.25)
    assert found[columns[0]] == pytest.approx([0.25] * 4)


def test_configs_of_both_runs_differ_in_the_side_of_the_words_only(script, tmp_path) -> None:
    module = script("contrast")
    ours, theirs = (module.run_config(tmp_path, "name", words, 1) for words in ("detailed", "flat"))
    assert ours.trained_words.positive == theirs.trained_words.negative
    assert ours.trained_words.negative == theirs.trained_words.positive
    assert ours.training == theirs.training


def test_sources_are_compared_at_the_largest_gain_that_all_reach_or_said_to_have_none(script) -> None:
    module = script("contrast")
    columns = list(module.WORDS.columns)
    growing = (0.0, 1.0, 2.0, 3.0, 4.0)
    base = dict(zip(["base", "tuned", "rl_guidance_1.5", "rl_guidance_2", "rl_guidance_3"], growing, strict=True))

    def titles(reversed_run: list[float]) -> list[str]:
        other = dict(zip(["base", "tuned", "contrast_1.25", "contrast_1.5", "contrast_2"], reversed_run, strict=True))
        scores = {"base model": scores_of(base, base, columns), "reversed run": scores_of(other, other, columns)}
        return [row.split(" | ")[0] for row in module.equal_gain_table(module.WORDS, [scores])]

    names = ["| base model", "| reversed run", "| reversed run - base model"]
    found = titles([0.0, 0.5, 1.0, 2.5, 2.0])
    assert found[0] == "| at a gain of detail of 2.500"
    assert found[2:] == names
    # The largest gain of one source is that of its tuned model, at which the other source begins.
    assert titles([0.0, 1.0, 0.5, 0.25, 0.1])[0] == "| at a gain of detail of 1.000"
    assert titles([0.0, 0.1, 0.2, 0.3, 0.4]) == [
        "No gain is common to all: one goes up to +0.400, another begins at +1.000."
    ]


def test_source_that_is_not_compared_has_weights_and_no_row_at_equal_gain(script) -> None:
    module = script("contrast")
    columns = list(module.WORDS.columns)
    falling = replace(module.WORDS.sources["reversed run"], compared=False)
    study = replace(module.WORDS, sources={**module.WORDS.sources, "falling": falling})
    scores = {
        name: scores_of(values, values, columns)
        for name, source in study.sources.items()
        for growth in [-1.0 if name == "falling" else 1.0]
        for values in [{model: growth * step for step, model in enumerate(["base", *source.models])}]
    }
    found = [row.split(" | ")[0] for row in module.equal_gain_table(study, [scores])]
    assert found[0] == "| at a gain of detail of 4.000"
    assert not [row for row in found if "falling" in row]
    assert len([row for row in module.weights_table(study, [scores]) if row.startswith("| falling |")]) == 4


def test_pairs_sample_chats_with_its_text_under_the_names_that_evaluate_gives(
    script, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("contrast")
    monkeypatch.setattr(module, "path_of", lambda _study, runs, name, seed: runs / f"{name}_{seed}")
    monkeypatch.setattr(module, "folder", lambda *_: tmp_path / "out")
    monkeypatch.setattr(module, "open_run", lambda path: path)
    given: list[dict] = []
    monkeypatch.setattr(module, "evaluate_run", lambda *_, **options: given.append(options))
    for name in ("CHATS, preferred model_1", "CHATS, disliked model_1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "finished.json").write_text("{}")
    texts = {"CHATS, both models": 1.0, "CHATS, both models and its text": -0.5}
    for title, text in texts.items():
        module.sample(module.PAIRS, tmp_path, 1, title)
        other = given[-1]["contrast_with"]
        assert other == tmp_path / "CHATS, disliked model_1"
        assert given[-1]["contrast_text"] == text
        names = [guided_name(weight, other, text) for weight in given[-1]["rl_guidance"]]
        assert module.PAIRS.sources[title].models == ["tuned", *names]
    assert len({module.PAIRS.sources[title].models[-1] for title in texts}) == 2


def test_sources_of_pairs_are_arms_of_the_laboratory(script) -> None:
    module = script("contrast")
    file = ROOT / "configs" / "experiments" / "laboratory" / "contrast_pairs.yaml"
    arms = {arm.name for arm in load_experiment(file)[0].arms}
    named = {run for source in module.PAIRS.sources.values() for run in (source.run, source.other) if run}
    assert named == arms
