"""Rewards in processes of their own, with this environment's interpreter, so that no test installs anything."""

import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_ray.cli import main
from srpo_ray.config.reward_environment import EnvironmentSection
from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.rewards.base import LostRewardError, RewardError
from srpo_ray.rewards.environment.reward import class_in_environment
from srpo_ray.rewards.environment.venv import provide_environment
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery
from tests.conftest import ROOT, SMALL_WORLD

HELPERS = "tests.helpers.rewards.stand_in_rewards"
HERE = {"python": sys.executable}


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def reward(target: str, environment: dict[str, Any] = HERE, **arguments: Any) -> PythonRewardConfig:
    return PythonRewardConfig.model_validate(
        {
            "name": "own",
            "type": "python",
            "target": target if ":" in target else f"{HELPERS}:{target}",
            "arguments": arguments,
            "environment": environment,
        }
    )


def wait_until_gone(pid: int) -> None:
    """Return when no such process runs any more; fail after 20 seconds."""
    status = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 20
    while status.exists() and " Z " not in status.read_text():
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.1)


def test_weighted_queries_give_the_scores_and_gradients_of_the_same_class_without_an_environment() -> None:
    config = reward("CurvedReward", image_size=8, seed=3)
    images = torch.rand(3, 3, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    queries = [TextQuery.plain("a"), TextQuery(((1.5, "bb"), (-0.5, "c"))), TextQuery.relative("d", ["e"], ["ff"])]
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for model in (config, config.model_copy(update={"environment": None})):
        rewards = LocalRewards.load([model], micro_batch_size=2)
        total = rewards.submit(images, queries).result().total
        found.append((total, torch.autograd.grad((total * torch.tensor([1.0, -2.0, 3.0])).sum(), images)[0]))
        assert torch.equal(rewards.measure(images, queries)["own"], total)
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-12, atol=0)


