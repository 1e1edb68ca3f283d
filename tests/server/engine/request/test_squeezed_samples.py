"""Samples of files that squeeze whatever has size 1, and so the axis of the samples too where there is one.

The truth is the file itself in onnxruntime, run on one sample at a time in float64, and differences of that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.method_names import DEEPLIFT_METHODS
from tests.programs import parsed

Doubles = NDArray[np.float64]
STEP = 1e-5
METHODS: tuple[str, ...] = (
    "gradient", "gradient_x_activation", "integrated_gradients", "neuron_ig", "occlusion", *DEEPLIFT_METHODS,
)  # fmt: skip


class Case(NamedTuple):
    """A file, the shape of a sample without its own axis, the last element of y for each sample, and what the batch is
    found to be along which axis.
    """

    text: str
    shape: tuple[int, ...]
    element: tuple[int, ...] = ()
    batch: str = "dynamic"
    axis: int = 0
    opset: int = 13


WEIGHT = (
    "w = Constant<value = double[3,1] {1, 2, -1}>() four = Constant<value = double {4}>() h = MatMul(x, w)"
)
END = "t = Sigmoid(s) u = Mul(t, four) y = Tanh(u) }"
LOOP = "n = Constant<value = int64 {3}>() yes = Constant<value = bool {1}>()"
CASES = {
    "a score, opset 11": Case(f"g (double[N,3] x) => (double[M] y) {{ {WEIGHT} s = Squeeze(h) {END}", (3,), opset=11),
    "a score, opset 13": Case(f"g (double[N,3] x) => (double[M] y) {{ {WEIGHT} s = Squeeze(h) {END}", (3,)),
    "a score, opset 21": Case(f"g (double[N,3] x) => (double[M] y) {{ {WEIGHT} s = Squeeze(h) {END}", (3,), opset=21),
    "a score that is declared without axes": Case(
        f"g (double[N,3] x) => (double y) {{ {WEIGHT} s = Squeeze(h) {END}", (3,), opset=11
    ),
    "axes that are given and none": Case(
        f"""g (double[N,3] x) => (double[M] y) {{ {WEIGHT} e = Constant<value = int64[0] {{}}>() s = Squeeze(h, e)
        {END}""",
        (3,),
    ),
    "twice": Case(f"g (double[N,3] x) => (double[M] y) {{ {WEIGHT} q = Squeeze(h) s = Squeeze(q) {END}", (3,)),
    "a pooled picture": Case(
        """g (double[N,3,H,W] x) => (double[M,K] y) { a = Tanh(x) p = ReduceMean<axes = [2, 3]>(a) s = Squeeze(p)
        w = Constant<value = double[3,2] {1, 2, -1, 0.5, 0.3, -2}>() h = MatMul(s, w) y = Softmax(h) }""",
        (3, 4, 5), (1,),
    ),
    "a pooled picture of a fixed batch": Case(
        """g (double[1,3,4,5] x) => (double[M] y) { a = Tanh(x) p = ReduceMean<axes = [2, 3]>(a) s = Squeeze(p)
        y = Sin(s) }""",
        (3, 4, 5), (2,), "freed",
    ),
    "a channel before a length": Case(
        "g (double[N,1,T] x) => (double[M,K] y) { a = Tanh(x) s = Squeeze(a) y = Mul(s, s) }", (1, 5), (4,)
    ),
    "samples behind a length": Case(
        """g (double[T,N,1] x) => (double[M,K] y) { a = Tanh(x) s = Squeeze(a)
        w = Constant<value = double[1] {1.5}>() y = Mul(s, w) }""",
        (4, 1), (3,), axis=1,
    ),
    "an axis counted from the front": Case(
        "g (double[N,3,1] x) => (double[M,K] y) { a = Tanh(x) s = Squeeze(a) y = Softmax<axis = 0>(s) }",
        (3, 1), (2,), "single",
    ),
    "an axis that an If squeezes": Case(
        f"""g (double[N,3] x) => (double[M] y) {{ {WEIGHT} d = Shape(h) z = Constant<value = int64 {{0}}>()
        one = Constant<value = int64 {{1}}>() k = Gather(d, z) c = Equal(k, one)
        s = If(c) <then_branch = a () => (double[P] p) {{ i = Constant<value = int64[1] {{0}}>() p = Squeeze(h, i) }},
                   else_branch = b () => (double[Q] q) {{ q = Identity(h) }}> {END}""",
        (3,), (0,),
    ),
    "in a Loop": Case(
        f"""g (double[N,3] x) => (double[M] y) {{ {WEIGHT} {LOOP} s = Squeeze(h)
        l = Loop(n, yes, s) <body = b (int64 i, bool c, double[Z] v) => (bool d, double[Z] o) {{
            d = Identity(c) q = Tanh(h) r = Squeeze(q) o = Mul(v, r) }}> y = Mul(l, four) }}""",
        (3,),
    ),
    "in a branch": Case(
        f"""g (double[N,3] x, bool c) => (double[M] y) {{ {WEIGHT}
        s = If(c) <then_branch = a () => (double[P] p) {{ p = Squeeze(h) }},
                   else_branch = b () => (double[Q] q) {{ k = Tanh(h) q = Squeeze(k) }}> {END}""",
        (3,),
    ),
    "in a function": Case(f"g (double[N,3] x) => (double[M] y) {{ {WEIGHT} s = own.last(h) {END}", (3,)),
}  # fmt: skip
FUNCTION = '<domain: "own", opset_import: ["" : 13]> last (v) => (o) { k = Tanh(v) o = Squeeze(k) }'


def model(case: Case) -> onnx.ModelProto:
    made = parsed(case.text, case.opset)
    if "own." in case.text:
        made.functions.append(onnx.parser.parse_function(FUNCTION))
        made.opset_import.append(onnx.helper.make_opsetid("own", 1))
    return made


def drawn(case: Case, samples: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(1)
    rows = [np.expand_dims(size * rng.normal(size=case.shape), case.axis) for size in (1, 3, 0.2)]
    switch = {"c": np.array(True)} if "bool c)" in case.text.partition("=>")[0] else {}
    return {"x": np.concatenate(rows[:samples], axis=case.axis), **switch}


def alone(made: onnx.ModelProto, case: Case, inputs: dict[str, NDArray[Any]]) -> list[Any]:
    """What the file makes of each sample, and the gradient of its last element by central differences."""
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])

    def last(x: Doubles) -> float:
        return float(session.run(["y"], {**inputs, "x": x})[0].reshape(-1)[-1])

    found = []
    for k in range(inputs["x"].shape[case.axis]):
        x = np.take(inputs["x"], [k], axis=case.axis)
        gradient = np.zeros(x.shape)
        for place in np.ndindex(x.shape):
            move = np.zeros(x.shape)
            move[place] = STEP
            gradient[place] = (last(x + move) - last(x - move)) / (2 * STEP)
        found.append((last(x), np.take(gradient, 0, axis=case.axis)))
    return found


@pytest.mark.parametrize("name", CASES)
def test_each_sample_has_the_value_and_the_gradient_that_the_file_gives_it_alone(name: str) -> None:
    case, made = CASES[name], model(CASES[name])
    truth = alone(made, case, drawn(case, 3))
    with Engine(provider="cpu") as engine:
        engine.add("net", made)
        assert engine.info("net").batch == case.batch
        for samples in (1, 2, 3):
            inputs = drawn(case, samples)
            answer = engine.attribute(
                AttributionRequest("net", inputs, "gradient", target=Target(index=case.element))
            )
            for k, (value, gradient) in enumerate(truth[:samples]):
                assert answer.target.value[k] == pytest.approx(value, rel=1e-9)
                found = answer.layers["x"].values[k]
                np.testing.assert_allclose(found.reshape(gradient.shape), gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_three_samples_have_the_attributions_of_each_alone(name: str) -> None:
    case = CASES[name]
    inputs = drawn(case, 3)
    rows = [{**inputs, "x": np.take(inputs["x"], [k], axis=case.axis)} for k in range(3)]
    with Engine(provider="cpu") as engine:
        engine.add("net", model(case))
        for method in METHODS:
            asked = AttributionRequest("net", inputs, method, target=Target(index=case.element), steps=8)
            together = engine.attribute(asked)
            for k, row in enumerate(rows):
                one = engine.attribute(replace(asked, inputs=row))
                found, wanted = together.layers["x"].values[k], one.layers["x"].values[0]
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9, err_msg=method)
                if method in DEEPLIFT_METHODS:
                    change = one.target.value[0] - one.target.baseline_value[0]
                    assert wanted.sum() == pytest.approx(change, rel=1e-6, abs=1e-9)


def test_a_size_that_may_be_1_and_then_makes_other_numbers_is_told() -> None:
    """Of `[1,T,3,1]` the file sums `[T,3]` along T; where T is 1 it sums `[3]` along the 3."""
    case = Case(
        """g (double[N,T,3,1] x) => (double[P,Q] y) { z = Constant<value = int64 {0}>() s = Squeeze(x)
        t = CumSum(s, z) y = Tanh(t) }""",
        (4, 3, 1),
    )
    with Engine(provider="cpu") as engine:
        engine.add("net", model(case))
        answer = engine.attribute(
            AttributionRequest("net", drawn(case, 1), "gradient", target=Target(index=(3, 2)))
        )
    assert any("removes 'T' too where it is 1" in words for words in answer.warnings)
