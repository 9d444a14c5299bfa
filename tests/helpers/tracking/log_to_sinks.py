"""Child process of a test: `log_to_sinks.py URI FOLDER START STOP END` logs updates, and then ends as END says.

`kill` ends it without any clean-up once everything was sent. `interrupt` closes the tracker at Ctrl-C.
"""

import os
import signal
import sys
import time
from pathlib import Path

from srpo_ray.config.tracking import WandbConfig
from srpo_ray.tracking.tensorboard_sink import TensorBoardSink
from srpo_ray.tracking.tracker import Tracker
from srpo_ray.tracking.wandb_sink import WandbRun, WandbSink

if __name__ == "__main__":
    uri, folder, start, stop, end = sys.argv[1:]
    root = Path(folder)
    wandb = WandbSink(WandbConfig(), WandbRun("abc", "run", "group", {}), root, system_metrics=False)
    sinks = [wandb, TensorBoardSink(root / "tensorboard")]
    tracker = Tracker(uri, "abc", root / "s.jsonl", flush_interval_s=0.05, sinks=sinks)
    for step in range(int(start), int(stop)):
        tracker.log_metrics({"reward/total": step / 2}, step)
    size = (root / "s.jsonl").stat().st_size
    written = root / "s.jsonl.tensorboard.offset"
    while wandb._sent != size or not written.exists() or written.read_text() != str(size):  # pyright: ignore[reportPrivateUsage]
        time.sleep(0.05)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        # The test interrupts as soon as it reads this.
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        tracker.close("KILLED", timeout_s=3)
