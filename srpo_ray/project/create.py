"""Creation of a project folder from a template."""

import re
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from srpo_ray import __version__
from srpo_ray.config.base import check_name
from srpo_ray.packaged import project_files
from srpo_ray.project.cluster_file import CLUSTER_FILES, project_cluster_file
from srpo_ray.project.templates import TEMPLATES, Template, find_template

FILES = Path(__file__).parent / "files"
_EMBEDDED_PROMPTS = "small_world:train"


def create_project(folder: Path, template: str) -> list[Path]:
    """Write a project folder.

    Args:
        folder: Folder to write. Its name becomes the name of the run.
        template: Name of a template.

    Returns:
        Files that were written, relative to the folder.

    Raises:
        ValueError: If the template is unknown, the name cannot be that of a run, or the folder is not empty or cannot
            be written.
    """
    chosen = find_template(template)
    name = _project_name(folder)
    try:
        occupied = folder.exists() and any(folder.iterdir())
    except NotADirectoryError as error:
        raise ValueError(f"expected a new or empty folder, got the file {folder}; give another name") from error
    if occupied:
        raise ValueError(
            f"expected a new or empty folder, got {folder}, which has files; nothing is overwritten, so"
            " give another name"
        )
    contents = _contents(name, template, chosen)
    try:
        for path, text in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"expected a writable folder, got {folder} ({error}); choose another") from error
    return [Path(path) for path in contents]


def _project_name(folder: Path) -> str:
    try:
        return check_name(folder.resolve().name)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _contents(name: str, template: str, chosen: Template) -> dict[str, str]:
    """Return the text of each file of a project by its path in the folder."""
    root = project_files()
    prompts = {path.name: path.read_text(encoding="utf-8") for path in sorted((FILES / chosen.files).glob("*.txt"))}
    layers = {own: _without_header(root / file) for file, own in chosen.layers}
    words = {
        "name": name,
        "template": template,
        "about": chosen.about,
        "source": chosen.config,
        "sources": dict(zip(chosen.config_files, (chosen.config, *(file for file, _ in chosen.layers)), strict=True)),
        "configs": " ".join(chosen.config_files),
        "base": ", ".join(chosen.config_files),
        "gpu": chosen.gpu,
        "extra": chosen.extra,
        "prompts": sorted(prompts),
        "version": __version__,
    }
    return {
        "README.md": _render(FILES / "README.md", words),
        "config.yaml": _config(root / chosen.config, chosen.config, name),
        **{own: f"# {_origin(file)}\n{layers[own]}" for file, own in chosen.layers},
        "sweep.yaml": _render(FILES / chosen.files / "sweep.yaml", words),
        **{f"prompts/{file}": text for file, text in prompts.items()},
        "cluster.yaml": project_cluster_file((root / "cluster.yaml").read_text(encoding="utf-8")),
        **{file: (root / file).read_text(encoding="utf-8") for file in CLUSTER_FILES},
        ".gitignore": (FILES / "gitignore").read_text(encoding="utf-8"),
    }


def _config(path: Path, origin: str, name: str) -> str:
    """Return the text of a packaged run config with the project's name, and its own prompts to train on."""
    text = re.sub(r"^name: .*$", f'name: "{name}"', _without_header(path), count=1, flags=re.MULTILINE)
    return f"# {_origin(origin)}\n{text.replace(_EMBEDDED_PROMPTS, 'prompts/train.txt')}"


def _origin(file: str) -> str:
    return f"From {file} of srpo_ray {__version__}. `srpo-ray train ... --dry-run` prints every key."


def _without_header(path: Path) -> str:
    """Return the text of a file without the comment at its top, which is about the file's place in the package."""
    return re.sub(r"\A(?:#.*\n)+", "", path.read_text(encoding="utf-8"))


def _render(path: Path, words: dict[str, object]) -> str:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(path.read_text(encoding="utf-8")).render(words)


def template_list() -> str:
    """Return one line per template: its name, and what it is."""
    width = max(map(len, TEMPLATES))
    return "\n".join(f"  {name:<{width}}  {template.about}" for name, template in TEMPLATES.items())
