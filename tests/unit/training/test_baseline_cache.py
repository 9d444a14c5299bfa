"""Cache of the base model's evaluation: same bits as computed, and a folder of its own for whatever changes them."""

import errno
import fcntl
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.evaluator import TRAINED, Evaluated, Evaluation, Evaluator
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.runs import turns
from srpo_ray.small_world.weights import flux_dir, reward_dir
from srpo_ray.training.baseline_cache import BaselineCache, other_words
from srpo_ray.training.baseline_evaluation import baseline_evaluation
from tests.conftest import SMALL_WORLD

CPU = torch.device("cpu")
NOTHING = Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1))
VIVID = "algorithm.control_words=vivid"
PLAIN = ("algorithm.query=plain", "algorithm.branches=[denoise]")


def config_of(root: Path, *overrides: str) -> RunConfig:
    return load_run([SMALL_WORLD], [f"run_root={root}", *overrides])


def evaluator_of(
    config: RunConfig, section: EvaluationConfig | None = None, kind: type[Evaluator] = Evaluator
) -> Evaluator:
    evaluation = section or config.evaluation
    return kind(
        evaluation,
        read_texts(config).evaluated,
        NOTHING,
        size=config.model_at(evaluation).size,
        sigmas=sigma_grid(config.model_at(evaluation))(evaluation.num_steps, config.rollout.shift),
        truth=True,
        trained_words=config.trained_words,
        other_words=other_words(config),
    )


def folder_of(config: RunConfig) -> Path:
    return BaselineCache(config, evaluator_of(config), CPU).store.folder


def evaluation_of(config: RunConfig, seed: int = 0) -> Evaluation:
    """Scores with all bits of a float32, in the order in which an evaluator returns them."""
    source = torch.Generator().manual_seed(seed)
    names = ["reward/total", "evaluator/held_out", *([TRAINED] if config.trained_words else []), "image/contrast"]
    scores = {name: torch.rand(6, generator=source).tolist() for name in names}
    images = {number: torch.rand(3, 8, 8, generator=source) for number in (1, 12)}
    return Evaluation(scores, images)


class Computed:
    """An evaluation without models, and how often its images are sampled and scored."""

    def __init__(
        self,
        config: RunConfig,
        seed: int = 0,
        before: Callable[[], object] = lambda: None,
        others: Mapping[str, list[float]] | None = None,
    ) -> None:
        self.config, self.seed, self.before, self.others = config, seed, before, dict(others or {})
        self.calls, self.loads, self.sampled = 0, 0, list[int]()
        self.has_sampled = threading.Event()

    @contextmanager
    def base(self) -> Iterator[Any]:
        self.loads += 1
        yield None

    def sample(self, items: Sequence[int]) -> Tensor:
        self.sampled += items
        self.has_sampled.set()
        return images_of(items)

    def score(self, batches: Iterable[tuple[list[int], Tensor]]) -> Evaluated:
        self.calls += 1
        self.before()
        for items, images in batches:
            assert torch.equal(images, images_of(items))
        expected = evaluation_of(self.config, self.seed)
        scores = {name: torch.tensor(values) for name, values in (expected.scores | self.others).items()}
        return Evaluated(list(range(6)), scores, expected.images, torch.zeros(6, 3, 32, 32))


def images_of(items: Sequence[int]) -> Tensor:
    return torch.stack([torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(item)) for item in items])


def evaluate(config: RunConfig, computed: Computed) -> Evaluation:
    class WithoutModels(Evaluator):
        def sample(self, policy: object, items: Sequence[int]) -> Tensor:
            return computed.sample(items)

        def score(self, batches: Iterable[tuple[list[int], Tensor]], *_: object, **__: object) -> Evaluated:
            return computed.score(batches)

    evaluator = evaluator_of(config, kind=WithoutModels)
    no_rewards: Any = None
    return baseline_evaluation(config, evaluator, CPU, computed.base, no_rewards)


