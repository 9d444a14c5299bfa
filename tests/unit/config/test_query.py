"""Facts that follow from the query of a run: the same for every registered algorithm."""

from pathlib import Path

import pytest

from srpo_ray.config import ConfigError, RunConfig, apply, load_experiment, load_run
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.planning.schedule import schedule
from srpo_ray.training.early_stop import trained_reward
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.variants import SCORED

AESTHETIC = "{name: looks, type: aesthetic, path: head.pth, backbone: openai/clip-vit-large-patch14}"
PLAIN = {"srpo": ["algorithm.query=plain", "algorithm.branches=[denoise]"]}
"""Settings of the plain query, where it takes more than one."""


def load(kind: str, query: str, *settings: str) -> RunConfig:
    chosen = PLAIN.get(kind, ["algorithm.query=plain"]) if query == "plain" else [f"algorithm.query={query}"]
    return load_run([SMALL_WORLD], [f"algorithm.type={kind}", *chosen, *settings])


@pytest.mark.parametrize("kind", SCORED)
@pytest.mark.parametrize(
    ("query", "metric"),
    [("relative", "reward/total/trained"), ("guided", "reward/total/trained"), ("plain", "reward/total")],
)
def test_trained_reward_is_that_of_the_words_if_the_query_has_any(kind: str, query: str, metric: str) -> None:
    config = load(kind, query, "algorithm.control_words=vivid")
    assert config.trained_words == (None if query == "plain" else config.word_sets["vivid"])
    assert trained_reward(config) == metric


@pytest.mark.parametrize("kind", SCORED)
def test_unknown_set_of_words_is_refused_only_if_it_is_used(kind: str) -> None:
    for query in ("relative", "guided"):
        with pytest.raises(ConfigError, match=r"control_words to name one of word_sets \(bright, .* got 'nice'"):
            load(kind, query, "algorithm.control_words=nice")
    assert load(kind, "plain", "algorithm.control_words=nice").trained_words is None


@pytest.mark.parametrize("kind", SCORED)
def test_reward_that_reads_no_text_is_refused_with_advice_that_helps(kind: str) -> None:
    reward = f"rewards.models=[{AESTHETIC}]"
    advice = " and ".join(setting.replace("=", " to ") for setting in PLAIN.get(kind, ["algorithm.query=plain"]))
    for query in ("relative", "guided"):
        with pytest.raises(ConfigError) as refused:
            load(kind, query, reward)
        message = " ".join(str(refused.value).split())
        assert f"read text for the {query} query with control words, got looks" in message
        assert f"set {advice}, or move the model to evaluation.held_out" in message
        assert load(kind, query, f"evaluation.held_out=[{AESTHETIC}]").text_free == ("looks",)
    assert load(kind, "plain", reward).text_free == ("looks",)


@pytest.mark.parametrize("kind", SCORED)
def test_query_changes_no_call_of_the_model(kind: str) -> None:
    one_branch = ["algorithm.branches=[denoise]"] if kind == "srpo" else []
    plans = {schedule(load(kind, query, *one_branch)) for query in ("relative", "guided", "plain")}
    assert len(plans) == 1


def test_experiment_crosses_methods_with_words(tmp_path: Path) -> None:
    methods = [kind for kind in SCORED if kind != "srpo"]
    arms = [f"{{name: {kind}, set: {{algorithm: {{type: {kind}}}}}}}" for kind in methods]
    words = "set: {algorithm.query: relative, algorithm.control_words: vivid}"
    arms += [f"{{name: '{kind}, words', like: {kind}, {words}}}" for kind in methods]
    (tmp_path / "table.yaml").write_text(
        f"{{name: table, base: {SMALL_WORLD}, seeds: [1], reference_arm: refl, arms: [{', '.join(arms)}]}}"
    )
    config, base = load_experiment(tmp_path / "table.yaml")
    runs = [apply(base, changes) for _, changes in config.trained_changes()]
    found = [(run.algorithm.type, run.trained_words) for run in runs]
    vivid = ControlWords(positive=("vivid", "colorful"), negative=("muted", "pale"))
    assert found == [(kind, chosen) for chosen in (None, vivid) for kind in methods]
