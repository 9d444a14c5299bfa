import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.config import ConfigError, RunConfig, load_run, load_sweep, to_yaml
from srpo_ray.config.base import Section
from srpo_ray.config.load import load_values, merge, parse_override, set_path
from srpo_ray.config.sweep import SweepConfig
from tests.conftest import ROOT, SMALL_WORLD


def sections(kind: type[Section]) -> list[type[Section]]:
    """A config class and all classes inside it."""
    found = [kind]
    for field in kind.model_fields.values():
        for part in _parts(field.annotation):
            found += sections(part)
    return found


def _parts(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [part for inner in getattr(annotation, "__args__", ()) for part in _parts(inner)]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_run_config_in_the_tree_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_run([path])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_run([tmp_path / "again.yaml"]) == config


def test_every_option_is_read_by_the_code() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "srpo_ray").rglob("*.py"))
    for kind in [*sections(RunConfig), *sections(SweepConfig)]:
        for name in set(kind.model_fields) - {"type"}:
            assert re.search(rf"\.{name}\b", code), f"{kind.__name__}.{name} is never read"


def test_every_option_says_what_it_is() -> None:
    for kind in sections(RunConfig):
        missing = [
            name for name, field in kind.model_fields.items() if not field.description and not _parts(field.annotation)
        ]
        assert set(missing) <= {"type", "betas", "eps", "weight_decay"}, (kind.__name__, missing)


def test_config_is_checked_without_torch_or_ray() -> None:
    check = "import sys, srpo_ray.config; sys.exit(bool({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_files_merge_left_to_right_and_overrides_come_last(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("training: {optimizer: {lr: 2e-6}, batch_size: 16}\nword_sets: {}\n")
    config = load_run([SMALL_WORLD, tmp_path / "more.yaml"], ["training.batch_size=4", "algorithm.branches=[denoise]"])
    assert config.training.optimizer.lr == 2e-6
    assert config.training.batch_size == 4
    assert config.training.num_updates == load_run([SMALL_WORLD]).training.num_updates
    assert config.algorithm.branches == ("denoise",)


def test_lists_are_replaced_and_mappings_are_merged() -> None:
    assert merge({"a": {"b": [1, 2], "c": 3}}, {"a": {"b": [4]}, "d": 5}) == {"a": {"b": [4], "c": 3}, "d": 5}


def test_dotted_paths_count_lists_and_leave_the_original_alone() -> None:
    values = {"models": [{"weight": 1}, {"weight": 2}]}
    assert set_path(values, "models.1.weight", 5) == {"models": [{"weight": 1}, {"weight": 5}]}
    assert values == {"models": [{"weight": 1}, {"weight": 2}]}
    with pytest.raises(ConfigError, match="expected a list index from 0 to 1, got '2'"):
        set_path(values, "models.2.weight", 5)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("a=3e-6", 3e-6),
        ("a=1E5", 1e5),
        ("a=[5, 25]", [5, 25]),
        ("a=true", True),
        ("a='3e-6'", "3e-6"),
        ("a=x=y", "x=y"),
    ],
)
def test_override_values_are_typed(argument: str, expected: object) -> None:
    assert parse_override(argument) == ("a", expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.optimzer.lr=1", r"unknown key; did you mean `optimizer`\?"),
        ("training.batch_size=many", r"training.batch_size: expected to be a valid integer.*got 'many'"),
        ("algorithm.timestep_window=[25, 5]", r"0 <= first < last < window_grid_steps = 50, got \[25, 5\]"),
        ("algorithm.timestep_window=[5, 50]", r"0 <= first < last < window_grid_steps = 50, got \[5, 50\]"),
        (
            "algorithm.sigma_window=[0.7, 0.9]",
            r"expected sigma_window \[noisy, clean\] .*got \[0.7, 0.9\]",
        ),
        (
            "algorithm.sigma_window=[1.0, 0.9]",
            r"expected sigma_window \[noisy, clean\] .*got \[1.0, 0.9\]",
        ),
        ("algorithm.noise=private", r"algorithm.noise: .*'shared', 'per_worker' or 'per_sample'.*got 'private'"),
        ("algorithm.renoisings=0", r"algorithm.renoisings: .*got 0"),
        ("rollout.shift=0", r"rollout.shift.*got 0"),
        ("algorithm.control_words=nice", r"expected algorithm.control_words to name one of word_sets .* got 'nice'"),
        ("algorithm.query=plain", r"expected branches \[denoise\] with query plain"),
        ("training.num_workers=3", r"expected batch_size to be a multiple of num_workers"),
        ("training.micro_batch_size=3", r"expected micro_batch_size to divide a worker's share of 8"),
        ("model.resolution=60", r"model.resolution: expected to .*multiple of 16; got 60"),
        ("name=../evil", r"name: .*got '../evil'"),
        ("rewards.models=[]", r"rewards.models"),
        ("evaluation.held_out.0.name=preference", r"got preference more than once"),
        ("evaluation.relative.negative=detailed", r"evaluation.relative: expected two different words, got 'detailed'"),
        ("evaluation.relative.positive=", r"evaluation.relative.positive: expected to .*got None"),
        ("evaluation.alarm.action=shout", r"evaluation.alarm.action: expected to be 'warn' or 'stop'; got 'shout'"),
        ("evaluation.alarm.band=0", r"evaluation.alarm.band: expected to be greater than 0; got 0"),
        ("evaluation.alarm.noise=-1", r"evaluation.alarm.noise: expected to be greater than or equal to 0; got -1"),
        ("evaluation.alarm={action: stop, bend: 2}", r"evaluation.alarm.bend: .*did you mean `band`"),
    ],
)
def test_unusable_value_is_refused_with_expected_received_and_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run([SMALL_WORLD], [override])


