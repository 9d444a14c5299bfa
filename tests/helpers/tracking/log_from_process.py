"""Child process of a test: `log_from_process.py URI NAME FOLDER COUNT` opens a run and logs COUNT batches."""

import sys
import time
from pathlib import Path

from srpo_ray.tracking.runs import start_run
from srpo_ray.tracking.tracker import Tracker

if __name__ == "__main__":
    uri, name, folder, count = sys.argv[1:]
    run_id = start_run(uri, "small", name, tags={}, params={}, record=Path(folder) / f"{name}.json")
    tracker = Tracker(uri, run_id, Path(folder) / f"{name}.jsonl", flush_interval_s=0.05)
    for step in range(int(count)):
        tracker.log_metrics({"reward/total": step / 2, "loss/total": -step}, step)
        time.sleep(0.01)
    sys.exit(0 if tracker.close("FINISHED", timeout_s=90) else 1)
