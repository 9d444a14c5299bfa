"""Registration of a trained run in MLflow's model registry: its export, its card and what it reached."""

import logging
from collections.abc import Mapping
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.files import read_json
from srpo_ray.inference.export import export_run
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.registry import register_model

logger = logging.getLogger(__name__)


def register_run(config: RunConfig, run_dir: Path, reached: Mapping[str, str]) -> str | None:
    """Register a run as `tracking.register_as`, with its export in `export/` of the run's folder.

    Args:
        config: Config with the name of the registered model. Without one, nothing is registered.
        run_dir: Folder of the run.
        reached: Tags of the version, such as the objective and its value.

    Returns:
        Sentence for the user; None if nothing was registered. A warning tells the reason.
    """
    name = config.tracking.register_as
    if not name:
        return None
    folder, out = RunFolder(run_dir), run_dir / "export"
    try:
        export_run(run_dir, out)
    except ValueError as error:
        logger.warning("tracking.register_as: %s was not registered: %s", run_dir, error)
        return None
    card = (out / "README.md").read_text(encoding="utf-8")
    tags = {"run": run_dir.name, "run_dir": str(run_dir), **reached}
    version = register_model(folder.tracker_record, name, out, card, tags)
    return f"registered: {name}, version {version}" if version else None


def register_best(config: RunConfig, experiment: Path) -> str | None:
    """Register the best run of an experiment, which `best_run.json` in its folder names.

    Args:
        config: Base config of the experiment.
        experiment: Folder of the experiment.

    Returns:
        As for `register_run`.
    """
    file = experiment / "best_run.json"
    if not config.tracking.register_as or not file.exists():
        return None
    best = read_json(file)
    reached = {"experiment": experiment.name, "arm": best["arm"], "objective": best["objective"]}
    reached["value"] = f"{best['value']:g}"
    return register_run(config, experiment / "trials" / best["run"], reached)
