"""The options that methods bring: what each is called, and what the chosen method gets of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Method, bounded, forget, make, register
from onnx_attribution.server.cli.method import Given, parsed, with_parameters


def command(method: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """The parameters that a command gets of its arguments, and its help, as a process has it that knows the method."""
    found: list[Given] = []

    def run(
        plot: Annotated[str, typer.Option(help="An option of the command.")] = "", parameters: Given = ()
    ) -> None:
        found.append(parameters)

    app = typer.Typer(add_completion=False)
    app.command()(with_parameters(run))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "500", "TERMINAL_WIDTH": "500"}).output
    return parsed(method, found[0], (), ()), text


@pytest.fixture
def mine() -> Iterator[None]:
    """A method whose parameters are called as options of others and of the command."""

    @register("mine")
    @dataclass(frozen=True)
    class Mine(Method):
        """A method of somebody else."""

        window: int = bounded(1, help="How wide")
        steps: float = bounded(1.5, at_least=1, help="How far.")
        help: str = bounded("none", help="Words.")
        plot: str = bounded("none", help="Words.")
        norm: Literal["L1", "L2", "max-Norm"] = bounded("L1", help="Of what.")
        multiply_by_inputs: bool = bounded(False, help="Multiplies.", option="multipliers")
        level: bool = bounded(True, help="Levels.", option="multipliers")
        near_zero: Literal["left", "right"] = bounded("left", help="Where.")

    yield
    forget("mine")


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("option", "given", "name", "value"),
    [
        ("--mine-window", "3", "window", 3),
        ("--mine-steps", "2.5", "steps", 2.5),
        ("--mine-help", "x", "help", "x"),
        ("--mine-plot", "x", "plot", "x"),
        ("--norm", "L2", "norm", "L2"),
        ("--norm", "l2", "norm", "L2"),
        ("--norm", "MAX_NORM", "norm", "max-Norm"),
        ("--multipliers", None, "multiply_by_inputs", True),
        ("--mine-multipliers", None, "level", False),
        ("--near-zero", "Right", "near_zero", "right"),
    ],
)
def test_an_option_says_what_the_chosen_method_means_by_it(
    option: str, given: str | None, name: str, value: object
) -> None:
    found, shown = command("mine", *filter(None, (option, given)))
    assert found == {name: value}
    assert make("mine", found).parameters()[name] == value
    assert option in shown


@pytest.mark.usefixtures("mine")
def test_the_other_methods_keep_their_options() -> None:
    assert command("neuron_ig", "--steps", "8")[0] == {"steps": 8}
    assert command("deeplift_rescale", "--multipliers", "--near-zero", "INPUT")[0] == {
        "multiply_by_inputs": False,
        "near_zero": "input",
    }
    with pytest.raises(
        InvalidArgument, match=r"--steps is for integrated_gradients, neuron_ig, .*; mine has an opt"
    ):
        command("mine", "--steps", "8")


@pytest.mark.usefixtures("mine")
def test_help_says_of_each_method_what_is_true_of_it() -> None:
    shown = " ".join(command("mine")[1].split())
    assert "How wide. Default 1. For mine." in shown
    assert "It may be midpoint, input, reference. Default midpoint. For deeplift_rescale" in shown
    assert "Where. It may be left, right. Default left. For mine." in shown


def test_a_method_of_the_server_gets_what_is_given_by_name() -> None:
    assert parsed("theirs", (), ["scale=2", "words=a b"], ()) == {"scale": 2, "words": "a b"}
    assert np.isnan(parsed("theirs", (), ["scale=NaN"], ())["scale"])