def test_class_that_compares_pairs_does_so_in_its_environment() -> None:
    rewards = LocalRewards.load([reward("BrighterReward")])
    images = torch.tensor([0.2, 0.4]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    wins = rewards.compare(images, [TextQuery.plain("four")] * 2, [(0, 1), (1, 0)]).result()["own"]
    torch.testing.assert_close(wins, torch.tensor([0.45, 0.55]))
    assert rewards.pairwise == {"own"}
    assert class_in_environment(f"{HELPERS}:BrighterReward", EnvironmentSection(python=sys.executable)).compares


def test_reward_that_raises_or_is_not_finite_is_named_and_the_process_goes_on() -> None:
    rewards = LocalRewards.load([reward("ScriptedReward")])
    images = torch.zeros(2, 3, 4, 4)
    with pytest.raises(RewardError, match=r"'own'.*KeyError: 'the reward is broken'"):
        rewards.measure(images, [TextQuery.plain("raise")] * 2)
    with pytest.raises(RewardError, match=r"'own'.*for 'nan': the score of sample 1 is NaN"):
        rewards.measure(images, [TextQuery.plain("a"), TextQuery.plain("nan")])
    assert rewards.measure(images, [TextQuery.plain("a")] * 2)["own"].tolist() == [0, 0]


def test_process_that_ends_in_a_call_is_an_error_with_its_last_lines() -> None:
    rewards = LocalRewards.load([reward("ScriptedReward")])
    with pytest.raises(LostRewardError, match=r"'own'.*ended \(exit code 3\); its last lines:\n  out of memory"):
        rewards.measure(torch.zeros(1, 3, 4, 4), [TextQuery.plain("end:out of memory")])


def test_process_ends_when_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    # The reward hangs in a call meanwhile.
    log = tmp_path / "pid"
    code = (
        "import sys, torch\n"
        "from srpo_ray.config.rewards import PythonRewardConfig\n"
        "from srpo_ray.rewards.query import TextQuery\n"
        "from srpo_ray.rewards.registry import build_rewards\n"
        f"config = PythonRewardConfig.model_validate({reward('ScriptedReward').model_dump()!r})\n"
        f"build_rewards([config])['own'].score(torch.zeros(1, 3, 4, 4), [TextQuery.plain('slow:1:{log}')])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child = int(log.read_text())
    assert child != parent.pid

    parent.kill()
    parent.wait()

    wait_until_gone(child)


def test_pool_restarts_a_hung_process_with_its_replica_and_ends_it_with_the_pool(
    ray_cluster: None, tmp_path: Path
) -> None:
    config = PoolConfig(num_cpus=0.01, timeout_s=2.0)
    log, images = tmp_path / "pids", torch.ones(1, 3, 4, 4)
    with RewardPool.create([reward("ScriptedReward")], [], config, "own") as pool:
        client = RewardClient.connect(pool.name, {"own": 1.0})
        assert client.submit(images, [TextQuery.plain(f"slow:1:{log}")]).result().total.tolist() == [1.0]
        hung, answered = map(int, log.read_text().split())
        wait_until_gone(hung)
        # Stopped while idle: no call and no end of the process tells the replica.
        os.kill(answered, signal.SIGSTOP)
        assert client.submit(images, [TextQuery.plain(f"log:0:{log}")]).result().total.tolist() == [1.0]
        last = int(log.read_text().split()[-1])
        assert last != answered
        wait_until_gone(answered)
        with pytest.raises(
            RewardError, match=r"(?s)no answer in 3 attempts: replica 'own/0' lost.*exit code 3.*broken"
        ):
            client.submit(images, [TextQuery.plain("end:broken")]).result()
        assert client.submit(images, [TextQuery.plain(f"log:0:{log}")]).result().total.tolist() == [1.0]
        last = int(log.read_text().split()[-1])
    wait_until_gone(last)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:Reward", r"expected an importable package.module:Class, received 'no_such_module:Reward'"),
        (f"{HELPERS}:NoSuchClass", r"expected an importable package.module:Class.*NoSuchClass"),
    ],
)
def test_class_that_the_environment_cannot_import_is_named(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_in_environment(target, EnvironmentSection(python=sys.executable))


def test_interpreter_without_torch_is_named_with_its_last_lines(tmp_path: Path) -> None:
    venv.EnvBuilder(symlinks=True).create(tmp_path / "bare")
    interpreter = str(tmp_path / "bare" / "bin" / "python")
    with pytest.raises(ValueError, match=r"(?s)an interpreter with torch and numpy.*exit code 1.*No module named '"):
        class_in_environment(f"{HELPERS}:ScriptedReward", EnvironmentSection(python=interpreter))
    with pytest.raises(ValueError, match=r"(?s)expected a Python interpreter|whose process ended"):
        class_in_environment(f"{HELPERS}:ScriptedReward", EnvironmentSection(python="/bin/false"))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"PIP_NO_INDEX": "1"}, r"(?s)and pip failed; correct.*Its last lines:.*no-such-package"),
        (
            {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"},
            r"(?s)this node cannot reach the package index; give pip.*Its last lines:.*no-such-package",
        ),
    ],
)
def test_packages_that_cannot_be_installed_are_named_with_pip_s_last_lines(
    index: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for key, value in index.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ValueError, match=message):
        provide_environment(["no-such-package==1"])


@pytest.mark.parametrize("section", ["rewards.models.0", "evaluation.held_out.0"])
def test_training_is_refused_before_it_starts(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "own.yaml"
    key, part, _ = section.split(".")
    model = f"{{name: own, type: python, target: 'a:B', environment: {{python: {tmp_path}/none}}}}"
    config.write_text(f"{key}:\n  {part}:\n    - {model}\n")

    assert main(["train", str(SMALL_WORLD), str(config), f"run_root={tmp_path / 'runs'}"]) == 2

    message = capsys.readouterr().err
    assert f"{key}.{part}, reward 'own': expected the interpreter of a Python environment" in message
    assert "Traceback" not in message
    assert not (tmp_path / "runs").exists()
