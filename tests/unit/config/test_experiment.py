"""Experiment files: what is refused, and what arms, search and ablations change in the base config."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.config import ConfigError, ExperimentConfig, RunConfig, apply, load_experiment, load_run
from tests.conftest import ROOT, SMALL_WORLD

LR, HELD_OUT = "training.optimizer.lr", "evaluator/held_out"
SWEEP, TABLE = (ROOT / "configs" / "experiments" / f"{name}.yaml" for name in ("small_world_sweep", "paper_table"))


def load(folder: Path, *overrides: str, **values: Any) -> tuple[ExperimentConfig, RunConfig]:
    """An experiment with one searched arm, changed by values of its file and by overrides."""
    arm = {"name": "SRPO", "space": {LR: {"loguniform": [1e-6, 1e-5]}}}
    (folder / "experiment.yaml").write_text(yaml.safe_dump({"base": str(SMALL_WORLD), "arms": [arm], **values}))
    return load_experiment(folder / "experiment.yaml", overrides)


def conditional(condition: dict[str, Any]) -> dict[str, Any]:
    """A space whose hinge has a condition."""
    query = {"choice": ["relative", "guided"]}
    return {"algorithm.query": query, "algorithm.hinge": {"uniform": [0, 2], "when": condition}}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"space": {"training.optimizer.learning_rate": {"uniform": [0, 1]}}}, "unknown key"),
        ({"space": {"algorithm.timestep_window": {"choice": [[5, 25], [40, 10]]}}}, r"got \[40, 10\]"),
        ({"space": {LR: {"loguniform": [0, 1]}}}, "bounds above 0"),
        ({"space": {LR: {"uniform": [2, 1]}}}, "low < high"),
        ({"space": {LR: {}}}, "exactly one of choice"),
        ({"grid": {LR: []}}, "expected values in the grid of training.optimizer.lr, got none"),
        ({"grid": {"training.lr": [1.0e-6]}}, "arm 'SRPO': grid.training.lr: .*\n.*unknown key"),
        ({"grid": {LR: [1e-6]}, "space": {LR: {"choice": [1e-6]}}}, "`space` or `grid` in arm 'SRPO', got both"),
        ({"grid": {"seed": [1, 2]}}, "expected no `seed` among the changes of one arm"),
        ({"set": {"algorithm.hing": 1}}, "did you mean `hinge`"),
        ({"set": {"name": "mine"}}, "expected no `name` among the changes of one arm"),
        ({"set": {"evaluation.held_out": []}}, "arm 'SRPO': objective: expected a score of evaluation.held_out"),
        (
            {
                "set": {"training.num_workers": {"min": 1, "max": 2}, "training.resources": {"slot": 1}},
                "grid": {"training.num_cpus": [1, 2]},
            },
            r"arm 'SRPO': grid.training.num_cpus: expected a worker to reserve \{'CPU': 1.0, 'slot': 1.0\}",
        ),
        ({"like": "ReFL"}, "`like` of 'SRPO' to name an arm before it"),
        ({"seeds": [1, 1]}, "expected seeds that differ for 'SRPO'"),
        ({"seeds": []}, "expected at least one seed for 'SRPO', which no search trains"),
        ({"seeds": [0], "grid": {LR: [1e-6]}}, "expected seeds of 'SRPO' other than 0"),
        (
            {"space": conditional({"algorithm.words": "relative"})},
            r"name a `choice` of the same space \(algorithm.query\)",
        ),
        ({"space": conditional({"algorithm.query": "plain"})}, r"among the choices of algorithm.query .* got 'plain'"),
        ({"space": conditional({"algorithm.query": []})}, r"among the choices of algorithm.query .* got \[\]"),
        (
            {"space": {"algorithm.hinge": {"uniform": [0, 2], "when": {LR: 1}}}},
            r"`choice` .* \(there is none\), got 't",
        ),
        (
            {
                "space": {
                    "algorithm.query": {
                        "choice": ["relative", "guided"],
                        "when": {"algorithm.control_words": "bright"},
                    },
                    "algorithm.control_words": {"choice": ["bright"], "when": {"algorithm.query": "guided"}},
                }
            },
            "without a circle, got `when` of algorithm.control_words, algorithm.query",
        ),
    ],
)
def test_unusable_arm_is_refused(tmp_path: Path, arm: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, arms=[{"name": "SRPO", **arm}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_arm": "ReFL"}, r"expected reference_arm to name an arm \(SRPO\), got 'ReFL'"),
        ({"arms": [{"name": "SRPO"}, {"name": "SRPO!"}]}, "names that differ .* got 'SRPO', 'SRPO!'"),
        ({"arms": []}, "arms: .*at least 1 item"),
        ({"objectives": {HELD_OUT: "max"}}, "two or more metrics in `objectives`"),
        ({"objectives": {HELD_OUT: "min", "image/diversity": "max"}}, "evaluator/held_out: max among them"),
        ({"objectives": {HELD_OUT: "max", "reward/total": "max"}}, "expected a score that no run is trained to raise"),
        ({"objectives": {HELD_OUT: "max", "evaluator/other": "max"}}, "expected a score of evaluation.held_out"),
        ({"search": {"startup_trials": 4}}, "searcher: optuna with startup_trials, got random"),
        ({"search": {"points_from": ["runs/a"]}}, "searcher: optuna with points_from, got random"),
        (
            {
                "search": {"searcher": "optuna", "points_from": ["runs/a"]},
                "arms": [{"name": "SRPO", "grid": {LR: [1]}}],
            },
            "an arm with a `space` for search.points_from",
        ),
        ({"ablations": [{"name": "x", "set": {"algorithm.hing": 1}}]}, "did you mean `hinge`"),
        ({"ablations": [{"name": "x", "set": {"algorithm.timestep_window": [9, 3]}}]}, r"got \[9, 3\]"),
        ({"ablations": [{"name": "x", "set": {"seed": 3}}]}, "ablations.0.set: expected no `seed`"),
        ({"ablations": [{"name": "a b", "set": {}}, {"name": "a, b", "set": {}}]}, "'a b', 'a, b'; rename"),
        ({"ablations": [{"name": "SRPO", "set": {}}]}, "names that differ"),
        ({"ablations": [{"name": "x", "set": {}, "seeds": []}]}, "at least one seed for 'x', which no search trains"),
        ({"seeds": [], "ablations": [{"name": "x", "set": {}}]}, "at least one seed for 'x', which no search trains"),
        ({"search": {"set": {"evaluation.sed": 5}}}, "search.set for arm 'SRPO': .*\n.*did you mean `seed`"),
        ({"search": {"set": {LR: 1e-6}}}, "expected no searched value in search.set, got training.optimizer.lr"),
        ({"search": {"set": {"evaluation.test.num_prompts": 5}}}, "expected no key of evaluation.test in `space`"),
        (
            {"arms": [{"name": "SRPO", "grid": {"evaluation.test": [None, {}]}}]},
            "no key of evaluation.test in .* trials are not tested",
        ),
        (
            {"ablations": [{"name": "x", "set": {"evaluation.test": {"seed": 9}}}]},
            "ablation 'x': expected the evaluation of arm 'SRPO', got another evaluation.test",
        ),
        (
            {"arms": [{"name": "A"}, {"name": "B", "set": {"evaluation.seed": 9, "evaluation.num_prompts": 3}}]},
            "arm 'B': .* got another evaluation.num_prompts, evaluation.seed; .* in the base config",
        ),
        (
            {"arms": [{"name": "SRPO", "set": {}}, {"name": "B", "set": {"model.resolution": 32}}]},
            "arm 'B': .* got another evaluation.resolution; scores of other prompts, noise, sizes or models do not",
        ),
        ({"max_fall": {"content_accuracy": 0.02}}, "max_fall: expected a metric .* got 'content_accuracy', which no"),
        ({"max_fall": {"evaluator/heldout": 0.02}}, r"max_fall: expected a score of .* \(evaluator/held_out\), got"),
        (
            {"objective": "truth/detial"},
            r"objective: expected a truth .* got 'truth/detial' \(did you mean truth/detail",
        ),
        ({"objectives": {HELD_OUT: "max", "truth/utility": "max"}}, "expected a truth .* got 'truth/utility'"),
        (
            {"max_fall": {"truth/content": 0.02}},
            "max_fall: expected a truth of the small world, .* got 'truth/content'",
        ),
        ({"equal_gain": ["truth/detail", "truth/colour"]}, "equal_gain: expected a truth .* got 'truth/colour'"),
        ({"objective": "evaluator/heldout"}, r"expected a score of evaluation.held_out \(evaluator/held_out\)"),
        ({"base": "missing.yaml"}, "expected a readable YAML file"),
    ],
)
def test_unusable_experiment_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **change)


def test_arms_of_other_training_sizes_compare_at_one_size_of_the_evaluation(tmp_path: Path) -> None:
    arms = [{"name": "A", "set": {}}, {"name": "B", "set": {"model.resolution": 32}}]
    _, base = load(tmp_path, "evaluation.resolution=64", arms=arms)
    assert base.evaluation.resolution == 64


def test_arm_like_a_searched_one_may_not_be_searched_itself(tmp_path: Path) -> None:
    first = {"name": "SRPO", "grid": {LR: [1e-6]}}
    with pytest.raises(ConfigError, match="arm 'longer', which takes its values from 'SRPO', got training"):
        load(tmp_path, arms=[first, {**first, "name": "longer", "like": "SRPO"}])


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("sweep.num_samples=3", "`experiment`"),
        ("study.seeds=[1]", "`experiment`"),
        ("experiment.space={a: {choice: [1]}}", r"`arms\[0\]\.space`"),
        ("experiment.num_samples=3", "`search.num_samples`"),
        ("experiment.scheduler.type=none", "`search.scheduler`"),
        ("experiment.repeat_seeds=[1]", "`seeds`"),
        ("experiment.comparisons=[]", "`ablations`"),
        ("experiment.methods=[]", "`arms`"),
        ("experiment.arms.0.tune={a: [1]}", "`grid`"),
        ("experiment.ablated=SRPO", "`reference_arm`"),
        ("experiment.tuning_seed=3", "`seed` in the file of `base`"),
    ],
)
def test_renamed_key_is_refused_with_its_new_name(override: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"got an unknown key; it is now called {name}"):
        load(tmp_path, override)


def test_key_of_an_experiment_is_no_renamed_key_in_a_run_config() -> None:
    with pytest.raises(ConfigError, match=r"space: .* got an unknown key; remove it"):
        load_run([SMALL_WORLD], ["space=1"])


def test_overrides_reach_the_experiment_and_the_base() -> None:
    config, base = load_experiment(SWEEP, ["experiment.search.num_samples=3", "training.num_updates=7"])
    assert (config.search.num_samples, base.training.num_updates) == (3, 7)
    config, base = load_experiment(TABLE, ["experiment.arms.0.seeds=[4]", "name=other"])
    assert (config.arms[0].seeds, base.name) == ((4,), "other")


def test_seed_that_trials_are_trained_with_is_refused_for_the_chosen_trial() -> None:
    with pytest.raises(ConfigError, match=r"seeds of 'SRPO' other than 2, .* got \[1, 2, 3\]"):
        load_experiment(SWEEP, ["seed=2"])
    with pytest.raises(ConfigError, match="seeds of 'SRPO' other than 0"):
        load_experiment(SWEEP, ["experiment.seeds=[0, 5]"])
    with pytest.raises(ConfigError, match="seeds of 'late timesteps only' other than 1"):
        load_experiment(SWEEP, ["seed=1", "experiment.seeds=[2, 3]", "experiment.ablations.0.seeds=[2]"])
    # Nothing is chosen where nothing is searched.
    assert load_experiment(TABLE.with_name("past_the_turn.yaml"), ["seed=2"])[1].seed == 2


def test_changes_of_an_arm_come_after_those_of_the_arm_that_it_is_like(tmp_path: Path) -> None:
    arms = [
        {"name": "short", "set": {"training.num_updates": 4, "training.batch_size": 2}, "grid": {LR: [1e-6, 2e-6]}},
        {"name": "long", "like": "short", "set": {"training.num_updates": 8}},
        {"name": "slow", "like": "long", "set": {LR: 1e-7}},
    ]
    config, _ = load(tmp_path, arms=arms)
    short, long, slow = config.arms
    assert config.origin(slow) is config.origin(long) is short
    assert config.changes(long, {LR: 2e-6}) == {"training.num_updates": 8, "training.batch_size": 2, LR: 2e-6}
    assert config.changes(slow, {LR: 2e-6}) == {"training.num_updates": 8, "training.batch_size": 2, LR: 1e-7}


@pytest.mark.parametrize("preset", ["awm", "mix_grpo", "g2rpo", "long_align"])
def test_arm_with_a_config_file_is_the_base_config_with_that_file_layered_over_it(preset: str, tmp_path: Path) -> None:
    file = ROOT / "configs" / "algorithms" / f"{preset}.yaml"
    layered = load_run([SMALL_WORLD, file], ["training.num_updates=7"])
    experiment, base = load(tmp_path, arms=[{"name": preset, "config": str(file), "set": {"training.num_updates": 7}}])
    assert apply(base, experiment.changes(experiment.arms[0])) == layered.model_copy(update={"name": base.name})


def test_values_of_an_arm_come_after_its_config_files_and_later_files_after_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("algorithm: {hinge: 1.0, renoisings: 2}\ntraining: {batch_size: 4}\n")
    (tmp_path / "two.yaml").write_text("algorithm: {hinge: 1.5}\n")
    arm = {"name": "SRPO", "config": ["one.yaml", "two.yaml"], "set": {"training.batch_size": 2}}
    experiment, base = load(tmp_path, arms=[arm])
    run = apply(base, experiment.changes(experiment.arms[0])).model_dump()
    found = (run["algorithm"]["hinge"], run["algorithm"]["renoisings"], run["training"]["batch_size"])
    assert found == (1.5, 2, 2)


def test_arm_with_an_empty_list_of_config_files_keeps_its_values(tmp_path: Path) -> None:
    """Written experiments contain the list."""
    experiment, _ = load(tmp_path, arms=[{"name": "SRPO", "config": [], "set": {"training.batch_size": 2}}])
    assert experiment.arms[0].set == {"training.batch_size": 2}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("missing.yaml", "missing.yaml: expected a readable YAML file"),
        ("unusable.yaml", "arm 'SRPO': .*\n.*unknown key"),
        (3, "config"),
    ],
)
def test_unusable_config_file_of_an_arm_is_refused(config: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "unusable.yaml").write_text("training: {updates: 3}\n")
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, arms=[{"name": "SRPO", "config": config}])


def test_ablations_change_the_reference_arm(tmp_path: Path) -> None:
    arms = [{"name": "A"}, {"name": "B", "set": {"training.batch_size": 2}}]
    ablation = {"name": "fast", "set": {LR: 1e-4}}
    config, _ = load(tmp_path, arms=arms, ablations=[ablation], reference_arm="B")
    assert dict(config.trained_changes())["ablation 'fast'"] == {"training.batch_size": 2, LR: 1e-4}
    config, _ = load(tmp_path, arms=arms, ablations=[ablation])
    assert config.reference.name == "A"
    assert dict(config.trained_changes())["ablation 'fast'"] == {LR: 1e-4}


@pytest.mark.parametrize("file", sorted(SWEEP.parent.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_experiment_is_usable(file: Path) -> None:
    config, base = load_experiment(file)
    held_out = {f"evaluator/{model.name}" for model in base.evaluation.held_out}
    assert config.objective in held_out or config.objective.startswith("truth/")
    assert len(config.seeds) >= 2


def test_shipped_comparison_selects_on_other_evaluation_noise_than_it_reports() -> None:
    config, base = load_experiment(TABLE)
    assert config.search.set["evaluation.seed"] != base.evaluation.seed


def test_shipped_comparison_crosses_every_method_with_the_same_words_and_searches_all_equally() -> None:
    config, base = load_experiment(TABLE)
    words: dict[str, set[str]] = {}
    for arm in config.arms:
        method, _, word = arm.name.partition(", ")
        trained = apply(base, config.changes(arm)).trained_words
        assert trained == (None if word == "plain" else base.word_sets[word])
        words.setdefault(method, set()).add(word)
    named = {"detailed", "muted", "bright", "vivid"}
    assert words == {method: named | {"plain"} if method != "SRPO" else named for method in words}
    assert len(words) == 5
    assert len({len(arm.grid["training.optimizer.lr"]) for arm in config.arms if arm.grid}) == 1


def test_examples_of_a_value_have_all_that_its_condition_and_its_children_need(tmp_path: Path) -> None:
    """Without its branches the plain query would be refused, and the hinge is searched for relative queries only."""
    space = {
        "algorithm.query": {"choice": ["relative", "plain"]},
        "algorithm.hinge": {"uniform": [0, 2], "when": {"algorithm.query": "relative"}},
        "algorithm.branches": {"choice": [["denoise"]], "when": {"algorithm.query": ["plain"]}},
    }
    config, _ = load(tmp_path, arms=[{"name": "SRPO", "space": space}])
    examples = [changes for origin, changes in config.trial_changes() if "space" in origin]
    keys = {changes["algorithm.query"]: set(changes) for changes in examples}
    assert keys == {
        "relative": {"algorithm.query", "algorithm.hinge"},
        "plain": {"algorithm.query", "algorithm.branches"},
    }
    assert {0.0, 2.0} < {changes["algorithm.hinge"] for changes in examples if "algorithm.hinge" in changes}


def test_diversity_of_single_images_is_refused_as_an_objective(tmp_path: Path) -> None:
    objectives = {HELD_OUT: "max", "image/diversity": "max"}
    load(tmp_path, "evaluation.samples_per_prompt=2", objectives=objectives)
    with pytest.raises(ConfigError, match=r"samples_per_prompt of 2 or more with 'image/diversity', got 1"):
        load(tmp_path, "evaluation.samples_per_prompt=1", objectives=objectives)


def test_conditions_are_refused_for_a_population(tmp_path: Path) -> None:
    space = {
        "algorithm.query": {"choice": ["relative", "plain"]},
        "algorithm.hinge": {"uniform": [0, 2], "when": {"algorithm.query": "relative"}},
    }
    search = {"scheduler": {"type": "pbt", "perturb_interval": 2}}
    with pytest.raises(ConfigError, match=r"no `when` in a space that scheduler.type: pbt searches, got .*hinge"):
        load(tmp_path, arms=[{"name": "SRPO", "space": space}], search=search)
