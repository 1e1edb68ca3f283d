"""LSTM, GRU and RNN against differences of their definition, written a second time in numpy and float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_attribution.errors import NotDifferentiable
from tests.checks import assert_gradient, gradient_model

Array = NDArray[Any]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
INPUTS = ("X", "W", "R", "B", "lengths", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")


@dataclass(frozen=True)
class Case:
    """One operator; `given` are its optional inputs and `made` its outputs."""

    operator: str
    attributes: dict[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ("B",)
    made: tuple[str, ...] = ("Y",)

    def __str__(self) -> str:
        words = [f"{k}={v}" for k, v in self.attributes.items()]
        return " ".join([self.operator, *words, *self.given, "to", *self.made]).replace(", ", ",")


ALL = ("B", "lengths", "initial_h", "initial_c", "P")
STATES = ("B", "initial_h", "initial_c")
CASES = [
    *(
        Case(operator, {"direction": direction}, given, made)
        for operator, direction in itertools.product(GATES, ("forward", "reverse", "bidirectional"))
        for given, made in (
            ((), ("Y",)),
            (("B", "initial_h"), ("Y", "Y_h")),
            (("B", "lengths", "initial_h"), ("Y", "Y_h")),
            (("B", "lengths"), ("Y_h",)),
        )
    ),
    *(
        Case("GRU", {"direction": direction, "linear_before_reset": 1}, given, ("Y", "Y_h"))
        for direction in ("reverse", "bidirectional")
        for given in ((), ("B", "initial_h"), ("B", "lengths", "initial_h"))
    ),
    *(
        Case("LSTM", {"direction": direction}, ALL, made)
        for direction in ("forward", "reverse", "bidirectional")
        for made in (("Y_c",), ("Y", "Y_h", "Y_c"))
    ),
    Case("LSTM", {"clip": 0.8}, ALL, OUTPUTS),
    Case("LSTM", {"clip": 0.8, "direction": "reverse"}, STATES, ("Y", "Y_c")),
    Case("GRU", {"clip": 0.8}, ("B", "initial_h"), ("Y", "Y_h")),
    Case("GRU", {"clip": 0.8, "linear_before_reset": 1}, ("B", "initial_h"), ("Y", "Y_h")),
    Case("RNN", {"clip": 0.5}),
    Case("LSTM", {"input_forget": 1}, STATES, OUTPUTS),
    Case("LSTM", {"input_forget": 1, "direction": "bidirectional"}, ALL, OUTPUTS),
    *(
        Case("RNN", {"activations": [name], **extra}, ("B", "initial_h"), ("Y", "Y_h"))
        for name, extra in (
            ("Relu", {}),
            ("Sigmoid", {}),
            ("Softsign", {}),
            ("Softplus", {}),
            ("Elu", {"activation_alpha": [0.7]}),
            ("LeakyRelu", {"activation_alpha": [0.3]}),
            ("ThresholdedRelu", {"activation_alpha": [0.2]}),
            ("HardSigmoid", {"activation_alpha": [0.3], "activation_beta": [0.4]}),
            ("Affine", {"activation_alpha": [0.6], "activation_beta": [0.1]}),
            ("ScaledTanh", {"activation_alpha": [1.3], "activation_beta": [0.6]}),
        )
    ),
    Case("RNN", {"direction": "bidirectional", "activations": ["LeakyRelu", "Elu"], "activation_alpha": [0.3, 0.7]}),
    Case("GRU", {"activations": ["HardSigmoid", "Softsign"], "activation_alpha": [0.3], "activation_beta": [0.4]}),
    Case("LSTM", {"activations": ["HardSigmoid", "ScaledTanh", "Elu"], "activation_alpha": [0.3, 1.3, 0.7],
                  "activation_beta": [0.4, 0.6]}, ALL, OUTPUTS),
]  # fmt: skip

# --- The definition ----------------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, tuple[str, Callable[..., Array]]] = {
    "Affine": ("ab", lambda x, a, b: a * x + b),
    "Elu": ("a", lambda x, a: np.where(x > 0, x, a * np.expm1(np.minimum(x, 0)))),
    "HardSigmoid": ("ab", lambda x, a, b: np.clip(a * x + b, 0, 1)),
    "LeakyRelu": ("a", lambda x, a: np.where(x > 0, x, a * x)),
    "Relu": ("", lambda x: np.maximum(x, 0)),
    "ScaledTanh": ("ab", lambda x, a, b: a * np.tanh(b * x)),
    "Sigmoid": ("", lambda x: 1 / (1 + np.exp(-x))),
    "Softplus": ("", lambda x: np.log1p(np.exp(x))),
    "Softsign": ("", lambda x: x / (1 + np.abs(x))),
    "Tanh": ("", np.tanh),
    "ThresholdedRelu": ("a", lambda x, a: np.where(x > a, x, 0)),
}


def definition(case: Case, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of the operator, one sequence and one step after another; `layout` 0."""
    x, get = inputs["X"], case.attributes.get
    kind, count = get("direction", "forward"), inputs["W"].shape[0]
    functions = _functions(case, count)
    steps, batch, size = x.shape[0], x.shape[1], inputs["R"].shape[2]
    gates = GATES[case.operator]
    y, last_h, last_c = (
        np.zeros(s) for s in ((steps, count, batch, size), (count, batch, size), (count, batch, size))
    )
    for d, n in itertools.product(range(count), range(batch)):
        w, r = inputs["W"][d], inputs["R"][d]
        bias = inputs["B"][d] if "B" in inputs else np.zeros(2 * gates * size)
        p = inputs["P"][d].reshape(3, size) if "P" in inputs else np.zeros((3, size))
        h = inputs["initial_h"][d, n] if "initial_h" in inputs else np.zeros(size)
        c = inputs["initial_c"][d, n] if "initial_c" in inputs else np.zeros(size)
        length = int(inputs["lengths"][n]) if "lengths" in inputs else steps
        times = range(length)[:: -1 if d == 1 or kind == "reverse" else 1]
        f, *more = functions[d]
        for t in times:
            of_x = (w @ x[t, n] + bias[: gates * size]).reshape(gates, size)
            rows, of_h = r.reshape(gates, size, size), bias[gates * size :].reshape(gates, size)
            if case.operator == "RNN":
                h = f(of_x[0] + rows[0] @ h + of_h[0])
            elif case.operator == "GRU":
                z, reset = (f(of_x[k] + rows[k] @ h + of_h[k]) for k in (0, 1))
                after = get("linear_before_reset", 0)
                inner = reset * (rows[2] @ h + of_h[2]) if after else rows[2] @ (reset * h) + of_h[2]
                h = (1 - z) * more[0](of_x[2] + inner) + z * h
            else:
                i, o, forget, new = (of_x[k] + rows[k] @ h + of_h[k] for k in range(4))
                i = f(i + p[0] * c)
                forget = 1 - i if get("input_forget", 0) else f(forget + p[2] * c)
                c = forget * c + i * more[0](new)
                h = f(o + p[1] * c) * more[1](c, clipped=False)
            y[t, d, n] = h
        last_h[d, n], last_c[d, n] = h, c
    return {"Y": y, "Y_h": last_h, "Y_c": last_c}


