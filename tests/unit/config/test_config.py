import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from srpo_ray import config as config_package
from srpo_ray.config import ConfigError, ExperimentConfig, RunConfig, apply, load_run, to_yaml
from srpo_ray.config.algorithms.refl import ReFLConfig
from srpo_ray.config.algorithms.registry import DEFAULT_TYPE, TYPES
from srpo_ray.config.algorithms.srpo import SRPOConfig
from srpo_ray.config.base import Section
from srpo_ray.config.load import load_values, merge, parse_override, set_path
from srpo_ray.config.rewards import RewardModelConfig
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


RUNS = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "recipes").glob("flux_*.yaml")]


def test_override_without_a_value_is_refused_with_its_form(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_updates: expected a readable YAML file, .* an override as KEY=VALUE"):
        load_run([SMALL_WORLD, "training.num_updates"])
    with pytest.raises(ConfigError, match=r"none\.yaml: expected a readable YAML file, .*; check the path \(working"):
        load_run([tmp_path / "none.yaml"])


@pytest.mark.parametrize("path", sorted(RUNS), ids=lambda path: path.name)
def test_every_run_config_in_the_tree_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_run([path])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_run([tmp_path / "again.yaml"]) == config


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "algorithms").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_algorithm_can_be_layered_over_the_small_world(path: Path, tmp_path: Path) -> None:
    config = load_run([SMALL_WORLD, path])
    assert path.stem == config.name
    # A file either selects its type or is a preset of another one; LongAlign is an option of rewards too.
    assert config.algorithm.type == path.stem or path.stem not in TYPES
    assert (config.rewards == load_run([SMALL_WORLD]).rewards) == (path.stem != "long_align")
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_run([tmp_path / "again.yaml"]) == config


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "rewards").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_rewards_can_be_layered_over_the_small_world(path: Path) -> None:
    changed, base = load_run([SMALL_WORLD, path]), load_run([SMALL_WORLD])
    assert (changed.rewards.models, changed.evaluation.held_out) != (base.rewards.models, base.evaluation.held_out)
    assert changed.algorithm == base.algorithm


def snippets(page: str) -> list[str]:
    """The YAML blocks of a page of the docs."""
    return re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", snippets("rewards.md"))
def test_every_snippet_about_rewards_can_be_layered_over_the_small_world(snippet: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.yaml").write_text(snippet)
    config = load_run([SMALL_WORLD, tmp_path / "snippet.yaml"])
    assert config != load_run([SMALL_WORLD])


def test_every_type_of_reward_has_a_snippet() -> None:
    union, *_ = get_args(RewardModelConfig)
    types = {section.model_fields["type"].default for section in get_args(union)}
    assert types == set(re.findall(r"\btype: (\w+)", "\n".join(snippets("rewards.md")))) - {"draft"}


def test_every_algorithm_but_the_default_has_a_file() -> None:
    files = (ROOT / "configs" / "algorithms").glob("*.yaml")
    types = {yaml.safe_load(path.read_text())["algorithm"]["type"] for path in files}
    assert types | {DEFAULT_TYPE} == TYPES.keys()


def test_every_option_is_read_by_the_code() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "srpo_ray").rglob("*.py"))
    for kind in [*sections(RunConfig), *sections(ExperimentConfig)]:
        for name in set(kind.model_fields) - {"type"}:
            assert re.search(rf"\.{name}\b", code), f"{kind.__name__}.{name} is never read"


def test_every_option_says_what_it_is() -> None:
    for kind in [*sections(RunConfig), *sections(ExperimentConfig)]:
        missing = [
            name for name, field in kind.model_fields.items() if not field.description and not _parts(field.annotation)
        ]
        assert set(missing) <= {"type"}, (kind.__name__, missing)


