"""Errors that end a command without a traceback. For a user's mistake, the project raises `ValueError`."""


class RunFailedError(RuntimeError):
    """Failure after a valid start; the message states the cause."""


class TrainingError(RunFailedError):
    """Failure of a training run; the message contains the cause."""


class CheckpointError(RunFailedError):
    """Failed write of a checkpoint; the message states the cause and the latest valid checkpoint."""


class OutOfMemoryRunError(RunFailedError):
    """Run that needs more memory than its GPU has; the message has the memory plan and the settings to change."""


class CommandInterruptedError(RuntimeError):
    """Interruption by Ctrl-C of an experiment or a sampling command; the message states how to resume it."""
