"""Cache on disk of evaluations of the base model, which are the same for all runs that start from it."""

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

import srpo_ray
from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.baseline_settings import baseline_settings, is_cached
from srpo_ray.data.cache.shards import ShardStore
from srpo_ray.data.cache.text_features import cache_root
from srpo_ray.evaluation.evaluator import TRAINED, Evaluation, Evaluator
from srpo_ray.models.content_hash import content_hash
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.runs.collectives import rank_and_world_size
from srpo_ray.runs.inputs import lora_hashes, model_hashes, reward_hashes
from srpo_ray.training.shared_sampling import SharedImages

_SCORE, _IMAGE = "score", "image"
_SHARED = "shared"
"""Key of all that does not depend on the control words of the run."""
_CODE = ("evaluation", "flow", "models", "rewards", "small_world")
"""Packages whose code determines images and scores."""
_LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch")


def other_words(config: RunConfig) -> dict[str, ControlWords]:
    """Choose the sets of control words for which a run of an experiment scores the base model's images for the others.

    Its images are not stored, so another run would sample them again to score them for its own words.

    Returns:
        Name of the metric in an evaluation -> words: all sets of the config with words on both sides but the run's own,
        if it trains with words and the evaluation is cached.
    """
    if config.trained_words is None or not is_cached(config):
        return {}
    others = [words for words in config.word_sets.values() if words.complete and words != config.trained_words]
    return {f"{TRAINED}/{_words_key(words)}": words for words in others}


class BaselineCache:
    """Evaluation of one base model by one evaluator.

    The scores for the control words of a run have an entry of their own, so that a run without them reads the rest.
    """

    def __init__(self, config: RunConfig, evaluator: Evaluator, device: torch.device) -> None:
        """Find the folder; whatever changes a score or an image has a folder of its own.

        Raises:
            ValueError: If a model cannot be read.
        """
        self._config, self._words = config, evaluator.trained_words
        identity = json.dumps(baseline_identity(config, evaluator, device), sort_keys=True)
        self.store = ShardStore(cache_root(config) / "baselines" / _hash(identity)[:16])

    @property
    def _keys(self) -> list[str]:
        return [_SHARED, *([_words_key(self._words)] if self._words else [])]

    def read(self) -> Evaluation | None:
        """Read the evaluation; None if it is missing. A damaged file is removed with a warning."""
        if self.store.missing(self._keys):
            return None
        columns: list[tuple[str, str, list[float]]] = []
        images: dict[int, torch.Tensor] = {}
        for name, tensor in (entry for key in self._keys for entry in self.store.rows([key])[[0]].items()):
            kind, number, metric = name.split("/", 2)
            if kind == _SCORE:
                columns.append((number, metric, tensor.tolist()[0]))
            else:
                images[int(number)] = tensor[0]
        return Evaluation({name: values for _, name, values in sorted(columns)}, dict(sorted(images.items())))

    def images(self, evaluator: Evaluator, policy: Callable[[], FlowPolicy]) -> SharedImages:
        """Describe the images that processes and threads sample together until the evaluation is complete.

        Args:
            evaluator: Evaluator of the run.
            policy: Function that returns the base model's policy, called for the first batch at the earliest.
        """
        return SharedImages(
            self.store.folder, evaluator, lambda items: evaluator.sample(policy(), items), self.is_complete
        )

    def is_complete(self) -> bool:
        """Test whether the evaluation is stored; only headers are read."""
        return self.store.keys().issuperset(self._keys)

    def write(self, evaluation: Evaluation) -> bool:
        """Write the entries of an evaluation that are missing, each atomically; False, with a warning, if it fails."""
        entries: dict[str, dict[str, torch.Tensor]] = {key: {} for key in self._keys}
        names = [name for name in evaluation.scores if not name.startswith(f"{TRAINED}/")]
        for number, name in enumerate(names):
            key = self._keys[-1] if name == TRAINED else _SHARED
            # The numbers keep the order of the metrics, which a file of tensors does not.
            entries[key][f"{_SCORE}/{number:03d}/{name}"] = _column(evaluation.scores[name])
        for name in evaluation.scores.keys() - set(names):
            entries[name.rpartition("/")[2]] = {
                f"{_SCORE}/{names.index(TRAINED):03d}/{TRAINED}": _column(evaluation.scores[name])
            }
        for prompt, image in evaluation.images.items():
            entries[_SHARED][f"{_IMAGE}/{prompt:06d}/"] = image[None]
        keys = list(entries)
        try:
            for index in self.store.missing(keys):
                self.store.add([keys[index]], entries[keys[index]])
        except (OSError, SafetensorError) as error:
            warnings.warn(f"{self.store.folder} cannot keep the base model's evaluation: {error}", stacklevel=2)
            return False
        return True


def baseline_identity(config: RunConfig, evaluator: Evaluator, device: torch.device) -> dict[str, Any]:
    """List everything that an evaluation of the base model depends on, except the run's control words.

    Args:
        config: The run.
        evaluator: Evaluator of the run.
        device: Device of the model.

    Raises:
        ValueError: If a model cannot be read.
    """
    start = lora_hashes(config)
    return {
        **baseline_settings(config, evaluator.config),
        **({"LoRA files": start} if start else {}),
        "model": model_hashes(config),
        "prompts": evaluator.prompts,
        **_own_texts(evaluator),
        "sigmas": evaluator.sigmas.tolist(),
        "truth": evaluator.truth,
        "reward models": reward_hashes(config),
        "hardware": [_device_name(device), torch.get_num_threads(), rank_and_world_size()[1]],
        "code": _code_hash(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _own_texts(evaluator: Evaluator) -> dict[str, Any]:
    """Conditioning and words of the prompts, if any prompt has its own."""
    found: dict[str, Any] = {}
    if evaluator.conditioned_on != evaluator.prompts:
        found["conditioning"] = evaluator.conditioned_on
    if any(evaluator.own_words):
        found["own words"] = [[own.positive, own.negative] for own in evaluator.own_words]
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


@cache
def _code_hash() -> str:
    root = Path(srpo_ray.__file__).parent
    files = sorted(file for package in _CODE for file in (root / package).rglob("*.py"))
    return _hash(json.dumps([[file.relative_to(root).as_posix(), content_hash(file)] for file in files]))


def _words_key(words: ControlWords) -> str:
    return _hash(words.model_dump_json())[:32]


def _column(values: list[float]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
