"""Packages that a run does not import if it does not use them."""

import subprocess
import sys

from tests.conftest import ROOT


def test_run_in_the_process_of_the_command_does_not_import_ray_train() -> None:
    code = (
        "import sys, srpo_ray.launch.train, srpo_ray.launch.fit_here, srpo_ray.training.loop\n"
        "print(sorted({'ray.train', 'ray.data', 'ray.tune'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