def test_a_run_that_stops_at_the_alarm_needs_a_judge() -> None:
    with pytest.raises(ConfigError, match=r"evaluation: expected a model in held_out with alarm.action stop, got none"):
        load_run([SMALL_WORLD], ["evaluation.held_out=[]", "evaluation.alarm.action=stop"])


def test_trained_words_are_those_of_a_relative_reward() -> None:
    config = load_run([SMALL_WORLD], ["algorithm.control_words=vivid"])
    assert config.trained_words == config.word_sets["vivid"]
    assert load_run([SMALL_WORLD], ["algorithm.query=plain", "algorithm.branches=[denoise]"]).trained_words is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"training.optimizer.learning_rate": {"uniform": [0, 1]}}}, "unknown key"),
        ({"space": {"algorithm.timestep_window": {"choice": [[5, 25], [40, 10]]}}}, r"got \[40, 10\]"),
        ({"space": {"training.optimizer.lr": {"loguniform": [0, 1]}}}, "bounds above 0"),
        ({"space": {"training.optimizer.lr": {"uniform": [2, 1]}}}, "low < high"),
        ({"space": {"training.optimizer.lr": {}}}, "exactly one of choice"),
        ({"comparisons": [{"name": "x", "set": {"algorithm.hing": 1}}]}, "did you mean `hinge`"),
        ({"base": "missing.yaml"}, "expected a readable YAML file"),
    ],
)
def test_unusable_sweep_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    values = {"base": str(SMALL_WORLD), "space": {"training.optimizer.lr": {"loguniform": [1e-6, 1e-5]}}, **change}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message):
        load_sweep(tmp_path / "sweep.yaml")


def test_sweep_overrides_reach_the_sweep_and_the_base() -> None:
    sweep, base = load_sweep(
        ROOT / "configs" / "sweep" / "small_world.yaml", ["sweep.num_samples=3", "training.num_updates=7"]
    )
    assert (sweep.num_samples, base.training.num_updates) == (3, 7)


def test_values_are_not_checked_before_all_layers_are_merged(tmp_path: Path) -> None:
    (tmp_path / "half.yaml").write_text("training: {num_workers: 3}\n")
    values = load_values([SMALL_WORLD, tmp_path / "half.yaml"], ["training.batch_size=9"])
    assert RunConfig.model_validate(values).training.worker_batch_size == 3


def test_reference_preset_has_every_released_number() -> None:
    folder = ROOT / "configs" / "algorithms"
    reference = load_run([SMALL_WORLD, folder / "srpo_reference.yaml"])
    assert (reference.rollout.num_steps, reference.rollout.shift, reference.rollout.guidance_scale) == (25, 3.0, 1.0)
    assert (reference.model.resolution, reference.model.truncate_sigma) == (720, True)
    algorithm, optimizer = reference.algorithm, reference.training.optimizer
    assert (algorithm.timestep_window, algorithm.window_points, algorithm.interpolation_strength) == (
        (5, 25),
        1000,
        0.9,
    )
    assert (algorithm.denoise_discount, algorithm.inversion_discount) == ((0.1, 0.25), (0.3, 0.01))
    assert (algorithm.hinge, algorithm.guidance_scale, algorithm.noise) == (0.7, 3.5, "shared")
    assert algorithm.branches == ("denoise", "inversion")
    assert reference.control_words.positive == ("Natural-lighting", "Detail", "Detailed", "Real")
    assert reference.control_words.negative == ("Concept art", "Painting", "Anime", "Flat", "Oil")
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (5e-6, (0.9, 0.999), 1e-4)
    assert (optimizer.max_grad_norm, reference.training.batch_size, reference.training.num_updates) == (0.1, 32, 19)

    pick_score = load_run([SMALL_WORLD, folder / "srpo_reference.yaml", folder / "srpo_reference_pickscore.yaml"])
    assert (pick_score.algorithm.timestep_window, pick_score.rollout.guidance_scale) == ((5, 30), 2.0)
    assert pick_score.algorithm.denoise_discount == (0.1, 0.5)
    assert pick_score.algorithm.inversion_discount == (0.6, 0.01)
    assert pick_score.algorithm.hinge == 0.7