def test_config_is_checked_without_torch_or_ray() -> None:
    check = (
        "import sys; from srpo_ray.config import *; load_run, load_experiment;"
        "sys.exit(bool({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_actors_of_a_reward_pool_import_no_config_of_runs() -> None:
    check = (
        "import sys, srpo_ray.rewards.pool.router, srpo_ray.rewards.pool.replica, srpo_ray.rewards.pool.scoring;"
        "sys.exit(bool({'srpo_ray.config.run', 'srpo_ray.config.experiment'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_package_of_the_config_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match=r"module 'srpo_ray.config' has no attribute 'load_runs'"):
        config_package.load_runs  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_files_merge_left_to_right_and_overrides_come_last(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("training: {optimizer: {lr: 2e-6}, batch_size: 16}\nword_sets: {}\n")
    config = load_run([SMALL_WORLD, tmp_path / "more.yaml"], ["training.batch_size=4", "algorithm.branches=[denoise]"])
    assert config.training.optimizer.lr == 2e-6
    assert config.training.batch_size == 4
    assert config.training.num_updates == load_run([SMALL_WORLD]).training.num_updates
    assert config.algorithm == SRPOConfig(control_words="detailed", branches=("denoise",))
    assert config.trained_words == config.word_sets["detailed"]


def test_another_algorithm_starts_from_its_own_defaults(tmp_path: Path) -> None:
    (tmp_path / "refl.yaml").write_text("algorithm: {type: refl, hinge: 4.0}\n")
    (tmp_path / "more.yaml").write_text("algorithm: {late_share: 0.2}\n")
    assert load_run([SMALL_WORLD, tmp_path / "refl.yaml"]).algorithm == ReFLConfig(hinge=4.0)
    layered = load_run([SMALL_WORLD, tmp_path / "refl.yaml", tmp_path / "more.yaml"])
    assert layered.algorithm == ReFLConfig(hinge=4.0, late_share=0.2)
    assert layered.trained_words is None


def test_naming_the_same_algorithm_again_keeps_its_keys(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("algorithm: {hinge: 4.0}\n")
    (tmp_path / "same.yaml").write_text("algorithm: {type: srpo, branches: [denoise]}\n")
    config = load_run([SMALL_WORLD, tmp_path / "bare.yaml", tmp_path / "same.yaml"])
    assert config.algorithm == SRPOConfig(control_words="detailed", hinge=4.0, branches=("denoise",))
    values = load_values([tmp_path / "bare.yaml", tmp_path / "same.yaml"])
    assert values["algorithm"] == {"hinge": 4.0, "type": "srpo", "branches": ["denoise"]}


@pytest.mark.parametrize(
    "overrides", [["algorithm.type=refl", "algorithm.hinge=2"], ["algorithm.hinge=2", "algorithm.type=refl"]]
)
def test_override_of_the_type_drops_the_other_algorithms_keys_only(overrides: list[str]) -> None:
    assert load_run([SMALL_WORLD], overrides).algorithm == ReFLConfig(hinge=2.0)


def test_sweep_can_compare_with_another_algorithm() -> None:
    changed = apply(load_run([SMALL_WORLD]), {"algorithm.hinge": 2.0, "algorithm.type": "refl"})
    assert changed.algorithm == ReFLConfig(hinge=2.0)


def test_config_that_names_no_algorithm_is_srpo() -> None:
    values = load_values([SMALL_WORLD])
    del values["algorithm"]
    assert RunConfig.model_validate(values).algorithm == SRPOConfig()
    assert RunConfig.model_validate({**values, "algorithm": {"hinge": 1.0}}).algorithm == SRPOConfig(hinge=1.0)


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
        ("algorithm.timestep_window=[25, 5]", r"0 <= first < last <= window_grid_steps = 50, got \[25, 5\]"),
        ("algorithm.timestep_window=[5, 51]", r"0 <= first < last <= window_grid_steps = 50, got \[5, 51\]"),
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
        ("training.num_workers={min: 4, max: 2}", r"expected min to be at most max, got min=4 and max=2"),
        ("training.num_workers={min: 1, mxa: 2}", r"num_workers.mxa: expected one of max, min; .*did you mean `max`"),
        ("training.num_workers=0", r"training.num_workers: expected to be greater than or equal to 1; got 0"),
        ("training.num_workers={min: 1, max: 2}", r"expected resources with a range num_workers \(1 to 2\), got none"),
        (
            "training={num_workers: {min: 1, max: 2}, resources: {slot: 1}} & rewards.pool.resources={slot: 1}",
            r"expected training.resources and rewards.pool.resources to name different resources",
        ),
        (
            "training={num_workers: {min: 1, max: 2}, resources: {slot: 1}} & algorithm.noise=per_worker",
            r"expected algorithm.noise to be shared or per_sample with a range training.num_workers",
        ),
        ("training.micro_batch_size=3", r"expected micro_batch_size to divide a worker's share of 8"),
        (
            "training.lr_schedule.type=step",
            r"lr_schedule.type: expected to be 'constant'.* got 'step'",
        ),
        (
            "training.lr_schedule.warmup_updates=-1",
            r"warmup_updates: expected to be greater than .*0; got -1",
        ),
        (
            "training.lr_schedule.warmup_updates=41",
            r"warmup_updates .* at most num_updates = 40, got 41; .* shorten",
        ),
        ("training.lr_schedule.final_fraction=2", r"final_fraction: expected to be less than or equal to 1; got 2"),
        ("training.ema.decay=1", r"training.ema.decay: expected to be less than 1; got 1"),
        ("training.ema.decay=0", r"training.ema.decay: expected to be greater than 0; got 0"),
        ("training.ema.decai=0.9", r"training.ema.decai: .* did you mean `decay`\?"),
        ("model.lora.rank=0", r"model.lora.rank: expected to be greater than or equal to 1; got 0"),
        ("model.lora.alpha=-2", r"model.lora.alpha: expected to be greater than or equal to 1; got -2"),
        ("model.lora.target_modules=[]", r"model.lora.target_modules: .*at least 1 item"),
        (
            "model.lora.dropout=0.1",
            r"expected one of alpha, rank, start_from, start_mode, target_modules; got an unknown key",
        ),
        ("model.base=nf4", r"model: expected lora with base=nf4, got none; .* set lora to \{\} .* or remove base"),
        ("model.base=int4", r"model.base: expected to be 'fp8', 'int8' or 'nf4'; got 'int4'"),
        ("model.lora=true", r"model.lora: expected to be .*; got True"),
        ("model.resolution=60", r"model.resolution: expected .* multiple of 16, got 60; .* near it \(48 and 64\)"),
        ("model.resolution=[60, 100]", r"got \[60, 100\]; .* near it \(\[48, 96\] and \[64, 112\]\)"),
        ("model.resolution=[64, 64, 64]", r"model.resolution: .* or \[height, width\], .* got \[64, 64, 64\]"),
        ("model.resolution=0", r"model.resolution: .* got 0; .* near it \(16\)"),
        ("evaluation.resolution=true", r"evaluation.resolution: expected one number .* got True"),
        ("evaluation.test.resolution=8", r"evaluation.test.resolution: .* got 8; .* near it \(16\)"),
        ("name=../evil", r"name: .*got '../evil'"),
        ("rewards.models=[]", r"rewards.models"),
        (
            "rewards.pool.gradient_dtype=bfloat16",
            r"rewards.pool.gradient_dtype: .* got an unknown key; it is now called `wire_dtype`",
        ),
        ("rewards.models.0.spread=0", r"rewards.models.0.spread: expected to be greater than 0; got 0"),
        ("rewards.models.0.fit=stretch", r"rewards.models.0.fit: expected to be 'crop', 'pad' or 'squash'; got"),
        ("evaluation.preprocessing=pil", r"evaluation.preprocessing: .*'differentiable' or 'official'; got 'pil'"),
        ("evaluation.held_out.0.name=preference", r"got preference more than once"),
        ("evaluation.held_out.0.nam=x", r"held_out.0.nam: expected one of antialias, .*did you mean `name`"),
        ("algorithm.hing=1", r"algorithm.hing: expected one of anchor, branches, .*did you mean `hinge`\?"),
        ("algorithm.type=dance", r"algorithm.type: expected one of srpo, .*; got 'dance'; did you mean `dance_grpo`\?"),
        ("algorithm.type=ppo", r"algorithm.type: expected one of srpo, .*; got 'ppo'; choose one of them"),
        (
            "algorithm.type=step_preference",
            r"algorithm.type: .*; got 'step_preference'; .* `surrogate.type: pair` and `plan.type: branch`, as",
        ),
        (
            "algorithm={type: preference, source: file}",
            r"algorithm.source: expected to be 'pairs', .*; got 'file'; set `source` to `pairs`, .* `data.pairs`",
        ),
        ("rewards.models.0.type=clip", r"expected one of open_clip, transformers_clip, .*; got 'clip'"),
        ("algorithm={type: draft, num_steps: 2}", r"algorithm: expected num_steps 1 with renoisings"),
        ("algorithm={type: draft, num_steps: 13, renoisings: 0}", r"num_steps of at most rollout.num_steps = 12"),
        ("algorithm={type: align_prop} & rollout.num_steps=1", r"after the first of rollout.num_steps = 1 steps"),
        ("algorithm={type: align_prop, cut: normal, cut_mean: 1, cut_std: 0}", r"got cut=normal, cut_mean=1"),
        ("algorithm={type: dance_grpo, images_per_pass: 5}", r"images_per_pass to divide group_size = 12, got 5"),
        ("algorithm={type: direct_align, timestep_window: [9, 9]}", r"0 <= first < last .*got \[9, 9\]"),
        ("evaluation.relative.negative=detailed", r"evaluation.relative: expected two different words, got 'detailed'"),
        ("evaluation.relative.positive=", r"evaluation.relative.positive: expected text, got null"),
        ("evaluation.hacking.action=shout", r"evaluation.hacking.action: expected to be 'warn' or 'stop'; got 'shout'"),
        ("evaluation.hacking.band=0", r"evaluation.hacking.band: expected to be greater than 0; got 0"),
        ("evaluation.hacking.noise=-1", r"evaluation.hacking.noise: expected to be greater than or equal to 0; got -1"),
        ("evaluation.hacking={action: stop, bend: 2}", r"evaluation.hacking.bend: .*did you mean `band`"),
    ],
)
def test_unusable_value_is_refused_with_expected_received_and_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run([SMALL_WORLD], override.split(" & "))


def test_policy_gradient_needs_a_random_step() -> None:
    with pytest.raises(ConfigError, match=r"expected rollout.num_steps of at least 2 .* got 1"):
        load_run([SMALL_WORLD], ["algorithm.type=dance_grpo", "rollout.num_steps=1"])


def test_a_run_that_stops_at_a_sign_of_hacking_needs_a_held_out_model() -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation: expected a model in held_out with hacking.action stop, got none"
    ):
        load_run([SMALL_WORLD], ["evaluation.held_out=[]", "evaluation.hacking.action=stop"])


def test_weights_are_divided_by_the_spreads_where_that_is_asked_for() -> None:
    spreads = ["rewards.models.0.spread=0.25", "rewards.models.1.spread=2.0"]
    plain, spread = load_run([SMALL_WORLD]), load_run([SMALL_WORLD], spreads)
    assert plain.rewards.factors == spread.rewards.factors == {"preference": 1.0, "contrastive": 0.5}
    normalized = load_run([SMALL_WORLD], [*spreads, "rewards.normalize=true"])
    assert normalized.rewards.factors == {"preference": 4.0, "contrastive": 0.25}
    with pytest.raises(ConfigError, match=r"got none for contrastive; .* srpo_ray.evaluation.reward_spread runs/NAME"):
        load_run([SMALL_WORLD], [spreads[0], "rewards.normalize=true"])


AESTHETIC = "{name: looks, type: aesthetic, path: head.pth, backbone: openai/clip-vit-large-patch14}"


def test_reward_that_reads_no_text_is_refused_where_a_difference_of_texts_is_trained() -> None:
    plain = ["algorithm.query=plain", "algorithm.branches=[denoise]"]
    with pytest.raises(ConfigError, match=r"with control words, got looks, .* set algorithm.query to plain"):
        load_run([SMALL_WORLD], [f"rewards.models=[{AESTHETIC}]"])
    with pytest.raises(ConfigError, match=r"with control words, got looks"):
        load_run([SMALL_WORLD], [f"rewards.models=[{AESTHETIC}]", "algorithm.query=guided"])
    assert load_run([SMALL_WORLD], [f"rewards.models=[{AESTHETIC}]", *plain]).text_free == ("looks",)
    assert load_run([SMALL_WORLD], [f"rewards.models=[{AESTHETIC}]", "algorithm.type=draft"]).text_free == ("looks",)
    assert load_run([SMALL_WORLD], [f"evaluation.held_out=[{AESTHETIC}]"]).text_free == ("looks",)
    assert load_run([SMALL_WORLD]).text_free == ()


def test_trained_words_are_those_of_a_relative_reward() -> None:
    config = load_run([SMALL_WORLD], ["algorithm.control_words=vivid"])
    assert config.trained_words == config.word_sets["vivid"]
    assert load_run([SMALL_WORLD], ["algorithm.query=plain", "algorithm.branches=[denoise]"]).trained_words is None


def test_dotted_path_turns_an_unset_section_on() -> None:
    config = load_run([SMALL_WORLD])
    assert config.model.lora is None
    assert config.training.ema is None
    lora = apply(config, {"model.lora.rank": 4, "training.ema.decay": 0.9})
    assert lora.model.lora is not None
    assert lora.model.lora.rank == 4
    assert lora.training.ema is not None
    assert apply(lora, {"model.lora": None, "training.ema": None}) == config


def test_values_are_not_checked_before_all_layers_are_merged(tmp_path: Path) -> None:
    (tmp_path / "half.yaml").write_text("training: {num_workers: 3}\n")
    values = load_values([SMALL_WORLD, tmp_path / "half.yaml"], ["training.batch_size=9"])
    assert RunConfig.model_validate(values).training.pass_size == 3


def test_reference_preset_has_every_released_number() -> None:
    folder = ROOT / "configs" / "presets"
    reference = load_run([SMALL_WORLD, folder / "srpo_reference.yaml"])
    assert (reference.rollout.num_steps, reference.rollout.shift, reference.rollout.guidance_scale) == (25, 3.0, 1.0)
    model = reference.model
    assert (model.resolution, model.truncate_sigma, model.dtype, model.lora) == (720, True, "bfloat16", None)
    assert model.max_sequence_length == 512
    algorithm, optimizer = reference.algorithm, reference.training.optimizer
    assert isinstance(algorithm, SRPOConfig)
    assert (algorithm.timestep_window, algorithm.window_points, algorithm.interpolation_strength) == (
        (5, 25),
        1000,
        0.9,
    )
    assert (algorithm.denoise_discount, algorithm.inversion_discount) == ((0.1, 0.25), (0.3, 0.01))
    assert (algorithm.hinge, algorithm.guidance_scale, algorithm.noise) == (0.7, 3.5, "shared")
    assert algorithm.branches == ("denoise", "inversion")
    assert (algorithm.window_grid_steps, algorithm.window_shift, algorithm.sigma_window) == (50, 3.0, None)
    assert (algorithm.landing, algorithm.renoisings) == ("per_sample", 1)
    assert (algorithm.query, algorithm.word_cycle, algorithm.word_start) == ("relative", "per_update", 1)
    assert reference.trained_words is not None
    assert reference.trained_words.positive == ("Natural-lighting", "Detail", "Detailed", "Real")
    assert reference.trained_words.negative == ("Concept art", "Painting", "Anime", "Flat", "Oil")
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (5e-6, (0.9, 0.999), 1e-4)
    assert (optimizer.max_grad_norm, reference.training.batch_size, reference.training.num_updates) == (0.1, 32, 19)

    pick_score = load_run([SMALL_WORLD, folder / "srpo_reference.yaml", folder / "srpo_reference_pickscore.yaml"])
    assert isinstance(pick_score.algorithm, SRPOConfig)
    assert (pick_score.algorithm.timestep_window, pick_score.rollout.guidance_scale) == ((5, 30), 2.0)
    assert pick_score.algorithm.denoise_discount == (0.1, 0.5)
    assert pick_score.algorithm.inversion_discount == (0.6, 0.01)
    assert pick_score.algorithm.hinge == 0.7


def test_real_images_are_refused_where_the_algorithm_needs_its_own_rollouts() -> None:
    with pytest.raises(ConfigError, match=r"expected data.images to be unset with algorithm.type=draft"):
        load_run([SMALL_WORLD], ["algorithm.type=draft", "data.images=small_world:realistic"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.start=image"], r"expected data.images with algorithm.start=image, got none; name real images, or"),
        (["data.images=small_world:realistic"], r"type=refl and algorithm.start=noise, got 'small_world:realistic'; u"),
        (
            ["algorithm.start=image", "data.images=small_world:realistic", "data.image_ratio=0.5"],
            r"image_ratio=1 with algorithm.start=image, got 0.5; .*mix with algorithm.plain_every",
        ),
        (["algorithm.plain_every=2"], r"plain_every only with start image, got 2 with start noise, .*or set start to"),
    ],
)
def test_refl_starts_from_images_if_and_only_if_there_are_some(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run([SMALL_WORLD], ["algorithm.type=refl", *overrides])


def test_images_that_rollouts_start_from_are_sampled_further() -> None:
    images = ["data.images=small_world:realistic", "algorithm.type=refl", "algorithm.start=image"]
    config = load_run([SMALL_WORLD], [*images, "training.micro_batch_size=4", "rollout.batch_size=8"])
    assert config.samples_rollouts
    assert config.sampled_per_pass == 4


def test_share_of_real_images_must_be_a_whole_number_of_a_forward_pass() -> None:
    images = "data.images=small_world:realistic"
    assert load_run([SMALL_WORLD], [images, "data.image_ratio=0.25"]).data.reads_prompts
    assert not load_run([SMALL_WORLD], [images]).data.reads_prompts
    load_run([SMALL_WORLD], [images, "data.image_ratio=0.3333333333", "training.batch_size=6"])
    with pytest.raises(ConfigError, match=r"data.image_ratio = 0.25 .* 2 samples of a forward pass .* got 0.5"):
        load_run([SMALL_WORLD], [images, "data.image_ratio=0.25", "training.micro_batch_size=2"])
    with pytest.raises(ConfigError, match=r"expected images to be set with image_ratio=0.5, got none"):
        load_run([SMALL_WORLD], ["data.image_ratio=0.5"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.type=refl", "rollout.reuse=2"], r"got reuse=2; .* or choose direct_align or srpo"),
        (["algorithm.type=draft", "rollout.source=base_model"], r"got source=base_model; .* direct_align or srpo"),
        (["rollout.source=base_model", "rollout.reuse=2"], r"rollout.reuse=1 with base-model images only, got 2; .*"),
        (["data.images=small_world:realistic", "rollout.reuse=2"], r"with real images only, got 2; .* remove it"),
        (["data.images=small_world:realistic", "rollout.source=base_model"], r"every sample is a real image"),
        (["rollout.images_per_prompt=2"], r"got 2; .* set rollout.source to base_model"),
        (["rollout.reuse=0"], r"greater than or equal to 1"),
    ],
)
def test_rollouts_that_cannot_be_reused_are_refused_with_a_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run([SMALL_WORLD], overrides)


def test_mixed_data_can_reuse_its_rollouts() -> None:
    config = load_run([SMALL_WORLD], ["data.images=small_world:realistic", "data.image_ratio=0.5", "rollout.reuse=2"])
    assert config.samples_rollouts


GROUPS = ["training.num_workers=2", "training.shard_group_size=2"]
BLOCKS = ["training.gather_blocks=true", "model.gradient_checkpointing=true"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.zero_stage=2", "training.offload=weights"], r"zero_stage 3 or auto with offload=weights, got 2"),
        (["training.zero_stage=1", "training.gather_blocks=true"], r"zero_stage 3 or auto with gather_blocks, got 1"),
        (["model.lora.rank=4", "training.gather_blocks=true"], r"gather_blocks=false with model.lora, got true"),
        (["training.gather_blocks=true"], r"model.gradient_checkpointing=true with training.gather_blocks, got false"),
        ([*BLOCKS], r"losses_in_flight=1 with training.gather_blocks, got 2"),
        (
            [*BLOCKS, "algorithm.type=draft", "algorithm.num_steps=3", "algorithm.renoisings=0"],
            r"one transformer call per loss with training.gather_blocks, got 3 of algorithm.type=draft",
        ),
        (["training.zero_stage=0"], r"zero_stage"),
        (
            ["model.compile=true", "training.num_workers=2"],
            r"with model.compile=true, got stage 3 .* set training.gather_blocks=true",
        ),
        (
            ["model.compile=true", "model.lora.rank=4", "training.offload=optimizer"],
            r"with model.compile=true, got stage 3 \(training.offload=optimizer .* set training.zero_stage=2",
        ),
        (
            [*GROUPS, "training.zero_stage=2"],
            r"ZeRO stage 3 with training.shard_group_size=2, got 2 \(set by training.zero_stage\)",
        ),
        (
            [*GROUPS, "model.lora.rank=4"],
            r"ZeRO stage 3 with training.shard_group_size=2, got 2 \(the trained adapters",
        ),
        (
            ["training.num_workers=2", "training.context_parallel=2", "training.zero_stage=2", "model.compile=true"],
            r"model.compile=false with training.context_parallel=2, got true",
        ),
    ],
)
def test_stages_blocks_and_groups_that_cannot_be_combined_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run([SMALL_WORLD], overrides)


@pytest.mark.parametrize(
    ("overrides", "stage"),
    [
        ([], 2),
        (["training.num_workers=2"], 3),
        (["training.num_workers={min: 1, max: 2}", "training.resources={slot: 1}"], 3),
        (["training.offload=optimizer"], 3),
        (["training.zero_stage=3"], 3),
        (["model.lora.rank=4"], 2),
        (["model.lora.rank=4", "training.offload=optimizer"], 3),
        (["model.lora.rank=4", "training.zero_stage=3"], 3),
        (["model.lora.rank=4", "training.zero_stage=1"], 1),
        (["training.zero_stage=2"], 2),
        (["model.compile=true", "model.lora.rank=4"], 2),
        (["model.compile=true", "training.zero_stage=1"], 1),
        (["model.compile=true", *BLOCKS, "training.losses_in_flight=1"], 3),
        ([*BLOCKS, "training.losses_in_flight=1"], 3),
        ([*BLOCKS, "training.num_workers=2"], 3),
        ([*GROUPS, "model.lora.rank=4", "training.zero_stage=3"], 3),
    ],
)
def test_only_several_workers_that_train_all_weights_shard_them_by_default(overrides: list[str], stage: int) -> None:
    assert load_run([SMALL_WORLD], overrides).zero_stage.number == stage


@pytest.mark.parametrize("override", ["training.zero_stage=3", "training.offload=optimizer"])
def test_quantised_base_cannot_be_sharded(override: str) -> None:
    with pytest.raises(ConfigError, match=r"expected ZeRO stage 1 or 2 with model.base=nf4, got 3 .*remove training"):
        load_run([SMALL_WORLD], ["model.lora={}", "model.base=nf4", override])
    assert load_run([SMALL_WORLD], ["model.lora={}", "model.base=nf4", "training.zero_stage=1"]).model.base == "nf4"
