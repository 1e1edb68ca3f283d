"""The public names: what `onnx_attribution` lists is there, is sorted, and costs nothing until it is used."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import onnx_attribution
from onnx_attribution import AsyncClient, Client, Engine, References, Target, client, errors, methods, values
from onnx_attribution.server.engine.engine import Engine as HomeOfEngine

ROOT = Path(__file__).parents[1]
RUNTIMES = ("onnx", "onnxruntime", "onnx_graphsurgeon")


def executed(code: str) -> subprocess.CompletedProcess[str]:
    """Returns what a fresh interpreter did with the code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    )


def loaded_by(statement: str) -> set[str]:
    """Returns which of the heavy modules a fresh interpreter has loaded after the statement."""
    result = executed(f"{statement}\nimport sys\nprint(*sys.modules)")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split()) & {*RUNTIMES, "grpc", "numpy"}


def test_every_name_that_is_listed_is_there_and_the_list_is_sorted() -> None:
    names = onnx_attribution.__all__
    assert names == sorted(names)
    assert dir(onnx_attribution) == names
    assert all(getattr(onnx_attribution, name) for name in names)


def test_names_are_those_of_their_modules() -> None:
    assert (AsyncClient, Client) == (client.AsyncClient, client.Client)
    assert (References, Target) == (values.References, values.Target)
    assert Engine is HomeOfEngine
    assert onnx_attribution.errors is errors
    assert repr(methods.NeuronIG()).startswith("NeuronIG(steps=None, ")


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert onnx_attribution.__version__ == project["version"]


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded_by("import onnx_attribution; dir(onnx_attribution)") == set()


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("AsyncClient", {"grpc", "numpy"}),
        ("Client", {"grpc", "numpy"}),
        ("References", {"numpy"}),
        ("Target", {"numpy"}),
        ("errors", set()),
        ("methods", {"numpy"}),
    ],
)
def test_only_the_engine_loads_a_runtime(name: str, needs: set[str]) -> None:
    assert loaded_by(f"from onnx_attribution import {name}") == needs


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'onnx_attribution' has no attribute 'engine_of_doubt'"):
        _ = onnx_attribution.engine_of_doubt  # type: ignore[attr-defined]


def test_the_engine_without_its_extra_says_which_one_to_install() -> None:
    result = executed("import sys\nsys.modules['onnx'] = None\nfrom onnx_attribution import Engine")
    assert result.returncode == 1
    assert "Engine needs onnx: pip install 'onnx-attribution[server]'" in result.stderr.splitlines()[-1]
