"""Paths of a pipeline's files: in a folder, on the Hugging Face hub, or inside this package."""

from pathlib import Path

SMALL_WORLD = "small_world"


def resolve_path(path: str) -> str:
    """Return a pipeline's folder or hub id; `small_world` becomes the folder of the embedded pipeline."""
    if path == SMALL_WORLD:
        from srpo_ray.small_world.weights import flux_dir

        return str(flux_dir())
    return path


def is_adapter(path: Path) -> bool:
    """Test whether a path names a LoRA: a file, or a folder with one, such as an export; a run has none at its top."""
    return path.is_file() or path.suffix == ".safetensors" or any(path.glob("*.safetensors"))


def is_hub_id(path: str) -> bool:
    """Test if a path is a hub id ORG/NAME: exactly one slash, and no such local folder."""
    return not Path(path).exists() and not Path(path).is_absolute() and path.count("/") == 1


def pipeline_file(path: str, name: str) -> Path:
    """Return the path of one file of a pipeline, which is downloaded once if it is on the hub.

    Args:
        path: Folder or hub id, as returned by `resolve_path`.
        name: Path inside the pipeline, such as `model_index.json`.

    Raises:
        ValueError: If the file does not exist or cannot be downloaded.
    """
    if not is_hub_id(path):
        file = Path(path) / name
        if not file.is_file():
            received = f"a folder without {name}" if Path(path).is_dir() else "no folder"
            raise ValueError(
                f"model.path: expected a folder with a pipeline in the diffusers layout, got {path!r}, {received}; give"
                " the folder that `save_pretrained` of the pipeline wrote, a hub id like ORG/NAME, or small_world"
            )
        return file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(path, name))
    except GatedRepoError as error:
        raise ValueError(
            f"model.path: expected access to {path!r}, got a refusal, because its authors require agreement to a"
            f" licence; accept it on https://huggingface.co/{path}, then log in with `hf auth login`, or set HF_TOKEN,"
            " on every machine that loads the model"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(
            f"model.path: expected a folder, or an accessible hub id, got {path!r}, whose {name} cannot be downloaded"
            f" ({type(error).__name__}: {str(error).splitlines()[0]}); check the name and the network, and run"
            " `hf auth login` for a private model"
        ) from error


def unreadable(path: str, part: str, error: Exception) -> str:
    """Build the error message for an unreadable part of a pipeline."""
    return (
        f"model.path: expected a pipeline in the diffusers layout, got {path!r}, whose {part} cannot be read"
        f" ({type(error).__name__}: {str(error)[:300]}); download or save it again"
    )
