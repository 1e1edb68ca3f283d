"""A method of somebody else, registered from outside of the package: engine, wire, client and command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

from onnx_attribution import methods
from onnx_attribution.client import Client
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Method, bounded, register
from onnx_attribution.server.app import background
from onnx_attribution.server.cli.explain import explain
from onnx_attribution.server.cli.method import with_parameters
from onnx_attribution.server.cli.status import guarded
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.recipe import AtInput, Recipe, recipe
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import AttributionRequest
from tests.methods.toys import model

NAME = "squared_gradient"
X = np.array([[1.0, -2.0]], np.float32)
CUBE = model(
    "(float[N,2] x) => (float[N,1] y) { a = Mul(x, x) b = Mul(a, x) y = ReduceSum(b, one) }",
    one=np.array([1]),
)
WANTED = 2.0 * (3 * X**2) ** 2


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The method, as long as the test runs."""

    @register(NAME, paper="arXiv 1706.03825")
    @dataclass(frozen=True)
    class SquaredGradient(Method):
        """The square of the gradient."""

        factor: float = bounded(1.0, above=0, help="What the squares are multiplied by.")

    @recipe(SquaredGradient)
    def squared_gradient(method: SquaredGradient) -> Recipe:
        return Recipe(AtInput(), reduce=lambda gradient, activation: method.factor * gradient**2)

    yield
    methods.forget(NAME)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The model's file."""
    onnx.save(CUBE, tmp_path / "cube.onnx")
    return tmp_path / "cube.onnx"


def command() -> typer.Typer:
    """Returns `explain` as a process makes it that knows the method from its start."""
    app = typer.Typer()
    app.command()(guarded(with_parameters(explain.__wrapped__)))  # type: ignore[attr-defined]
    return app


@pytest.mark.usefixtures("registered")
def test_it_works_in_the_engine_over_the_wire_and_in_the_client() -> None:
    with Engine(provider="cpu") as engine:
        engine.add("cube", CUBE)
        answer = engine.attribute(AttributionRequest("cube", {"x": X}, NAME, factor=2))
        np.testing.assert_allclose(np.asarray(answer.layers["x"].values, np.float32), WANTED)
        with background(engine, Settings(port=0)) as (address, _), Client(address) as client:
            served = client.attribute("cube", X, method=NAME, factor=2)
            about = next(one for one in client.methods() if one.name == NAME)
            with pytest.raises(InvalidArgument, match=r"factor is -1.0; it must be above 0"):
                client.attribute("cube", X, method=methods.Custom(NAME, {"factor": -1}))
    np.testing.assert_allclose(np.asarray(served.layers["x"].values, np.float32), WANTED)
    assert served.method == about.name == NAME
    assert [(one.name, one.default, one.bounds) for one in about.parameters] == [("factor", 1.0, "above 0")]


@pytest.mark.usefixtures("registered")
def test_its_parameters_are_options_of_the_command_line(path: Path) -> None:
    app = command()
    given = path.with_name("x.npy")
    np.save(given, X)
    result = CliRunner().invoke(
        app, [str(path), "--input", str(given), "--method", NAME, "--factor", "2", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["layers"]["x"]["sum"] == [pytest.approx(WANTED.sum())]
    assert "--factor" in CliRunner().invoke(app, ["--help"]).stdout


def test_a_name_that_the_server_does_not_know_is_refused_with_those_it_knows() -> None:
    with (
        Engine(provider="cpu") as engine,
        background(engine, Settings(port=0)) as (address, _),
        Client(address) as client,
        pytest.raises(InvalidArgument, match=f"no method '{NAME}'; there are: gradient, "),
    ):
        client.attribute("cube", {"x": X}, method=NAME, factor=2)


def test_a_parameter_that_is_called_as_an_option_has_its_method_before_it() -> None:
    @register("scaled", paper="none")
    @dataclass(frozen=True)
    class Scaled(Method):
        """A parameter that `explain` has an option for already."""

        scale: float = bounded(1.0, help="A number.")

    try:
        shown = CliRunner().invoke(command(), ["--help"]).stdout
    finally:
        methods.forget("scaled")
    assert "--scaled-scale" in shown