def _functions(case: Case, count: int) -> list[list[Callable[..., Array]]]:
    """The activations of each direction; the clip applies to what gates get."""
    names = case.attributes.get("activations", DEFAULTS[case.operator] * count)
    numbers = {
        k: list(case.attributes.get(f"activation_{n}", [])) for k, n in (("a", "alpha"), ("b", "beta"))
    }
    clip = case.attributes.get("clip", np.inf)

    def bound(name: str) -> Callable[..., Array]:
        letters, function = ACTIVATIONS[name]
        own = [numbers[letter].pop(0) for letter in letters]
        return lambda x, clipped=True: function(np.clip(x, -clip, clip) if clipped else x, *own)

    made = [bound(name) for name in names]
    width = len(DEFAULTS[case.operator])
    return [made[k * width : (k + 1) * width] for k in range(count)]


# --- Models ------------------------------------------------------------------------------------------------------


def inputs_of(case: Case, steps: int = 4, batch: int = 3, size: int = 5, width: int = 2) -> dict[str, Array]:
    """Values for the inputs; lengths end before, in and at the last step."""
    rng = np.random.default_rng(3)
    gates, count = GATES[case.operator], 2 if case.attributes.get("direction") == "bidirectional" else 1
    shapes = {
        "X": (steps, batch, width), "W": (count, gates * size, width), "R": (count, gates * size, size),
        "B": (count, 2 * gates * size), "initial_h": (count, batch, size), "initial_c": (count, batch, size),
        "P": (count, 3 * size),
    }  # fmt: skip
    wanted = [
        "X",
        "W",
        "R",
        *(n for n in case.given if case.operator == "LSTM" or n not in ("initial_c", "P")),
    ]
    made: dict[str, Array] = {
        n: (rng.standard_normal(shapes[n]) * 0.7).astype(np.float32) for n in wanted if n != "lengths"
    }
    if "lengths" in wanted:
        made["lengths"] = np.asarray([steps - 1, steps, 1][:batch], dtype=np.int32)
    return made


