"""The public checker of rules sees a rule that is half a per mille wrong, and says at which element."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators import VJP, NodeView, RuleTable
from onnx_attribution.graph_tools.operators.registry import Rule
from onnx_attribution.graph_tools.testing import assert_gradient, assert_secant, check_gradient
from tests.checks import session

KEY = ("com.example", "Square")
SQUARE = """<ir_version: 10, opset_import: ["": 21, "com.example": 1]>
    small (float[N,3] x) => (float[N,3] z) { z = com.example.Square(x) }
    <domain: "com.example", opset_import: ["": 21]> Square (x) => (z) { z = Mul(x, x) }"""
DENSE = """<ir_version: 10, opset_import: ["": 21]>
    small (float[N,3] x) => (float[N,3] z) <float[3,3] w = {1,2,-3,4,5,6,7,-8,9}> { h = MatMul(x, w) z = Tanh(h) }"""
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32) / 4


def square(factor: float) -> RuleTable:
    """Returns the rules with one for Square whose gradient is 2x times a factor."""

    def rule(op: Emitter, node: NodeView, g: Value) -> Sequence[Value | None]:
        return [op("Mul", g, op("Mul", op.like(g, 2 * factor), node.input(0)))]

    return {**VJP, KEY: Rule(rule, elementwise=True)}


def dense(operator: str) -> RuleTable:
    """Returns the rules with one that is half a per mille too large."""
    own = VJP["", operator]

    def rule(op: Emitter, node: NodeView, *g: Value | None) -> Sequence[Value | None]:
        first, *others = own.vjp(op, node, *g)
        assert first is not None
        return [op("Mul", first, op.like(first, 1.0005)), *others]

    return {**VJP, ("", operator): replace(own, vjp=rule)}


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(text)


def test_a_right_rule_passes_both() -> None:
    assert_gradient(model(SQUARE), {"x": X}, rules=square(1))
    assert_secant(model(SQUARE), {"x": X}, {"x": X + 1}, rules=square(1))
    assert_gradient(model(DENSE), {"x": X})
    assert_secant(model(DENSE), {"x": X}, {"x": 1 - X})


def test_the_example_of_the_contributors_page_passes() -> None:
    """In an interpreter of its own, so that the rule that it registers does not stay."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    rule, shown = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0] for kind in ("python", "pycon"))
    code = "import numpy as np, onnx\n" + rule + re.sub(r"^(>>>|\.\.\.) ", "", shown, flags=re.MULTILINE)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_gradient_half_a_per_mille_wrong_fails_at_the_element_that_is_furthest_off() -> None:
    found = check_gradient(model(SQUARE), {"x": X}, rules=square(1.0005))
    wrong = [one for one in found if one.verdict == "fail"]
    with pytest.raises(AssertionError, match="Square") as failure:
        assert_gradient(model(SQUARE), {"x": X}, rules=square(1.0005))
    assert "x[" in str(failure.value)
    for one in wrong:
        v = np.random.default_rng(one.seed).standard_normal(X.shape)
        k = np.unravel_index(np.argmax(np.abs(v * X)), X.shape)
        assert one.element.startswith(f"x[{k[0]}, {k[1]}]: ")


def test_one_wrong_element_is_the_one_that_is_named() -> None:
    mask = np.zeros((2, 3), np.float32)
    mask[1, 2] = 1

    def rule(op: Emitter, node: NodeView, g: Value) -> Sequence[Value | None]:
        right = op("Mul", g, op("Mul", op.like(g, 2), node.input(0)))
        return [op("Add", right, op.constant(mask))]

    with pytest.raises(AssertionError, match=r"x\[1, 2\]: "):
        assert_gradient(model(SQUARE), {"x": X}, rules={**VJP, KEY: Rule(rule, elementwise=True)})


def test_multipliers_half_a_per_mille_wrong_do_not_sum() -> None:
    with pytest.raises(AssertionError, match=r"MatMul, Tanh: z\[0, 0\]: contributions sum to"):
        assert_secant(model(DENSE), {"x": X}, {"x": X + 1}, rules=dense("MatMul"))


def test_multipliers_that_are_not_the_gradient_where_nothing_moves_fail_at_an_element() -> None:
    with pytest.raises(
        AssertionError, match=r"the multiplier of x\[0, 2\] is .* where nothing moves, the gradient"
    ):
        assert_secant(model(DENSE), {"x": X}, {"x": X + 1}, rules=dense("Tanh"))


def test_a_runtime_runs_what_the_reference_evaluator_does_not_have() -> None:
    gelu = """<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
        small (float[N,3] x) => (float[N,3] z) { z = com.microsoft.QuickGelu(x) }"""
    with pytest.raises(Exception, match="QuickGelu"):
        assert_gradient(model(gelu), {"x": X})
    assert {one.oracle for one in assert_gradient(model(gelu), {"x": X}, prepare=session)} <= {
        "runner float64",
        "runner as declared",
    }
    assert_secant(
        model(gelu), {"x": X}, {"x": X + 1}, prepare=session, tolerance=1e-4
    )  # float32 on both sides
