"""Key of the reward pool that a run needs: runs with equal keys share one."""

import json

from srpo_ray.config.run import RunConfig

_CLIENT_KEYS = {"weight", "spread"}
"""Keys of a model that the client applies, so that runs with other values share a pool."""


def pool_key(config: RunConfig) -> str:
    """Return a text that is equal for runs that can share a reward pool: models and pool, without weights."""
    models = [
        [model.model_dump(mode="json", exclude=_CLIENT_KEYS) for model in group]
        for group in (config.rewards.models, config.evaluation.held_out)
    ]
    pool = config.rewards.model_dump(mode="json", include={"in_process", "pool"})
    return json.dumps([models, pool], sort_keys=True)
