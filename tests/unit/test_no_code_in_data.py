"""Files of data are never code: nothing unpickles, nothing runs what came with a model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_imports import PACKAGES

ROOT = Path(__file__).parents[2]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"torch.load", "eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"}
KEYWORDS = {"allow_pickle", "trust_remote_code", "weights_only", "shell"}


def sources() -> list[Path]:
    return [
        file for name in (*PACKAGES, "benchmarks") for file in sorted((ROOT / name).rglob("*.py"))
    ]


def offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in UNPICKLERS:
                yield str(node.module)
            yield from (name for a in node.names if (name := f"{node.module}.{a.name}") in CALLS)
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in CALLS:
                yield ast.unparse(node.func)
            for keyword in node.keywords:
                falsy = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg in KEYWORDS and falsy == (keyword.arg == "weights_only"):
                    yield str(keyword.arg)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, joblib.memory",
        "def f():\n    from cloudpickle import loads",
        "from torch import load",
        "x = torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "from_pretrained(name, trust_remote_code=True)",
        "read(path, weights_only=False)",
        "eval(text)",
        "run(command, shell=True)",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert list(offences(source))


def test_no_module_unpickles_or_runs_data() -> None:
    files = sources()
    assert len(files) > 150
    found = {str(file.relative_to(ROOT)): list(offences(file.read_text())) for file in files}
    assert {name: bad for name, bad in found.items() if bad} == {}
