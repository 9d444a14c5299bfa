"""Control words and conditioning of prompt files in whole updates and evaluations of the small world."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.rewards.base import ScoreRequest
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.training.ranks import joined, run_ranks

MODEL = [f"a small {color} circle on a gray background" for color in ("red", "blue", "green", "white", "black", "pink")]
"""Texts that condition the model, the last two in evaluations."""
READ = [f"a {color} square" for color in ("red", "blue", "green", "white", "black", "pink")]
"""Texts that the rewards read."""
WORDS = [("vivid", "muted"), ("bright", "dark"), ("realistic", "cartoon"), ("detailed", "flat")] + [
    ("sunny", "dim")
] * 2
"""Positive and negative word of each prompt."""
SET = ("textured", "simple")
"""Words of the run's set."""
Rows = Sequence[Mapping[str, Any]]


class Replaced:
    """Rewards that replace texts of queries, and keep the texts that they read."""

    def __init__(self, rewards: LocalRewards, replaced: Mapping[str, str]) -> None:
        self._rewards, self._replaced = rewards, replaced
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rewards, name)

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> Any:
        return self._rewards.submit(images, self._changed(queries))

    def request(self, images: Tensor, requests: Sequence[ScoreRequest]) -> Any:
        changed = [ScoreRequest(self._changed(each.queries), each.names) for each in requests]
        return self._rewards.request(images, changed)

    def _changed(self, queries: Sequence[TextQuery]) -> list[TextQuery]:
        changed = [
            TextQuery(tuple((weight, self._replaced.get(text, text)) for weight, text in query.terms))
            for query in queries
        ]
        self.read |= {text for query in changed for text in query.texts}
        return changed


def config_of(folder: Path, rows: Rows, name: str, *settings: str) -> RunConfig:
    for file, part in (("train", rows[:4]), ("evaluate", rows[4:])):
        (folder / f"{name}_{file}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    own = [f"data.prompts={folder}/{name}_train.jsonl", f"evaluation.prompts={folder}/{name}_evaluate.jsonl"]
    own += [f"word_sets.own={{positive: [{SET[0]}], negative: [{SET[1]}]}}", "algorithm.control_words=own"]
    # Each run encodes its texts itself, and evaluates the base model itself.
    own += [f"run_root={folder / name}", "evaluation.cache=false", "evaluation.num_prompts=2"]
    return load_run([SMALL_WORLD], [*TINY, *own, *settings])


def trained(config: RunConfig, rewards: LocalRewards, replaced: Mapping[str, str]) -> tuple[dict[str, Any], set[str]]:
    """Weights after two updates, and all metrics of the updates and evaluations; and the texts of the rewards."""
    scorer: Any = Replaced(rewards, replaced)
    trainer = build_trainer(config, RunFolder(Path(config.run_root) / "run"), scorer, "cpu", None)
    trainer.folder.make()
    results: dict[str, Any] = {f"base {name}": value for name, value in trainer.evaluate(0).items()}
    for update in range(2):
        results |= {f"{update} {name}": value for name, value in trainer.update(update).items()}
    results |= {f"evaluation {name}": value for name, value in trainer.evaluate(2).items()}
    chosen = {name: value for name, value in results.items() if "time/" not in name and "memory/" not in name}
    return {**chosen, **joined(trainer.engine.weights())}, scorer.read


def all_runs(folder: str) -> dict[str, Any]:
    """Results of all runs, trained one after the other with one set of reward models."""
    root = Path(folder)
    rows = [
        {"prompt": read, "conditioning": text, "positive_words": [words[0]], "negative_words": words[1]}
        for read, text, words in zip(READ, MODEL, WORDS, strict=True)
    ]
    texts = [
        {f"{ours}. {text}": f"{own}. {read}" for ours, own in zip(SET, words, strict=True)} | {text: read}
        for read, text, words in zip(READ, MODEL, WORDS, strict=True)
    ]
    replaced = {text: other for each in texts for text, other in each.items()}
    # The words of `evaluation.relative` are the same for all prompts.
    replaced |= {f"{w}. {text}": f"{w}. {read}" for w in WORDS[3] for read, text in zip(READ, MODEL, strict=True)}
    equal = [
        {"prompt": text, "conditioning": text, "positive_words": SET[0], "negative_words": SET[1]} for text in MODEL
    ]
    plain = [{"prompt": text} for text in MODEL]
    configs: dict[str, tuple[Rows, Mapping[str, str], list[str]]] = {
        "own": (rows, {}, []),
        "replaced": (plain, replaced, []),
        "equal": (equal, {}, []),
        "plain": (plain, {}, []),
        "own, joined": (rows, {}, ["training.micro_batch_size=1", "rollout.batch_size=4"]),
    }
    rewards = LocalRewards.load(config_of(root, plain, "load").rewards.models)
    found: dict[str, Any] = {}
    for name, (file, others, settings) in configs.items():
        config = config_of(root, file, name.replace(", ", "_"), *settings)
        found[name], read = trained(config, rewards, others)
        found[f"{name}: texts"] = sorted(read)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("own_words")
    return run_ranks(all_runs, 1, folder, str(folder))


def assert_same_bits(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    equal: Callable[[Any, Any], bool] = lambda one, other: one == other  # noqa: E731
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal if isinstance(value, Tensor) else equal
        assert same(found[name], value), name


def test_run_with_own_words_and_conditioning_is_that_of_rewards_that_replace_the_texts(runs: dict[str, Any]) -> None:
    assert_same_bits(runs["own"], runs["replaced"])
    assert not torch.equal(*(next(v for v in runs[n].values() if isinstance(v, Tensor)) for n in ("own", "plain")))


def test_columns_equal_to_prompt_and_set_change_no_bit(runs: dict[str, Any]) -> None:
    assert_same_bits(runs["equal"], runs["plain"])


def test_rewards_read_prompts_and_own_words_and_never_the_conditioning(runs: dict[str, Any]) -> None:
    own = {f"{word}. {read}" for read, words in zip(READ, WORDS, strict=True) for word in words}
    relative = {f"{word}. {read}" for read in READ[4:] for word in ("detailed", "flat")}
    assert set(runs["own: texts"]) == own | relative | set(READ[4:])


def test_rollouts_of_several_micro_batches_keep_the_words_of_each_row(runs: dict[str, Any]) -> None:
    assert runs["own, joined: texts"] == runs["own: texts"]
    for name in ("0 reward/total/denoise", "0 loss/inversion", "evaluation reward/total/trained"):
        assert runs["own, joined"][name] == pytest.approx(runs["own"][name], rel=1e-4, abs=1e-6), name
