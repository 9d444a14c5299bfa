"""What a run's rows say that a person should know, though the run itself could go on."""

from srpo_ray.evaluation.alarm import Alarm, alarm_texts
from srpo_ray.training.run_folder import CHECKPOINT_DAMAGED, CHECKPOINT_FAILED, RunFolder, read_rows


def warnings(folder: RunFolder) -> list[str]:
    """Everything that is said at the end of a run, each with the run's name; empty for a healthy run."""
    idle = idle_warning(folder)
    alarms = [f"{folder.path.name}: {message}" for message in alarm_texts(read_alarms(folder))]
    if alarms and folder.best_step is not None:
        model = f"the checkpoint of update {folder.best_step}" if folder.best_step else "the untrained model"
        alarms.append(f"{folder.path.name}: stopped by the alarm; best was {model}, which `srpo-ray sample` takes")
    problems = (CHECKPOINT_FAILED, CHECKPOINT_DAMAGED)
    failed = [row["message"] for row in read_rows(folder.events) if row["event"] in problems]
    lost = [f"{folder.path.name}: {message}" for message in failed]
    return [*([idle] if idle else []), *lost, *alarms]


def idle_warning(folder: RunFolder) -> str | None:
    """A plain warning if updates changed nothing, or None.

    Args:
        folder: The run.
    """
    rows = read_rows(folder.steps)
    idle = sum(row["step/gradient_norm"] == 0 for row in rows)
    if not idle:
        return None
    return (
        f"{folder.path.name}: the gradient was exactly zero in {idle} of {len(rows)} updates, so they taught nothing;"
        " with a hinge this means that every reward was above algorithm.hinge: raise it above the rewards' range"
    )


def read_alarms(folder: RunFolder) -> list[Alarm]:
    """All alarms of a run, in order."""
    return [Alarm(**row) for row in read_rows(folder.alarms)]
