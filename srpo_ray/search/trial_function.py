"""Function that Ray Tune calls in the process of a trial.

Ray imports the modules of the function and of its values before the call, and Python collects garbage meanwhile, which
takes a quarter of the time. So these modules import no torch.
"""

from srpo_ray.config import RunConfig
from srpo_ray.imports import large_imports
from srpo_ray.search.trial import Experiment


def run_trial(experiment: Experiment, config: RunConfig, here: bool) -> None:
    """Train one trial; arguments as for `train_trial`."""
    with large_imports():
        from srpo_ray.search.train_trial import train_trial

    train_trial(experiment, config, here)
