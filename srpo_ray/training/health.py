"""What a run's rows say that a person should know, though the run itself could go on."""

from srpo_ray.training.run_folder import RunFolder, read_rows


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
        " every reward was above algorithm.hinge, raise it above the rewards' range"
    )
