"""The checks of `make test` in two lanes beside each other, as no check uses both cores of a small machine for long.

The output of each lane goes to a log in build/gate/ and is shown as one piece when the lane ends.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PYTHON = sys.executable
TOOLS = Path(PYTHON).parent
LOGS = Path("build/gate")
PYTEST = (PYTHON, "-m", "pytest", "--durations=20", "--durations-min=1")
APART = {
    "quantization": (
        "tests/unit/models/test_quantized.py",
        "tests/unit/models/test_quantized_families.py",
        "tests/integration/training/test_quantized_base.py",
    ),
    "trackers": ("tests/integration/tracking/test_wandb.py",),
}
"""Folder of packages beside those of the other tests, in the virtual environment -> the tests that need them."""
TRAINING = ("tests/integration/training", "tests/integration/install")
FIRST = ((f"{TOOLS}/ruff", "check", "."), (f"{TOOLS}/ruff", "format", "--check", "."), (f"{TOOLS}/lint-imports",))
"""Take seconds: nothing else starts before they pass."""
LANES = {
    "types, docs, unit tests, rewards and searches": (
        (f"{TOOLS}/basedpyright",),
        (f"{TOOLS}/mkdocs", "build", "--strict"),
        (*PYTEST, "tests/unit"),
        (*PYTEST, "tests/integration", *(f"--ignore={folder}" for folder in TRAINING)),
    ),
    "training": (
        (*PYTEST, *TRAINING),
        *(("env", f"PYTHONPATH={TOOLS.parent / folder}", *PYTEST, *tests) for folder, tests in APART.items()),
    ),
}
GRACE_S = 30.0
"""What a lane has to end its own processes after Ctrl-C."""


@dataclass
class Lane:
    """Commands that run one after the other, whatever becomes of the ones before."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    began: float

    @classmethod
    def start(cls, name: str, commands: Sequence[Sequence[str]]) -> "Lane":
        """Start a lane's commands in a session of their own, which Ctrl-C does not reach by itself."""
        log = LOGS / f"{name.replace(',', '').replace(' ', '_')}.log"
        # One shell, so that the lane is one process to wait for; it fails if any command did.
        steps = [f"{shlex.join(command)} || failed=1" for command in commands]
        script = "\n".join(["failed=0", *steps, "exit $failed"])
        # Each lane has a core: torch would start a thread for each core in both.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["sh", "-c", script], stdout=output, stderr=output, env=environment, start_new_session=True
            )
        return cls(name, process, log, time.monotonic())

    def show(self) -> None:
        """Print the lane's log and how long it took."""
        seconds = time.monotonic() - self.began
        outcome = "passed" if self.process.returncode == 0 else "FAILED"
        sys.stdout.flush()
        sys.stdout.buffer.write(self.log.read_bytes())
        print(f"---- {self.name}: {outcome} after {seconds:.0f} s; also in {self.log}", flush=True)

    def end(self) -> None:
        """Interrupt the lane's processes, and kill what is left of them after a while."""
        deadline = time.monotonic() + GRACE_S
        interrupted = self._signal(signal.SIGINT)
        while interrupted and time.monotonic() < deadline:
            self.process.poll()
            time.sleep(0.1)
            interrupted = self._signal(0)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> bool:
        """Send a signal to the lane's processes; False if there are none."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


def main() -> int:
    """Run everything; 0 if all passed."""
    # `kill` ends the lanes too, and so does Ctrl-C in a shell whose background jobs ignore it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    if any(subprocess.run(command, check=False).returncode for command in FIRST):
        return 1
    LOGS.mkdir(parents=True, exist_ok=True)
    lanes: list[Lane] = []
    try:
        lanes.extend(Lane.start(name, commands) for name, commands in LANES.items())
        running = list(lanes)
        while running:
            time.sleep(0.2)
            for lane in [lane for lane in running if lane.process.poll() is not None]:
                lane.show()
                running.remove(lane)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        for lane in lanes:
            lane.end()
    print(f"---- all together: {time.monotonic() - began:.0f} s")
    return int(any(lane.process.returncode for lane in lanes))


if __name__ == "__main__":
    sys.exit(main())
