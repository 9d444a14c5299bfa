"""Where a pipeline's files are: a folder, the Hugging Face hub, or inside this package."""

from pathlib import Path

SMALL_WORLD = "small_world"


def resolve_path(path: str) -> str:
    """Folder or hub id of a pipeline; `small_world` becomes the folder of the embedded one."""
    if path == SMALL_WORLD:
        from srpo_ray.small_world.weights import flux_dir

        return str(flux_dir())
    return path


def is_hub_id(path: str) -> bool:
    """Whether a path is the hub's ORG/NAME: exactly one slash, and no such folder here."""
    return not Path(path).exists() and not Path(path).is_absolute() and path.count("/") == 1


def pipeline_file(path: str, name: str) -> Path:
    """One file of a pipeline, downloaded once if it is on the hub.

    Args:
        path: Folder or hub id, as `resolve_path` gives it.
        name: Path inside of it, such as `model_index.json`.

    Raises:
        ValueError: If it is not there, or the hub does not give it.
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
            f"model.path: expected access to {path!r}, got a refusal, as its authors ask for agreement first; accept"
            f" the licence on https://huggingface.co/{path}, then log in with `hf auth login`, or set HF_TOKEN, on"
            " every machine that loads the model"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(
            f"model.path: expected a folder, or an id of the hub that can be read, got {path!r}, whose {name} cannot be"
            f" had ({type(error).__name__}: {str(error).splitlines()[0]}); check the name and the network, for a"
            " private one `hf auth login`"
        ) from error


def unreadable(path: str, part: str, error: Exception) -> str:
    """What to say of a part that cannot be read."""
    return (
        f"model.path: expected a pipeline in the diffusers layout, got {path!r}, whose {part} cannot be read"
        f" ({type(error).__name__}: {str(error)[:300]}); download or save it again"
    )
