"""An evaluation that could only confirm the training is refused, or noted at the start."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.config import ConfigError, load_experiment, load_run
from tests.conftest import ROOT, SMALL_WORLD

HUB = "hf-hub:org/clip/model.pt"


def load_with(trained: str, held_out: str) -> None:
    plain = ["algorithm.type=refl", "evaluation.hacking.action=warn"]
    load_run([SMALL_WORLD], [*plain, f"rewards.models=[{trained}]", f"evaluation.held_out=[{held_out}]"])


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        ("type: open_clip, path: a/b", "type: open_clip, path: a/b"),
        ("type: open_clip, path: a/b, weight: 2", "type: open_clip, path: ./a/../a//b, scale: 100, fit: pad"),
        ("type: open_clip, path: real", "type: open_clip, path: link"),
        ("type: open_clip, path: real", "type: open_clip, path: local-dir:real/"),
        ("type: open_clip, path: hf-hub:Org/Clip", "type: open_clip, path: hf-hub:org/clip"),
        ("type: open_clip, path: 'small_world:preference'", "type: open_clip, path: 'small_world:preference'"),
        (f"type: open_clip, path: '{HUB}', architecture: A", f"type: open_clip, path: '{HUB}', architecture: A"),
        (
            f"type: open_clip, path: copy.pt, architecture: A, sha256: {'a' * 64}",
            f"type: open_clip, path: '{HUB}', architecture: A, sha256: {'a' * 64}",
        ),
        ("type: transformers_clip, path: a/b", "type: transformers_clip, path: a/b, logit_scale: true, tokenizer: c/d"),
        ("type: image_reward", "type: image_reward, tokenizer: other/bert"),
        ("type: aesthetic, path: h.pt, backbone: o/c", "type: aesthetic, path: ./h.pt, backbone: o/c"),
        ("type: python, target: 'a:B', arguments: {x: 1}", "type: python, target: 'a:B', arguments: {x: 1}"),
    ],
)
def test_trained_checkpoint_is_refused_as_held_out_under_another_name(
    trained: str, held_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(ConfigError, match=r"not trained on, got 'other', which is the trained model 'own'"):
        load_with(f"{{name: own, {trained}}}", f"{{name: other, {held_out}}}")


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        ("type: open_clip, path: a/b", "type: open_clip, path: a/c"),
        ("type: open_clip, path: a/b", "type: transformers_clip, path: a/b"),
        (f"type: open_clip, path: '{HUB}', architecture: A", f"type: open_clip, path: '{HUB}', architecture: B"),
        ("type: open_clip, path: real", "type: open_clip, path: Real"),
        ("type: aesthetic, path: h.pt, backbone: o/c", "type: aesthetic, path: h.pt, backbone: o/d"),
        ("type: python, target: 'a:B', arguments: {x: 1}", "type: python, target: 'a:B', arguments: {x: 2}"),
    ],
)
def test_another_checkpoint_is_taken_as_held_out(
    trained: str, held_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("real", "Real"):
        (tmp_path / name).mkdir()
    load_with(f"{{name: own, {trained}}}", f"{{name: other, {held_out}}}")


@pytest.mark.parametrize("objective", ["reward/total", "reward/total/trained", "reward/preference"])
def test_training_reward_is_no_objective(objective: str) -> None:
    message = rf"objective: expected a score that no run is trained to raise, .* got '{objective}'"
    with pytest.raises(ConfigError, match=message):
        load_experiment(ROOT / "configs/experiments/small_world_sweep.yaml", [f"experiment.objective={objective}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"positive": ["vivid", "Bright"], "negative": ["bright ", "dim"]}, "share no word, got 'bright' in both"),
        ({"positive": ["vivid", " "], "negative": ["dim"]}, "got an empty one"),
        ({"positive": ["vivid", "."], "negative": ["dim"]}, "got an empty one"),
        ({"positive": ["Highly  Detailed"], "negative": ["highly detailed."]}, "share no word, got 'highly detailed'"),
        ({"positive": ["oil, "], "negative": ["flat", "\uff2f\uff29\uff2c"]}, "share no word, got 'oil' in both"),
    ],
)
def test_word_set_without_a_difference_is_refused(words: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(yaml.safe_dump({"word_sets": {"mine": words}}))
    with pytest.raises(ConfigError, match=rf"word_sets.mine: expected .*{message}"):
        load_run([SMALL_WORLD, tmp_path / "words.yaml"])


@pytest.mark.parametrize("negative", ["detailed ", "detailed.", "DETAILED !"])
def test_relative_words_that_differ_in_spelling_only_are_refused(negative: str) -> None:
    with pytest.raises(ConfigError, match="two different words, got 'Detailed'"):
        load_run([SMALL_WORLD], [f"evaluation.relative={{positive: Detailed, negative: '{negative}'}}"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["choose=best", "objective=reward/total"], "objective: expected a score that no run is trained to raise"),
        (["choose=best", "objective=Reward/preference"], "objective: expected a score that no run is trained to raise"),
        (
            ["choose=best", "objective=evaluator/other"],
            r"evaluation.held_out \(evaluator/held_out\), got",
        ),
        (["choose=best", "held_out=[]"], "expected a model in held_out or an objective with choose: best, got neither"),
        (["objective=evaluator/held_out"], "expected no objective with choose: last, got 'evaluator/held_out'"),
        (
            ["choose=best", "objective=evaluator/held_out/relative", "relative=null"],
            "expected evaluation.relative with 'evaluator/held_out/relative', got none",
        ),
    ],
)
def test_choice_of_weights_by_nothing_or_by_the_training_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run([SMALL_WORLD], [f"evaluation.{change}" for change in changes])


def test_test_has_prompts_noise_and_images_of_its_own_and_the_other_settings_of_the_evaluation() -> None:
    test = "evaluation.test={prompts: mine.txt, num_prompts: 3, samples_per_prompt: 5, seed: 6}"
    config = load_run([SMALL_WORLD], [test, "evaluation.num_steps=7", "evaluation.num_prompts=9"]).evaluation
    tested = config.tested
    assert tested is not None
    assert (tested.prompts, tested.num_prompts, tested.samples_per_prompt, tested.seed) == ("mine.txt", 3, 5, 6)
    assert (tested.num_steps, tested.held_out, tested.relative) == (7, config.held_out, config.relative)
    assert load_run([SMALL_WORLD], ["evaluation.test=null"]).evaluation.tested is None
