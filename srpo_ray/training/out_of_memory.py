"""Out-of-memory error of a run, with its plan and with changes that save memory."""

import torch

from srpo_ray.config import RunConfig
from srpo_ray.errors import OutOfMemoryRunError
from srpo_ray.planning.advice import advise
from srpo_ray.planning.hardware import GIB, Hardware
from srpo_ray.planning.plan import make_plan
from srpo_ray.planning.report import plan_text


def out_of_memory(config: RunConfig, error: torch.OutOfMemoryError) -> OutOfMemoryRunError:
    """Build the error that replaces torch's own.

    Args:
        config: The run.
        error: Error of torch.
    """
    memory = torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else None
    plan = make_plan(config, Hardware(memory_gib=memory))
    said = str(error).split("\n")[0]
    return OutOfMemoryRunError(
        f"out of memory: {said}\nMemory of this run by its plan, and changes that save memory. Pass a change as"
        f" KEY=VALUE to the same command, with another `name`:\n{plan_text(plan, advise(config, plan))}"
    )
