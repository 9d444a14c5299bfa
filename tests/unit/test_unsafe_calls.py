"""No code of the project executes a file or a message: checked on its syntax trees."""

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

SOURCES = sorted(path for folder in ("srpo_ray", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

PICKLE_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LOADERS = {"load", "loads", "Unpickler", "open"}
FORBIDDEN = {"eval", "exec", "os.system", "os.popen", "torch.hub.load", "pandas.read_pickle"}
FORBIDDEN_METHODS = {"extractall", "unpack_archive", "unsafe_load", "full_load", "load_from_checkpoint"}
SAFE_LOADERS = {"_Loader", "SafeLoader", "CSafeLoader"}


def unsafe_calls(source: str) -> Iterator[str]:
    """Calls of a module that can execute their input."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names |= {alias.asname: alias.name} if alias.asname else {first: first}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            called = names.get(first, first) + dot + rest
            if is_unsafe(called, {word.arg: ast.unparse(word.value) for word in node.keywords}, node):
                yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


def is_unsafe(called: str, keywords: dict[str | None, str], call: ast.Call) -> bool:
    module, _, name = called.rpartition(".")
    loader = keywords.get("Loader") or (ast.unparse(call.args[1]) if len(call.args) > 1 else "")
    return (
        called in FORBIDDEN
        or name in FORBIDDEN_METHODS
        or (module.partition(".")[0] in PICKLE_MODULES and name in LOADERS)
        or (called in ("torch.load", "torch.serialization.load") and keywords.get("weights_only") != "True")
        or (called == "yaml.load" and loader.rpartition(".")[2] not in SAFE_LOADERS)
        or keywords.get("allow_pickle", "False") != "False"
        or keywords.get("trust_remote_code", "False") != "False"
        or keywords.get("shell", "False") != "False"
    )


def test_no_module_can_run_what_it_reads() -> None:
    found = {str(path.relative_to(ROOT)): list(unsafe_calls(path.read_text())) for path in SOURCES}
    assert len(found) > 100
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "from torch import load\nload('x')",
        "import pickle as p\np.load(file)",
        "from pickle import Unpickler\nUnpickler(file).load()",
        "import ray.cloudpickle\nimport cloudpickle\ncloudpickle.loads(text)",
        "import joblib\njoblib.load('x')",
        "import shelve\nshelve.open('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "eval(text)",
        "import tarfile\nwith tarfile.open('x') as archive:\n    archive.extractall('y')",
        "import shutil\nshutil.unpack_archive('x')",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "from os import system\nsystem(text)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_every_such_call_is_seen(source: str) -> None:
    assert list(unsafe_calls(source))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x', weights_only=True)",
        "import yaml\nyaml.load(text, yaml.SafeLoader)\nyaml.safe_load(text)",
        "import json\njson.load(file)",
        "model.eval()",
        "import subprocess\nsubprocess.run(['ls'])",
        "from pickle import UnpicklingError",
    ],
)
def test_harmless_calls_are_accepted(source: str) -> None:
    assert not list(unsafe_calls(source))
