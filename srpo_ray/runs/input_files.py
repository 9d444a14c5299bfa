"""Model files of a config, and the hashes of their content; reward models are hashed without network access."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.models.content_hash import COMMIT, content_hash, folder_hashes, pipeline_hashes
from srpo_ray.models.families import family_of
from srpo_ray.models.paths import SMALL_WORLD, is_adapter, is_hub_id, resolve_path

Source = tuple[str, str, Callable[[], dict[str, str]]]
"""Config key, its value, and a function that returns part -> hash; the function may raise OSError."""

MODEL = "model.path"
LORA_START = "model.lora.start_from"
CONTRAST = "evaluation.contrast_with"
CODE = "target"
"""Last part of the key of a Python reward's class: a change of its code is a warning, not an error."""

_HUB = "hf-hub:"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_NO_WEIGHTS = ("training_args.bin",)
"""Files with a suffix of weights that transformers writes beside them."""


def model_source(config: RunConfig) -> Source:
    """Return the source of the pipeline that a run tunes: transformer, VAE, text encoders and tokenizers."""
    path = resolve_path(config.model.path)

    def read() -> dict[str, str]:
        return pipeline_hashes(path, ("transformer", "vae", *family_of(path).text_parts))

    return MODEL, config.model.path, read


def lora_sources(config: RunConfig) -> Iterator[Source]:
    """Yield the source of the LoRA that a run starts from, if it starts from one."""
    lora = config.model.lora
    start = lora.start_from if lora else None
    if start:

        def read() -> dict[str, str]:
            from srpo_ray.models.lora_files import adapter_files

            return {file.name: content_hash(file) for file in adapter_files(start)[0]}

        yield LORA_START, start, read


def contrast_sources(config: RunConfig) -> Iterator[Source]:
    """Yield the source of the other model of the contrast in evaluations, if it is not the base model."""
    other = config.evaluation.contrast_with
    if other:
        yield CONTRAST, other, lambda: _other_model(other)


def _other_model(path: str) -> dict[str, str]:
    """Hash a LoRA, or the trained weights of a finished run; empty if there are none."""
    with contrast_key_in_errors(path):
        if is_adapter(Path(path)):
            from srpo_ray.models.lora_files import adapter_files

            return {file.name: content_hash(file) for file in adapter_files(path)[0]}
        from srpo_ray.runs.folder import RunFolder
        from srpo_ray.runs.storage import Storage
        from srpo_ray.runs.trained_weights import finished_update, trained_identity

        folder = RunFolder(path)
        update = finished_update(folder)
        return {"trained weights": trained_identity(Storage(folder.checkpoints), update)} if update else {}


@contextmanager
def contrast_key_in_errors(path: str) -> Iterator[None]:
    """Name `evaluation.contrast_with` in errors of the block, and say what to do about storage that cannot be read.

    Args:
        path: The run or LoRA that the block reads.

    Raises:
        ValueError: For a `ValueError` or an `OSError` of the block.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{CONTRAST}: {str(error).removeprefix(f'{LORA_START}: ')}") from error
    except OSError as error:
        raise ValueError(
            f"{CONTRAST}: expected a run or LoRA that can be read, got {path} ({error}); correct the path, the"
            " permissions, or the access to the storage of its checkpoints"
        ) from error


def decoder_sources(config: RunConfig) -> Iterator[Source]:
    """Yield the source of the tiny decoder of a run, if it has one."""
    decoder = config.model.decoder
    if decoder:
        yield "model.decoder", decoder, lambda: _files_of(decoder)


def reward_sources(config: RunConfig) -> Iterator[Source]:
    """Yield the files, folders, hub ids and classes of the reward models of a run, trained and held-out."""
    for section, models in (
        ("rewards.models", config.rewards.models),
        ("evaluation.held_out", config.evaluation.held_out),
    ):
        for index, model in enumerate(models):
            for field, read in (
                ("path", _files_of),
                ("backbone", _files_of),
                ("tokenizer", _files_of),
                ("questions", _files_of),
                (CODE, _code_of),
            ):
                source = getattr(model, field, None)
                if source:
                    yield f"{section}.{index}.{field}", source, lambda read=read, source=source: read(source)
            common = getattr(model, "common", None)
            if common and not common.prompts.startswith(f"{SMALL_WORLD}:"):
                key = f"{section}.{index}.common.prompts"
                yield key, common.prompts, lambda source=common.prompts: _files_of(source)


def _files_of(source: str) -> dict[str, str]:
    """Hash a folder, a file, or the cached files of a hub id; empty if none of them exists yet."""
    if source.startswith(f"{SMALL_WORLD}:"):
        from srpo_ray.small_world.weights import reward_dir

        return folder_hashes(reward_dir(source.removeprefix(f"{SMALL_WORLD}:")))
    path = Path(source.removeprefix("local-dir:"))
    if path.is_dir():
        return folder_hashes(path)
    if path.is_file():
        return {path.name: content_hash(path)}
    name = source.removeprefix(_HUB)
    return _cached_on_hub(name) if source.startswith(_HUB) or is_hub_id(name) else {}


def weight_hashes(source: str) -> frozenset[str]:
    """Hash the files with weights of a reward model's folder, file or cached hub id; empty if none exists yet."""
    hashes = _files_of(source)
    if COMMIT in hashes:
        hashes = folder_hashes(_hub_folder(source.removeprefix(_HUB)) / "snapshots" / hashes[COMMIT])
    # A single file has weights, whatever its name is.
    weights = {name: value for name, value in hashes.items() if Path(name).suffix in _WEIGHTS or len(hashes) == 1}
    return frozenset(value for name, value in weights.items() if Path(name).name not in _NO_WEIGHTS)


def _cached_on_hub(name: str) -> dict[str, str]:
    """Return the hash of a cached file `ORG/NAME/FILE`, or the cached commit of `ORG/NAME`, without network access."""
    from huggingface_hub import try_to_load_from_cache

    repository, file = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    if file:
        found = try_to_load_from_cache(repository, file)
        return {file: content_hash(Path(found))} if isinstance(found, str) else {}
    commit = _hub_folder(repository) / "refs" / "main"
    return {COMMIT: commit.read_text().strip()} if commit.is_file() else {}


def _hub_folder(repository: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def _code_of(target: str) -> dict[str, str]:
    """Hash the module of `package.module:Class`; empty if this process cannot find it."""
    try:
        found = importlib.util.find_spec(target.partition(":")[0])
    except (ImportError, AttributeError, ValueError):
        return {}
    file = Path(found.origin) if found and found.has_location and found.origin else None
    return {file.name: content_hash(file)} if file and file.is_file() else {}
