"""Change of the budget of an experiment that continues: runs that the earlier budget refused ask again."""

import json
from pathlib import Path

from srpo_ray.files import read_json_or, write_text
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search.budget_requests import read_decisions, withdraw, write_decisions
from srpo_ray.search.budget_terms import parse_name


def _ends(folder: Path) -> Path:
    return folder / "budget" / "ends.json"


def _changes(folder: Path) -> Path:
    return folder / "budget" / "changes.json"


def search_note(folder: Path) -> Path:
    """File of what the search has spent, once it is over."""
    return folder / "budget" / "search.json"


def note_over(folder: Path, name: str) -> None:
    """Note that a run is over: it has made its last update, or something else than the budget has ended it."""
    _note_end(folder, name, over=True)


def note_cut(folder: Path, name: str) -> None:
    """Note that the budget has stopped a run."""
    _note_end(folder, name, over=False)


def _note_end(folder: Path, name: str, *, over: bool) -> None:
    known: dict[str, bool] = read_json_or(_ends(folder), {})
    if known.get(name) != over:
        write_text(_ends(folder), json.dumps({**known, name: over}) + "\n")


def is_over(folder: Path, name: str) -> bool:
    """Test whether a run of an experiment whose budget has changed only reports again what it has."""
    return bool(_generation(folder)) and bool(read_json_or(_ends(folder), {}).get(name))


def phase_name(folder: Path, phase: str) -> str:
    """Name of a phase in Ray Tune's folder: after a change of the budget that lets more runs start, another one.

    Ray Tune starts no trial of a phase again that has ended, and draws no more values once a search was stopped.

    Args:
        folder: Folder of the experiment.
        phase: Name of the phase.
    """
    generation = _generation(folder)
    return f"{phase}_budget_{generation + 1}" if generation else phase


def _generation(folder: Path) -> int:
    return len(read_json_or(_changes(folder), []))


def change_budget(folder: Path) -> None:
    """Let the runs ask again that an earlier budget has refused or stopped, and trials that have not ended.

    What was spent is kept. Seeds and ablations that have started keep their start.

    Args:
        folder: Folder of the experiment, which does not run.
    """
    decisions, ends = read_decisions(folder), read_json_or(_ends(folder), {})
    cut = [name for name, over in ends.items() if not over]
    # A population that has begun does not grow: its later rounds depend on all its trials.
    refused = [name for name, started in decisions.items() if not started and not _in_first_round(name)]
    going = [
        name
        for name, started in decisions.items()
        if started and parse_name(name).is_trial and name not in ends and not _has_finished(folder, name)
    ]
    for name in {*cut, *refused, *going}:
        withdraw(folder, name)
        decisions.pop(name, None)
    if cut or refused:
        # A start that is interrupted here repeats the change, and finds nothing to do.
        changes = read_json_or(_changes(folder), [])
        note = search_note(folder)
        write_text(_changes(folder), json.dumps([*changes, {"runs": sorted({*cut, *refused})}]) + "\n")
        note.unlink(missing_ok=True)
    if decisions or going or refused:
        write_decisions(folder, decisions)
    if cut:
        write_text(_ends(folder), json.dumps({name: over for name, over in ends.items() if over}) + "\n")


def _in_first_round(name: str) -> bool:
    parsed = parse_name(name)
    return parsed.is_trial and parsed.round == 1


def _has_finished(folder: Path, name: str) -> bool:
    return RunFolder(folder / "trials" / name).finished.exists()
