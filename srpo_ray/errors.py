"""Errors that end a command without a traceback; a `ValueError` is one too, for a person's own mistake."""


class RunFailedError(RuntimeError):
    """Something that began well and could not go on; the message says what and why."""


class CheckpointError(RunFailedError):
    """A checkpoint that could not be written; the message says why, and which one stays."""


class OutOfMemoryRunError(RunFailedError):
    """A run that needs more memory than its GPU has; the message has the plan and what to change."""


class StudyInterruptedError(RuntimeError):
    """A sweep, study or evaluation was stopped and can be resumed; the message says how."""
