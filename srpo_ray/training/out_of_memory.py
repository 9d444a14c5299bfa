"""Error of a run that exceeds its GPU's memory, with the plan and the changes that save memory."""

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
        f"out of memory: {said}\nWhat this run holds by its plan, and what would save memory; give a change as"
        f" KEY=VALUE to the same command, with another `name`:\n{plan_text(plan, advise(config, plan))}"
    )
