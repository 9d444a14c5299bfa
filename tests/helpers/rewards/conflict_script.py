"""Script of a driver that has version 1 of a package and a reward that has version 2: prints results in JSON.

    DRIVER/bin/python -m tests.helpers.rewards.conflict_script FOLDER

pip finds the packages through its own environment variables.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.launch.session import ray_session
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery

TARGET = "tests.helpers.rewards.taste_reward:TasteReward"
OWN = PythonRewardConfig.model_validate(
    # The second one is no conflict: the driver has it.
    {"name": "own", "type": "python", "target": TARGET, "environment": {"packages": ["taste==2", "numpy>1"]}}
)
SHARED = PythonRewardConfig(name="shared", target=TARGET)
QUERIES = [TextQuery.plain("a"), TextQuery(((1.5, "b"), (-0.25, "c")))]


def images(dtype: torch.dtype) -> torch.Tensor:
    """Two random images."""
    return torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def main(folder: Path) -> dict[str, object]:
    """Score in a pool, kill the reward's process in mid-call, and score in this process."""
    pixels = images(torch.float32).requires_grad_()
    with ray_session(None), RewardPool.create([OWN], [SHARED], PoolConfig(num_cpus=0.01), "conflict") as pool:
        client = RewardClient.connect(pool.name, {"own": 1.0})
        measured = client.measure(pixels.detach(), QUERIES)
        total = client.submit(pixels, QUERIES).result().total
        (gradient,) = torch.autograd.grad(total.square().sum(), pixels)
        client.take_statistics()
        lost = [TextQuery.plain(f"once:{folder / 'killed'}"), QUERIES[1]]
        again = client.submit(pixels, lost).result().total
        replays = client.take_statistics()["pool/replays"]
    exact = images(torch.float64).requires_grad_()
    total64 = LocalRewards.load([OWN]).submit(exact, QUERIES).result().total
    (gradient64,) = torch.autograd.grad(total64.square().sum(), exact)
    return {
        "driver": version("taste"),
        "own": measured["own"].tolist(),
        "shared": measured["shared"].tolist(),
        "total": total.tolist(),
        "gradient": gradient.tolist(),
        "again": again.tolist(),
        "replays": replays,
        "total64": total64.tolist(),
        "gradient64": gradient64.tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
