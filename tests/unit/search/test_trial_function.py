"""Modules that Ray imports before it calls the function of a trial."""

import subprocess
import sys

from tests.conftest import ROOT

MODULES = ("srpo_ray.search.trial_function", "srpo_ray.search.trial", "srpo_ray.search.draws", "srpo_ray.config")
"""Modules of the function, and of the values that it gets."""


def test_function_of_a_trial_is_called_before_torch_is_imported() -> None:
    code = f"import sys, {', '.join(MODULES)}\nprint('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
