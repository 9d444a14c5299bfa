import subprocess
import sys

from tests.conftest import ROOT


def test_algorithms_are_imported_without_the_model_stack() -> None:
    names = ("diffusers", "deepspeed", "ray")
    code = f"import sys, srpo_ray.algorithms; print([name for name in {names} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