def assert_equal(found: Evaluation, expected: Evaluation) -> None:
    assert list(found.scores.items()) == list(expected.scores.items())
    assert list(found.images) == list(expected.images)
    for prompt, image in expected.images.items():
        assert found.images[prompt].dtype == image.dtype
        assert torch.equal(found.images[prompt], image)


@pytest.mark.parametrize("overrides", [(VIVID,), PLAIN])
def test_a_stored_evaluation_has_the_bits_of_the_computed_one(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config, expected = config_of(tmp_path, *overrides), evaluation_of(config_of(tmp_path, *overrides))
    first, second = Computed(config), Computed(config, seed=1)
    assert_equal(evaluate(config, first), expected)
    stored = evaluate(config, second)
    assert_equal(stored, expected)
    assert stored.metrics == expected.metrics
    assert (first.calls, second.calls) == (1, 0)
    assert (first.loads, second.loads) == (1, 0)
    assert first.sampled == evaluator_of(config).items
    assert not (folder_of(config) / "images").exists()


CHANGES = (
    "model.dtype=bfloat16",
    "model.resolution=32",
    "model.resolution=[64,48]",
    "evaluation.resolution=32",
    "model.max_sequence_length=8",
    "model.truncate_sigma=true",
    "model.attention=flash model.dtype=bfloat16",
    "model.compile=true training.zero_stage=2",
    "model.vae_channels_last=true",
    "rollout.shift=1.0",
    "evaluation.num_prompts=31",
    "evaluation.num_steps=19",
    "evaluation.samples_per_prompt=3",
    "evaluation.seed=1",
    "evaluation.guidance_scale=2.0",
    "evaluation.batch_size=16",
    "evaluation.gallery_size=4",
    "evaluation.preprocessing=official",
    "evaluation.relative=null",
    "evaluation.relative.positive=vivid",
    "evaluation.held_out=[]",
    "evaluation.held_out.0.name=other",
    "rewards.models.0.weight=2.0",
    "rewards.models.0.dtype=bfloat16",
    "rewards.models.1.path=small_world:preference",
    "rewards.in_process=true",
    "rewards.pool.micro_batch_size=8",
    "rewards.pool.num_threads=2",
    "rewards.pool.wire_dtype=bfloat16",
)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_an_evaluation_has_another_folder(change: str, tmp_path: Path) -> None:
    changed, *needed = change.split()
    assert folder_of(config_of(tmp_path, changed, *needed)) != folder_of(config_of(tmp_path, *needed))


def test_evaluations_of_one_size_share_a_folder_whatever_the_size_of_the_training(tmp_path: Path) -> None:
    own = folder_of(config_of(tmp_path))
    assert folder_of(config_of(tmp_path, "evaluation.resolution=64")) == own
    assert folder_of(config_of(tmp_path, "model.resolution=32", "evaluation.resolution=64")) == own


def test_base_model_on_test_prompts_has_a_folder_for_each_noise_number_of_images_and_size(tmp_path: Path) -> None:
    def folder(*overrides: str) -> Path:
        config = config_of(tmp_path, "evaluation.test={prompts: 'small_world:test', seed: 5}", *overrides)
        assert config.evaluation.tested
        return BaselineCache(config, evaluator_of(config, config.evaluation.tested), CPU).store.folder

    assert folder() == folder("evaluation.test.resolution=64", "evaluation.seed=7", "evaluation.samples_per_prompt=5")
    changes = ("evaluation.test.seed=6", "evaluation.test.samples_per_prompt=1", "evaluation.test.resolution=32")
    assert len({folder(), *(folder(change) for change in changes)}) == 4


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("srpo_ray.training.baseline_cache._code_hash", lambda: "changed code"),
        ("importlib.metadata.version", lambda _name: "0.0"),
        ("torch.get_num_threads", lambda: 77),
        ("torch.backends.cpu.get_cpu_capability", lambda: "another processor"),
        ("srpo_ray.training.baseline_cache.rank_and_world_size", lambda: (0, 5)),
    ],
)
def test_other_code_and_hardware_have_another_folder(
    place: str, value: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folder_of(config_of(tmp_path))
    monkeypatch.setattr(place, value)
    assert folder_of(config_of(tmp_path)) != before


@pytest.mark.parametrize("section", ["truth", "prompts"])
def test_other_prompts_and_measurements_have_another_folder(section: str, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    other = evaluator_of(config)
    setattr(other, section, {"truth": False, "prompts": other.prompts[::-1]}[section])
    assert BaselineCache(config, other, CPU).store.folder != folder_of(config)


@pytest.mark.parametrize("key", ["model.path", "rewards.models.0.path", "evaluation.held_out.0.path"])
def test_other_weights_at_the_same_path_have_another_folder(key: str, tmp_path: Path) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(flux_dir() if key == "model.path" else reward_dir("held_out"), copy)
    config = config_of(tmp_path, f"{key}={copy}")
    before = folder_of(config)
    weights = next(file for file in sorted(copy.rglob("*.safetensors")) if "text_encoder" not in file.parts)
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert folder_of(config) != before


def test_runs_of_one_base_model_share_a_folder(tmp_path: Path) -> None:
    others = ("seed=4", "training.optimizer.lr=1e-3", VIVID, "training.num_updates=7", "model.lora.rank=4")
    others += ("evaluation.interval=3", "evaluation.hacking.action=stop", "training.ema.decay=0.9")
    others += (
        "rollout.num_steps=5",
        "model.gradient_checkpointing=true",
        "model.decoder=tiny",
        "rewards.pool.num_replicas=2",
        "evaluation.rl_guidance=2",
        "evaluation.contrast_with=runs/other",
    )
    assert folder_of(config_of(tmp_path, *others)) == folder_of(config_of(tmp_path))


def test_scores_for_other_control_words_are_computed_and_a_run_without_words_reads_the_rest(tmp_path: Path) -> None:
    detailed, vivid, plain = (config_of(tmp_path, *overrides) for overrides in ((), (VIVID,), PLAIN))
    evaluate(detailed, Computed(detailed))
    other = Computed(vivid, seed=1)
    evaluate(vivid, other)
    assert other.calls == 1
    without = evaluate(plain, Computed(plain, seed=2))
    kept = {name: values for name, values in evaluation_of(detailed).scores.items() if name != TRAINED}
    assert_equal(without, Evaluation(kept, evaluation_of(detailed).images))
    for config, seed in ((detailed, 0), (vivid, 1)):
        again = Computed(config, seed=3)
        assert evaluate(config, again).scores[TRAINED] == evaluation_of(config, seed).scores[TRAINED]
        assert again.calls == 0


def test_one_evaluation_serves_runs_with_all_control_words_of_the_config(tmp_path: Path) -> None:
    detailed, vivid = config_of(tmp_path), config_of(tmp_path, VIVID)
    names = {name for name, words in vivid.word_sets.items() if words in other_words(vivid).values()}
    assert names == {"paper", "detailed", "realistic", "bright", "muted"}
    expected, others = evaluation_of(detailed), {name: [float(n)] * 6 for n, name in enumerate(other_words(detailed))}
    assert_equal(evaluate(detailed, Computed(detailed, others=others)), expected)
    unused = Computed(vivid)
    again = evaluate(vivid, unused)
    (vivid_metric,) = [name for name, words in other_words(detailed).items() if words == vivid.trained_words]
    assert unused.calls == 0
    assert again.scores[TRAINED] == others[vivid_metric]
    assert list(again.scores) == list(expected.scores)


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda _content: b""])
def test_a_damaged_file_is_computed_again_with_a_warning(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    config = config_of(tmp_path, *PLAIN)
    evaluate(config, Computed(config))
    (file,) = folder_of(config).glob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    again = Computed(config, seed=1)
    with pytest.warns(UserWarning, match="was damaged"):
        assert_equal(evaluate(config, again), evaluation_of(config, 1))
    assert again.calls == 1
    assert_equal(evaluate(config, Computed(config)), evaluation_of(config, 1))


@pytest.mark.parametrize("reward", ["", "rewards.models.0={name: mean, type: python, target: 'some.module:Mean'}"])
def test_nothing_is_kept_if_the_cache_is_off_or_a_reward_is_code(reward: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, reward or "evaluation.cache=false")
    compute = Computed(config)
    for _ in range(2):
        evaluate(config, compute)
    assert compute.calls == 2
    assert not (tmp_path / "cache").exists()


def test_a_run_waits_for_another_that_computes_the_same(tmp_path: Path) -> None:
    config, found = config_of(tmp_path), list[Evaluation]()
    second = Computed(config, seed=1)
    other = threading.Thread(target=lambda: found.append(evaluate(config, second)))

    def start_the_other() -> None:
        other.start()
        # Time for the other to find nothing and to compute, if it did not wait.
        time.sleep(0.2)

    evaluate(config, Computed(config, before=start_the_other))
    other.join()
    assert second.calls == 0
    assert_equal(found[0], evaluation_of(config))


def test_a_run_waits_for_one_with_other_words_that_scores_its_images_for_all_words(tmp_path: Path) -> None:
    detailed, vivid = config_of(tmp_path), config_of(tmp_path, VIVID)
    second, found = Computed(vivid), list[Evaluation]()
    other = threading.Thread(target=lambda: found.append(evaluate(vivid, second)))
    others = {name: [float(n)] * 6 for n, name in enumerate(other_words(detailed))}

    def start_the_other() -> None:
        other.start()
        time.sleep(0.2)

    evaluate(detailed, Computed(detailed, before=start_the_other, others=others))
    other.join()
    assert second.calls == 0
    assert found[0].scores[TRAINED] in others.values()


def test_a_run_computes_for_itself_after_the_longest_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    second = Computed(config)
    monkeypatch.setattr(turns, "WAIT_S", 0.05)
    evaluate(config, Computed(config, before=lambda: evaluate(config, second)))
    assert second.calls == 1
    assert_equal(evaluate(config, Computed(config, seed=1)), evaluation_of(config))


def test_storage_without_file_locks_is_used_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    config = config_of(tmp_path)
    evaluate(config, Computed(config))
    assert_equal(evaluate(config, Computed(config, seed=1)), evaluation_of(config))


def test_an_evaluation_on_storage_that_cannot_be_written_is_returned_with_a_warning(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    folder_of(config).parent.mkdir(parents=True)
    folder_of(config).touch()
    for _ in range(2):
        compute = Computed(config)
        with pytest.warns(UserWarning, match="cannot keep the base model's evaluation"):
            assert_equal(evaluate(config, compute), evaluation_of(config))
        assert compute.sampled == evaluator_of(config).items


def test_an_evaluation_on_full_storage_is_returned_with_a_warning(tmp_path: Path) -> None:
    config, limits = config_of(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.warns(UserWarning, match="cannot keep the base model's evaluation"):
            assert_equal(evaluate(config, Computed(config)), evaluation_of(config))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (folder_of(config) / "images").exists()
    assert_equal(evaluate(config, Computed(config)), evaluation_of(config))


def test_runs_with_and_without_control_words_share_one_sampling(tmp_path: Path) -> None:
    vivid, plain, found = config_of(tmp_path, VIVID), config_of(tmp_path, *PLAIN), list[Evaluation]()
    # The run without words is the first to score, and the other one still needs the images when it has finished.
    with_words = Computed(vivid)
    other = threading.Thread(target=lambda: found.append(evaluate(vivid, with_words)))

    def start_the_other() -> None:
        other.start()
        assert with_words.has_sampled.wait(60)

    without = Computed(plain, before=start_the_other)
    evaluate(plain, without)
    other.join()
    assert (with_words.calls, without.calls) == (1, 1)
    assert sorted(with_words.sampled + without.sampled) == evaluator_of(plain).items
    assert_equal(found[0], evaluation_of(vivid))
    assert not (folder_of(plain) / "images").exists()


def test_a_computation_that_fails_frees_its_place(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    config = config_of(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(config, Computed(config, before=fail))
    started = time.monotonic()
    evaluate(config, Computed(config))
    assert time.monotonic() - started < turns.WAIT_S / 2
