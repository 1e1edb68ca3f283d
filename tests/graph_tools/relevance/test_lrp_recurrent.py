"""LRP through LSTM, GRU and RNN, against a walk over relevances in numpy: gates are constants, sums share by terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.relevance.lrp import Lrp, lrp
from onnx_attribution.graph_tools.relevance.trace import Trace, trace
from onnx_attribution.graph_tools.relevance.weights import Chosen, Numbers
from tests.graph_tools.relevance.carried import carried
from tests.methods.toys import model

Floats = NDArray[np.float64]
STEPS, INPUTS, UNITS = 5, 3, 4
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def sigmoid(a: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-a)))


def over(r: Floats, z: Floats, epsilon: float) -> Floats:
    """r / (z + epsilon sign z), with the sign of 0 above; 0 where there is nothing to divide by."""
    divisor = z + np.where(z < 0, -epsilon, epsilon)
    return np.asarray(np.where(divisor == 0, 0, r / np.where(divisor == 0, 1, divisor)))


@dataclass(frozen=True)
class Cell:
    """One direction of an operator with the standard's activations, for one sequence."""

    operator: str
    w: Floats
    r: Floats
    b: Floats
    epsilon: float
    coupled: bool = False
    after: bool = False
    peephole: Floats | None = None

    def gates(self, values: Floats) -> list[Floats]:
        return list(np.split(values, GATES[self.operator]))

    def relevance(
        self, x: Floats, h: Floats, c: Floats, of_y: Floats, of_h: Floats, of_c: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Of x [T, I] and of the initial states, from that of each step's output and of the last states."""
        before, memories = [], []
        for at in x:
            before.append(h)
            memories.append(c)
            h, c = self.step(at, h, c)[:2]
        found = np.zeros_like(x)
        r_h, r_c = of_h, of_c
        for t in reversed(range(len(x))):
            found[t], r_h, r_c = self.back(x[t], before[t], memories[t], r_h + of_y[t], r_c)
        return found, r_h, r_c

    def step(self, x: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats, list[Floats]]:
        b_w, b_r = np.split(self.b, 2)
        a = self.gates(self.w @ x + self.r @ h + b_w + b_r)
        if self.operator == "RNN":
            return np.tanh(a[0]), c, a
        if self.operator == "GRU":
            z, opened = sigmoid(a[0]), sigmoid(a[1])
            read = self.gates(self.r)[2] @ (h if self.after else opened * h) + self.gates(b_r)[2]
            at_x = self.gates(self.w @ x + b_w)[2]
            a[2] = at_x + (opened * read if self.after else read)
            return (1 - z) * np.tanh(a[2]) + z * h, c, [z, opened, a[2], read]
        p = np.zeros((3, UNITS)) if self.peephole is None else self.peephole.reshape(3, UNITS)
        i, forget = sigmoid(a[0] + p[0] * c), sigmoid(a[2] + p[2] * c)
        forget = 1 - i if self.coupled else forget
        after = forget * c + i * np.tanh(a[3])
        return sigmoid(a[1] + p[1] * after) * np.tanh(after), after, [i, forget, a[3]]

    def back(
        self, x: Floats, h: Floats, c: Floats, r_h: Floats, r_c: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Of what one step reads, from that of its states."""
        made, cell, inner = self.step(x, h, c)
        e = self.epsilon
        if self.operator == "RNN":
            part = over(r_h, inner[0], e)
            return x * (self.w.T @ part), h * (self.r.T @ part), r_c
        if self.operator == "GRU":
            z, opened, a, read = inner
            part = over(r_h, made, e)  # of (1 - z) n + z h
            kept, of_a = z * h * part, over((1 - z) * np.tanh(a) * part, a, e)
            w, r = self.gates(self.w)[2], self.gates(self.r)[2]
            if self.after:
                of_read = over(opened * read * of_a, read, e)
                return x * (w.T @ of_a), kept + h * (r.T @ of_read), r_c
            return x * (w.T @ of_a), kept + opened * h * (r.T @ of_a), r_c
        i, forget, a = inner
        part = over(r_c + r_h, cell, e)  # the output gate leaves all to the cell
        of_a = over(i * np.tanh(a) * part, a, e)
        w, r = self.gates(self.w)[3], self.gates(self.r)[3]
        return x * (w.T @ of_a), h * (r.T @ of_a), forget * c * part


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "RNN": ("RNN", "", {}),
    "GRU": ("GRU", "", {}),
    "GRU, reset after": ("GRU", "linear_before_reset = 1", {"after": True}),
    "LSTM": ("LSTM", "", {}),
    "LSTM, coupled": ("LSTM", "input_forget = 1", {"coupled": True}),
    "LSTM, peepholes": ("LSTM", "", {"peephole": np.linspace(-1, 1, 3 * UNITS)}),
}


def weights(operator: str, directions: int, bias: bool = True) -> dict[str, Floats]:
    rng, rows = np.random.default_rng(3), GATES[operator] * UNITS
    return {
        "w": rng.normal(size=(directions, rows, INPUTS)),
        "r": rng.normal(size=(directions, rows, UNITS)) / 2,
        "b": bias * rng.normal(size=(directions, 2 * rows)),
    }


def net(
    operator: str, attributes: str, given: dict[str, Any], directions: int, bias: bool
) -> onnx.ModelProto:
    """What each step makes and the last states, side by side."""
    words = ", ".join(filter(None, [f"hidden_size = {UNITS}", attributes]))
    if directions == 2:
        words += ', direction = "bidirectional"'
    lstm = operator == "LSTM"
    inputs = f"xt, w, r, b, , h{', c' if lstm else ''}" + (", p" if "peephole" in given else "")
    outputs = "y, yh, yc" if lstm else "y, yh"
    state = f"[N,{directions},{UNITS}]"
    total = directions * UNITS * (STEPS + 1 + lstm)
    constants: dict[str, Any] = {
        k: v.astype(np.float32) for k, v in weights(operator, directions, bias).items()
    }
    if "peephole" in given:
        constants["p"] = np.stack([given["peephole"]] * directions).astype(np.float32)
    return model(
        f"""(float[N,{STEPS},{INPUTS}] x, float{state} h0, float{state} c0) => (float[N,{total}] z) {{
            xt = Transpose <perm = [1, 0, 2]> (x)
            h = Transpose <perm = [1, 0, 2]> (h0) c = Transpose <perm = [1, 0, 2]> (c0)
            {outputs} = {operator} <{words}> ({inputs})
            yt = Transpose <perm = [2, 0, 1, 3]> (y) f = Flatten(yt)
            ht = Transpose <perm = [1, 0, 2]> (yh) g = Flatten(ht)
            {"ct = Transpose <perm = [1, 0, 2]> (yc) k = Flatten(ct)" if lstm else "k = Flatten(c0)"}
            z = Concat <axis = 1> (f, g{", k" if lstm else ""})
        }}""",
        **constants,
    )


def asked(name: str, directions: int, epsilon: float, bias: bool = True) -> tuple[Any, Any, Floats]:
    """What the walk finds for x and the states, what the definition says, and the relevance that began."""
    operator, attributes, given = CASES[name]
    rng = np.random.default_rng(5)
    x = rng.normal(size=(STEPS, INPUTS))
    h, c = rng.normal(size=(2, directions, UNITS))
    lstm = operator == "LSTM"
    weight = rng.normal(size=directions * UNITS * (STEPS + 1 + lstm))
    names = ("x", "h0", "c0") if lstm else ("x", "h0")
    proto = net(operator, attributes, given, directions, bias)
    if not lstm:
        proto.graph.input.pop()
        del proto.graph.node[2]  # the cell's
        del proto.graph.node[[n.output[0] for n in proto.graph.node].index("k")]
    feeds = {n: v[None] for n, v in (("x", x), ("h0", h), ("c0", c)) if n in names}
    table = lrp(Lrp(numbers=Numbers(epsilon=epsilon)))
    found = carried(proto, table, weight[None], names, relevance=True, **feeds)
    parts = weights(operator, directions, bias)
    wanted = {"x": np.zeros_like(x), "h0": np.zeros_like(h), "c0": np.zeros_like(c)}
    padded = weight if lstm else np.concatenate([weight, np.zeros(directions * UNITS)])
    of_y, of_h, of_c = np.split(padded, directions * UNITS * np.array([STEPS, STEPS + 1]))
    total = np.zeros(1)
    for d in range(directions):
        w, r, b = (parts[k][d] for k in "wrb")
        cell = Cell(operator, w, r, b, epsilon, **given)
        turn = slice(None, None, -1 if d else 1)
        states, one = [], (h[d], c[d])
        for at in x[turn]:
            one = cell.step(at, *one)[:2]
            states.append(one)
        made = np.array([s[0] for s in states])
        begins = made * of_y.reshape(STEPS, directions, UNITS)[:, d][turn]
        last = [s * v.reshape(directions, UNITS)[d] for s, v in zip(one, (of_h, of_c), strict=True)]
        r_x, wanted["h0"][d], wanted["c0"][d] = cell.relevance(x[turn], h[d], c[d], begins, *last)
        wanted["x"] += r_x[turn]
        total += begins.sum() + last[0].sum() + last[1].sum()
    return {n: found[n][0] for n in names}, wanted, total


@pytest.mark.parametrize(("directions", "epsilon"), [(1, 0.1), (2, 1e-9)])
@pytest.mark.parametrize("name", CASES)
def test_the_relevance_is_that_of_the_definition(name: str, directions: int, epsilon: float) -> None:
    found, wanted, _ = asked(name, directions, epsilon)
    for tensor, values in found.items():
        np.testing.assert_allclose(values, wanted[tensor], atol=2e-4 * np.abs(wanted[tensor]).max(), rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_without_biases_nothing_is_lost(name: str) -> None:
    found, _, total = asked(name, 2, 0.0, bias=False)
    size = sum(np.abs(values).sum() for values in found.values())
    assert abs(sum(values.sum() for values in found.values()) - total[0]) < 1e-4 * size


def single(operator: str, attributes: str = "") -> onnx.ModelProto:
    """The last hidden state alone, which is the second output: the first is left out."""
    words = ", ".join(filter(None, [f"hidden_size = {UNITS}", attributes]))
    constants = {k: v.astype(np.float32) for k, v in weights(operator, 1).items()}
    return model(
        f"""(float[N,{STEPS},{INPUTS}] x) => (float[N,{UNITS}] z) {{
            xt = Transpose <perm = [1, 0, 2]> (x) skipped, yh = {operator} <{words}> (xt, w, r, b)
            z = Squeeze(yh, axis)
        }}""",
        axis=np.array([0]), **constants,
    )  # fmt: skip


def refused(operator: str, table: Any, words: str, attributes: str = "") -> None:
    proto = single(operator, attributes)
    node = next(one for one in proto.graph.node if one.op_type == operator)
    node.output[0] = ""
    x = np.random.default_rng(0).normal(size=(1, STEPS, INPUTS))
    with pytest.raises(NotDifferentiable, match=words) as caught:
        carried(proto, table, np.ones((1, UNITS)), relevance=True, x=x)
    assert caught.value.metadata["operator"] == operator


@pytest.mark.parametrize("operator", GATES)
def test_other_rules_are_refused_by_name(operator: str) -> None:
    for rule, words in (
        ("identity", "not of that kind"),
        ("zplus", f"is for products with weights, not for {operator}"),
    ):
        refused(operator, lrp(Lrp(named=((operator, Chosen(rule)),))), words)
    refused(
        operator,
        lrp(Lrp(first=Chosen("flat"))),
        f"flat, which is asked of what reads .*rules='{operator}=epsilon'",
    )
    refused(operator, trace(Trace(threshold=False)), f"no rule for {operator} .*form signed")


def test_an_activation_that_is_not_0_at_0_is_refused() -> None:
    words = "an activation that is not 0 at 0"
    refused("RNN", lrp(Lrp()), words, 'activations = ["Sigmoid"]')
    refused("LSTM", lrp(Lrp()), words, 'activations = ["Sigmoid", "Softplus", "Tanh"]')


def test_a_named_epsilon_holds_in_place_of_that_of_all() -> None:
    x = np.random.default_rng(0).normal(size=(1, STEPS, INPUTS))
    begins = np.ones((1, UNITS))
    named = lrp(Lrp(first=Chosen("flat"), named=(("GRU", Chosen("epsilon", 0.1)),)))
    plain = lrp(Lrp(numbers=Numbers(epsilon=0.1)))
    found, wanted = (
        carried(single("GRU"), table, begins, relevance=True, x=x)["x"] for table in (named, plain)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