def model_of(
    case: Case, inputs: Mapping[str, Array], *, free: bool = False, opset: int = 21
) -> onnx.ModelProto:
    """The case as a model; `free` leaves steps and batch open, else every size and the lengths are known."""
    declared, held = [], []
    for name, value in inputs.items():
        if name == "lengths" and not free:
            held.append(onnx.numpy_helper.from_array(value, name))
            continue
        shape: list[Any] = list(value.shape)
        if free and name in ("X", "initial_h", "initial_c", "lengths"):
            shape[0 if name == "lengths" else 1] = "batch"
            shape[0] = "steps" if name == "X" else shape[0]
        kind = TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT
        declared.append(helper.make_tensor_value_info(name, kind, shape))
    last = max(INPUTS.index(n) for n in inputs)
    names = [n if n in inputs else "" for n in INPUTS[: last + 1]]
    outputs = [n if n in case.made else "" for n in OUTPUTS[: 3 if case.operator == "LSTM" else 2]]
    hidden = int(inputs["R"].shape[2])
    node = helper.make_node(case.operator, names, outputs, hidden_size=hidden, **case.attributes)
    infos = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * (4 if n == "Y" else 3))
        for n in case.made
    ]
    graph = helper.make_graph([node], "case", declared, infos, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def slopes(
    case: Case, inputs: Mapping[str, Array], cotangents: Mapping[str, Array], name: str, direction: Array
) -> float:
    """The derivative of `<cotangents, outputs>` along a direction of one input, by differences in float64."""

    def at(t: float) -> float:
        moved = {k: v.astype(np.float64) for k, v in inputs.items()}
        moved[name] = moved[name] + t * direction
        found = definition(case, moved)
        return float(sum(np.sum(cotangents[n] * found[n]) for n in cotangents))

    return (at(1e-6) - at(-1e-6)) / 2e-6


def assert_right(
    case: Case, inputs: Mapping[str, Array], run: Callable[[dict[str, Array]], dict[str, Array]]
) -> None:
    rng = np.random.default_rng(5)
    values = definition(case, {k: v.astype(np.float64) for k, v in inputs.items()})
    cotangents = {n: rng.standard_normal(values[n].shape).astype(np.float32) for n in case.made}
    found = run({**inputs, **{f"v/{n}": g for n, g in cotangents.items()}})
    for name in [n for n in inputs if n != "lengths"]:
        direction = rng.standard_normal(inputs[name].shape)
        expected = slopes(case, inputs, cotangents, name, direction)
        ours, size = float(np.sum(found[name] * direction)), float(np.linalg.norm(found[name]))
        assert ours == pytest.approx(expected, abs=2e-5 * max(size, 1e-3)), name


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_agrees_with_the_definition(case: Case, free: bool) -> None:
    inputs = inputs_of(case)
    model = model_of(case, inputs, free=free)
    forward = session(model)
    given = {x.name for x in forward.get_inputs()}
    expected = definition(case, {k: v.astype(np.float64) for k, v in inputs.items()})
    results = forward.run(list(case.made), {k: v for k, v in inputs.items() if k in given})
    for name, result in zip(case.made, results, strict=True):  # the definition is that of the runtime
        np.testing.assert_allclose(result, expected[name], rtol=1e-4, atol=1e-5)
    graph, names = gradient_model(model, [n for n in inputs if n != "lengths"])
    backward = session(graph)
    wanted = {x.name for x in backward.get_inputs()}

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        found = backward.run(list(names.values()), {k: v for k, v in feeds.items() if k in wanted})
        return dict(zip(names, found, strict=True))

    assert_right(case, inputs, run)


@pytest.mark.parametrize("operator", GATES)
def test_one_gradient_serves_any_number_of_steps_and_sequences(operator: str) -> None:
    case = Case(operator, {"direction": "bidirectional"}, ("B", "initial_h"), ("Y", "Y_h"))
    graph, names = gradient_model(model_of(case, inputs_of(case), free=True), ["X", "initial_h"])
    backward = session(graph)
    wanted = {x.name for x in backward.get_inputs()}
    for steps, batch in ((1, 1), (1, 4), (7, 2)):

        def run(feeds: dict[str, Array]) -> dict[str, Array]:
            found = backward.run(list(names.values()), {k: v for k, v in feeds.items() if k in wanted})
            return dict(zip(names, found, strict=True))

        inputs = inputs_of(case, steps, batch)
        rng = np.random.default_rng(steps)
        values = definition(case, {k: v.astype(np.float64) for k, v in inputs.items()})
        cotangents = {n: rng.standard_normal(values[n].shape).astype(np.float32) for n in case.made}
        found = run({**inputs, **{f"v/{n}": g for n, g in cotangents.items()}})
        for name in names:
            direction = rng.standard_normal(inputs[name].shape)
            expected = slopes(case, inputs, cotangents, name, direction)
            assert float(np.sum(found[name] * direction)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_activation_of_another_standard_is_refused_by_name() -> None:
    case = Case("RNN", {"activations": ["Swish"]})
    with pytest.raises(NotDifferentiable, match="activation Swish of RNN"):
        gradient_model(model_of(case, inputs_of(case)), ["X"])


@pytest.mark.parametrize("operator", GATES)
def test_second_derivative_is_the_gradient_of_the_gradient(operator: str) -> None:
    case = Case(operator, {"direction": "bidirectional"}, ("B", "initial_h", "lengths"), ("Y", "Y_h"))
    inputs = inputs_of(case)
    graph, _ = gradient_model(model_of(case, inputs), ["X"])
    graph.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    rng = np.random.default_rng(1)
    given = [x.name for x in graph.graph.input]
    sizes = {"v/Y": (4, 2, 3, 5), "v/Y_h": (2, 3, 5)}
    values = {
        n: inputs[n] if n in inputs else rng.standard_normal(sizes[n]).astype(np.float32) for n in given
    }
    assert_gradient(graph, values, wrt=["X", "v/Y", "initial_h", "R"], forms=["declared"], seeds=(0,))
