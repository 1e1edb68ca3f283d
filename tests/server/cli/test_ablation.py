"""`ablation` and `intervene`: their numbers are those of the library, on files and on servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.client.audit.ablation import METHODS, ablation, patches
from onnx_attribution.interventions import MEAN, Edit, Patch
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.definitions.network import drawn
from tests.server.cli.commands import run

NET, X, OTHERS = drawn(3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(NET.model(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    np.save(tmp_path / "others.npy", OTHERS.astype(np.float32))
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("net", folder / "net.onnx")
        yield made


def told(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_experiment_is_that_of_the_library(folder: Path, engine: Engine) -> None:
    inputs = {"x": X.astype(np.float32)}
    file, data = folder / "net.onnx", ("--data", folder / "x.npy")
    own = ablation(engine, "net", inputs, "h")
    found = told("ablation", file, "--layer", "h", *data)
    assert found["methods"].keys() == set(METHODS)
    for name, curve in own.curves.items():
        np.testing.assert_allclose(found["methods"][name]["values"], curve.values.mean(axis=0), rtol=1e-5)
    options = (
        "--methods",
        "gradient_x_activation",
        "--patch",
        "2",
        "--insertion",
        "--to",
        "mean",
        "--points",
        "2",
    )
    own = ablation(
        engine, "net", inputs, "x", methods=["gradient_x_activation"], groups=lambda unit: patches(unit, [2]),
        kind="insertion", to="mean", points=2,
    )  # fmt: skip
    found = told("ablation", file, "--layer", "x", *data, *options)
    assert (found["groups"], found["counts"]) == (3, own.curves["gradient_x_activation"].counts.tolist())
    values = own.curves["gradient_x_activation"].values.mean(axis=0)
    np.testing.assert_allclose(found["methods"]["gradient_x_activation"]["values"], values, rtol=1e-5)
    shown = run("ablation", file, "--layer", "h", *data, "--rows", "0:2").stdout
    assert "4 groups of h go in the order of their ranks, each removed; 2 samples" in shown
    assert "neuron_ig" in shown


def test_edits_are_those_of_the_library_on_a_file_and_a_server(folder: Path, engine: Engine) -> None:
    np.save(folder / "new.npy", np.arange(4.0))
    words = ["h:1", "h:0=1.5", "h:1:3=*0.5", "h:2=mean", "h=patch1", "x:0=patch", f"h=@{folder / 'new.npy'}"]
    edits = [
        Edit("h", 1), Edit("h", 0, 1.5), Edit("h", slice(1, 3), scale=0.5), Edit("h", 2, MEAN), Edit("h", to=Patch(1)),
        Edit("x", 0, Patch()), Edit("h", to=np.arange(4.0)),
    ]  # fmt: skip
    donors = {"x": OTHERS.astype(np.float32)}
    own = engine.intervene("net", {"x": X.astype(np.float32)}, edits, donors=donors)
    given = [part for word in words for part in ("--edit", word)]
    data = ("--input", folder / "x.npy", "--donors", folder / "others.npy")
    with app.background(engine, Settings(port=0)) as (address, _):
        for place in ((folder / "net.onnx",), ("net", "--server", address)):
            found = told("intervene", *place, *given, *data)
            values = [one["value"] for one in found["interventions"]]
            np.testing.assert_allclose(values, own.values, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found["target"]["value"], own.target.value, rtol=1e-5)
            assert [one["edit"] for one in found["interventions"]] == words
    together = told("intervene", folder / "net.onnx", "--together", *given[:4], *data)
    both = engine.intervene("net", {"x": X.astype(np.float32)}, [edits[:2]])
    np.testing.assert_allclose(together["interventions"][0]["value"], both.values[0], rtol=1e-5, atol=1e-6)
    assert "h:1 + h:0=1.5" in together["interventions"][0]["edit"]
    assert "h:1" in run("intervene", folder / "net.onnx", "--edit", "h:1", "--input", folder / "x.npy").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ablation", "--layer", "nowhere"], "nowhere"),
        (["ablation", "--layer", "h", "--methods", "no-such"], "no_such"),
        (["ablation", "--layer", "h", "--by", "first"], "--by 'first'"),
        (["ablation", "--layer", "h", "--by", "3"], "no axis 3"),
        (["ablation", "--layer", "h", "--patch", "ax2"], "--patch 'ax2'"),
        (["ablation", "--layer", "h", "--to", "zero"], "--to 'zero'"),
        (["intervene", "--edit", "3=0"], "names no layer"),
        (["intervene", "--edit", "h:9"], "legal are 0 to 3"),
        (["intervene", "--edit", "h:1=soon"], "'soon' is no number"),
        (["intervene", "--edit", "nowhere:1"], "nowhere"),
    ],
)
def test_refusals_name_the_option_or_layer(folder: Path, arguments: list[str], words: str) -> None:
    data = "--data" if arguments[0] == "ablation" else "--input"
    result = run(arguments[0], folder / "net.onnx", *arguments[1:], data, folder / "x.npy")
    assert result.exit_code == 2
    assert words in result.stderr
