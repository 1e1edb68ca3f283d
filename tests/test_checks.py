"""The gradient checker is itself checked: it must see what is wrong and must not see what is not there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from numpy.typing import NDArray
from onnx import parser

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators import VJP, NodeView, Rule, RuleTable
from tests.checks import assert_gradient, check_gradient, to_double
from tests.credit import assert_credit, shares_by_evaluation

HEAD = '<ir_version: 10, opset_import: ["" : 21]> '
ONE = HEAD + "model (float[N,4] x) => (float[N,4] z) {{ z = {operator}(x) }}"
MIXED = (
    HEAD
    + """
    model (float[N,4] x, float[4,3] w) => (float[N,1] z) {
        axes = Constant <value_ints = [1]> ()
        a = MatMul(x, w)
        b = Tanh(a)
        z = ReduceMax(b, axes)
    }
"""
)


Ends = Mapping[str, NDArray[Any]]
Function = Callable[[Ends], NDArray[Any]]


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model(text)


def altered(operator: str, change: Callable[[Emitter, Value], Value]) -> RuleTable:
    """Our rules, with what the rule of `operator` says of its first input changed."""
    rule = VJP["", operator]

    def wrong(op: Emitter, node: NodeView, *gradients: Value | None) -> Sequence[Value | None]:
        first, *others = rule.vjp(op, node, *gradients)
        assert first is not None
        return [change(op, first), *others]

    return {**VJP, ("", operator): replace(rule, vjp=wrong)}


def half_a_per_mille_too_large(op: Emitter, value: Value) -> Value:
    return op("Mul", value, op.like(value, 1.0005))


def values(*shape: int) -> NDArray[Any]:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


INPUTS = {"x": values(3, 4), "w": values(4, 3)}


@pytest.mark.parametrize("operator", ["Tanh", "MatMul", "ReduceMax"])
def test_rule_that_is_wrong_by_half_a_per_mille_fails_and_is_named(operator: str) -> None:
    model = parsed(MIXED)
    assert_gradient(model, INPUTS)
    with pytest.raises(AssertionError, match=operator):
        assert_gradient(model, INPUTS, rules=altered(operator, half_a_per_mille_too_large))


@pytest.mark.parametrize(
    "operator", ["Abs", "CumSum", "Exp", "Identity", "Sigmoid", "Softmax", "Transpose", "Trilu"]
)
def test_single_operator_that_is_wrong_by_half_a_per_mille_fails(operator: str) -> None:
    text = ONE.format(operator=operator)
    if operator == "CumSum":
        text = (
            HEAD
            + "model (float[N,4] x) => (float[N,4] z) { a = Constant <value_int = 1> () z = CumSum(x, a) }"
        )
    if operator == "Transpose":
        text = HEAD + "model (float[N,4] x) => (float[4,N] z) { z = Transpose(x) }"
    model, inputs = parsed(text), {"x": values(4, 4)}
    assert_gradient(model, inputs)
    found = check_gradient(model, inputs, rules=altered(operator, half_a_per_mille_too_large))
    assert {c.operator.split(", ")[-1] for c in found if c.verdict == "fail"} == {operator}


def test_gradient_of_another_element_fails() -> None:
    def rolled(op: Emitter, value: Value) -> Value:
        parts = op.multi("Split", 2, value, op.ints([1, 3]), axis=1)
        return op("Concat", parts[1], parts[0], axis=1)

    model = parsed(ONE.format(operator="Tanh"))
    with pytest.raises(AssertionError, match="Tanh"):
        assert_gradient(model, {"x": values(3, 4)}, rules=altered("Tanh", rolled))


def test_gradient_that_is_not_a_number_fails() -> None:
    model = parsed(ONE.format(operator="Tanh"))
    rules = altered("Tanh", lambda op, value: op("Mul", value, op.like(value, float("nan"))))
    assert all(c.verdict == "fail" for c in check_gradient(model, {"x": values(3, 4)}, rules=rules))


def test_kink_is_reported_and_does_not_pass() -> None:
    at_the_kink = values(3, 4)
    at_the_kink[1, 2] = 0
    model = parsed(ONE.format(operator="Relu"))
    assert {c.verdict for c in check_gradient(model, {"x": at_the_kink})} == {"kink"}
    assert {c.verdict for c in check_gradient(model, {"x": values(3, 4)})} == {"pass"}


def test_jump_is_reported_and_does_not_pass() -> None:
    model = parsed(ONE.format(operator="Floor"))
    assert {c.verdict for c in check_gradient(model, {"x": np.ones((2, 4), np.float32)})} == {"kink"}


def test_derivative_of_steps_is_zero_between_them() -> None:
    found = check_gradient(parsed(ONE.format(operator="Floor")), {"x": values(2, 4)})
    assert {(c.verdict, c.found, c.expected) for c in found} == {("pass", 0.0, 0.0)}


def test_missing_rule_is_refused_by_name() -> None:
    rules = {key: rule for key, rule in VJP.items() if key != ("", "Tanh")}
    with pytest.raises(NotDifferentiable, match="no gradient rule for Tanh"):
        check_gradient(parsed(MIXED), INPUTS, rules=rules)


def test_rule_without_an_answer_for_an_active_input_is_refused() -> None:
    silent = {**VJP, ("", "MatMul"): Rule(lambda op, node, g: (VJP["", "MatMul"].vjp(op, node, g)[0], None))}
    with pytest.raises(NotDifferentiable, match="input 1 \\('w'\\) of MatMul"):
        check_gradient(parsed(MIXED), INPUTS, rules=silent)


def test_every_seed_input_and_form_is_compared() -> None:
    found = check_gradient(parsed(MIXED), INPUTS, seeds=(5, 6), forms=("fixed", "free"))
    compared = {(c.input, c.seed, c.form) for c in found}
    assert compared == {(x, seed, form) for x in "xw" for seed in (5, 6) for form in ("fixed", "free")}
    assert len(found) == 8


def test_oracle_is_the_reference_evaluator_in_double_precision() -> None:
    assert {c.oracle for c in check_gradient(parsed(MIXED), INPUTS)} == {"reference float64"}


def test_conversion_to_double_leaves_no_narrow_float() -> None:
    text = (
        HEAD
        + """
        model (float[N] x) => (float[N] z) <float[1] w = {2}> {
            c = Constant <value_float = 3.0> ()
            a = Mul(x, w)
            b = Cast <to = 1> (a)
            z = Add(b, c)
        }
    """
    )
    double = to_double(parser.parse_model(text))
    evaluator = onnx.reference.ReferenceEvaluator(double)
    z = np.asarray(next(iter(evaluator.run(None, {"x": np.array([1 / 3])}))))
    assert z.dtype == np.float64
    assert z[0] == 2 / 3 + 3
    assert to_double(double) == double


# --- what each input is due


def clipped(at: Ends) -> NDArray[Any]:
    return np.asarray(np.minimum(np.maximum(at["x"], at["low"]), at["high"]))


def largest(at: Ends) -> NDArray[Any]:
    return np.asarray(np.maximum.reduce(list(at.values())))


def steps(function: Function, x: Ends, y: Ends, order: Sequence[str]) -> dict[str, NDArray[Any]]:
    """What each input changes where they move in one order."""
    at, found = dict(y), {}
    for name in order:
        before = function(at)
        at[name] = x[name]
        found[name] = function(at) - before
    return found


def by_halves(function: Function, x: Ends, y: Ends) -> dict[str, NDArray[Any]]:
    """The mean of one order and its reverse: right for two inputs, wrong for three."""
    forth, back = (steps(function, x, y, order) for order in (list(x), list(x)[::-1]))
    return {n: (forth[n] + back[n]) / 2 for n in x}


def by_equal_shares(function: Function, x: Ends, y: Ends) -> dict[str, NDArray[Any]]:
    return {n: (function(x) - function(y)) / len(x) for n in x}


def due(function: Function, x: Ends, y: Ends) -> dict[str, NDArray[Any]]:
    return shares_by_evaluation(function, x, y, np.ones(np.shape(function(x))))


def ends(*names: str) -> tuple[Ends, Ends]:
    rng = np.random.default_rng(8)
    x, y = ({n: rng.standard_normal((3, 4)) for n in names} for _ in range(2))
    return x, y


def half_to_the_first(function: Function, x: Ends, y: Ends) -> dict[str, NDArray[Any]]:
    change = function(x) - function(y)
    return {n: change / 2 if k == 0 else change / (2 * len(x) - 2) for k, n in enumerate(x)}


CLIP, MAX = ("x", "low", "high"), ("a", "b", "c")
PLANTED = {
    "Clip, half to x and half to its bounds": (clipped, CLIP, half_to_the_first),
    "Clip by one order and its reverse": (clipped, CLIP, by_halves),
    "Max of three by equal shares": (largest, MAX, by_equal_shares),
    "Max of three by halves": (largest, MAX, by_halves),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_credit_that_sums_and_is_split_wrongly_fails(fault: str) -> None:
    function, names, wrong = PLANTED[fault]
    x, y = ends(*names)
    found = wrong(function, x, y)
    np.testing.assert_allclose(sum(found.values()), function(x) - function(y), atol=1e-12)
    with pytest.raises(AssertionError, match="apart"):
        assert_credit(found, due(function, x, y))


@pytest.mark.parametrize(("function", "names"), [(clipped, CLIP), (largest, MAX)], ids=["Clip", "Max"])
def test_credit_half_a_per_mille_wrong_or_of_another_input_or_not_a_number_fails(
    function: Function, names: tuple[str, ...]
) -> None:
    x, y = ends(*names)
    right = due(function, x, y)
    assert_credit(right, right)
    turned = dict(zip(names, [right[n] for n in (*names[1:], names[0])], strict=True))
    unknown = right[names[0]].copy()
    unknown[1, 2] = np.nan
    wrong = [
        {n: a * 1.0005 for n, a in right.items()},
        {**right, names[1]: right[names[1]] * 1.0005},
        {**right, names[0]: np.roll(right[names[0]], 1)},
        {**right, names[0]: unknown},
        turned,
    ]
    for found in wrong:
        with pytest.raises(AssertionError, match="apart"):
            assert_credit(found, right)


def test_shares_are_the_mean_over_all_orders() -> None:
    x, y = ends(*MAX)
    orders = [steps(largest, x, y, order) for order in itertools.permutations(MAX)]
    assert_credit(due(largest, x, y), {n: sum(o[n] for o in orders) / len(orders) for n in MAX}, 1e-12)
