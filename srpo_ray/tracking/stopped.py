"""Final status of an MLflow run that an error or Ctrl-C has stopped, and that a resume continues."""

import logging
from pathlib import Path

from srpo_ray.credentials import redact
from srpo_ray.tracking.client import connect, delivery_errors
from srpo_ray.tracking.delivery import replay
from srpo_ray.tracking.record import read_record
from srpo_ray.tracking.tracker import Status

_log = logging.getLogger(__name__)

_RESUME = "resume"
"""Name of a receiver that acknowledges nothing. It keeps the spool file, which tells a resumed run what was logged."""


def end_stopped_run(record: Path, spool: Path, status: Status) -> bool:
    """Send what a stopped run has left to MLflow, and set the run's status if it is still `RUNNING`.

    The spool file is kept: a resumed run repeats updates, and reads there which of their metrics were logged. A store
    that cannot be reached, a deleted run or a damaged record give a warning, because the reason why the run was stopped
    matters more.

    Args:
        record: File that `start_run` wrote; without it there is no run.
        spool: File of the run's tracker, whose process has ended.
        status: Final status of the run.

    Returns:
        False if the store could not be reached or refused.
    """
    if not record.exists():
        return True
    try:
        known = read_record(record)
        client = connect(known["uri"])
        if client.get_run(known["run_id"]).info.status != "RUNNING":
            return True
        if spool.exists():
            replay(spool, known["uri"], keep_for=[_RESUME])
        client.set_terminated(known["run_id"], status)
    except (ValueError, *delivery_errors()) as error:
        _log.warning("MLflow was not told that the run in %s has ended: %s", record.parent, redact(error))
        # A run that somebody has deleted, or a damaged record, says nothing about the next run.
        return isinstance(error, ValueError) or getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"
    return True
