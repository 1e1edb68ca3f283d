"""Attention of several nodes has the gradient of the whole, whatever makes its scores and whoever reads inside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.operators import VJP
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.walk.composites import composites
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from tests.programs import contributions, gradients, parsed

Array = NDArray[Any]
Scores = Callable[[Array], Array]
RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 3, 8)).astype(np.float32)
V = RNG.standard_normal(X.shape)
BIAS = np.asarray([[0.1, -0.5, 1], [0.3, 0, 2], [-1, 0.7, 0.2]])
CAUSAL = np.tri(3, dtype=bool)
EMPTY = np.asarray([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
"""The second query sees no key."""
NUMBERS = {"root": "2.0", "half": "0.5", "none": "0.0", "low": "-inf"}
INTS = {"start": 0, "heads": 1, "places": 2, "keys": 3}
START = (
    "".join(f"{name} = Constant<value_float = {number}>() " for name, number in NUMBERS.items())
    + "".join(f"{name} = Constant<value_ints = [{number}]>() " for name, number in INTS.items())
    + f"bias = Constant<value = float[3,3] {{{', '.join(map(str, BIAS.ravel()))}}}>() "
    + f"causal = Constant<value = bool[3,3] {{{', '.join(str(int(b)) for b in CAUSAL.ravel())}}}>() "
    + f"empty = Constant<value = bool[3,3] {{{', '.join(str(int(b)) for b in EMPTY.ravel())}}}>() "
    + "sizes = Constant<value_ints = [0, 3, 2, 4]>() flat = Constant<value_ints = [0, 3, 8]>() "
)
PARTS = (
    "w = Sin(x) y = Mul(x, root) h = Reshape(x, sizes) i = Reshape(w, sizes) j = Reshape(y, sizes) "
    "q = Transpose<perm = [0, 2, 1, 3]>(h) k = Transpose<perm = [0, 2, 3, 1]>(i) "
    "v = Transpose<perm = [0, 2, 1, 3]>(j) "
)
END = "t = Transpose<perm = [0, 2, 1, 3]>(o) z = Reshape(t, flat) "


def split(x: Array) -> Array:
    """`[N, 3, 8]` as two heads, `[N, 2, 3, 4]`."""
    return x.reshape(-1, 3, 2, 4).swapaxes(1, 2)


def merged(o: Array) -> Array:
    return np.asarray(o.swapaxes(1, 2).reshape(-1, 3, 8))


def softmax(scores: Array) -> Array:
    """Over the last axis; 0 where nothing is left."""
    top = scores.max(axis=-1, keepdims=True)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    return np.asarray(e / np.maximum(e.sum(axis=-1, keepdims=True), 1e-300))


def product(x: Array, queries: int = 3, heads: int = 2) -> Array:
    """q k^T of x and sin x."""
    return np.asarray(split(x)[:, :, :queries] @ split(np.sin(x))[:, :heads].swapaxes(2, 3))


def attended(x: Array, of: Scores = lambda s: s) -> Array:
    """softmax(of(q k^T)) v of two heads, where q, k and v are x, sin x and 2 x."""
    return merged(softmax(of(product(x))) @ split(2 * x))


@dataclass(frozen=True)
class Form:
    """How `o` is made of `q`, `k` and `v`, the same in numpy, and what the whole leads to where all of it moves."""

    text: str
    value: Callable[[Array], Array]
    reads: str = "q k v"

    def model(self, kind: str = "float", start: str = START) -> onnx.ModelProto:
        return parsed(f"g ({kind}[N,3,8] x) => ({kind}[N,3,8] z) {{ {start} {PARTS} {self.text} {END} }}")


LAST = "p = Softmax(n) o = MatMul(p, v)"
CHOSEN = "s = MatMul(q, k) n = Where(causal, s, low) "
FORMS = {
    "plain": Form("n = MatMul(q, k) " + LAST, attended),
    "divided, masked": Form(
        "s = MatMul(q, k) d = Div(s, root) n = Add(d, bias) p = Softmax<axis = 3>(n) o = MatMul(p, v)",
        lambda x: attended(x, lambda s: s / 2 + BIAS),
    ),
    "masked twice, multiplied": Form(
        "s = MatMul(q, k) d = Add(bias, s) m = Where(causal, none, low) a = Mul(half, d) n = Add(a, m) " + LAST,
        lambda x: attended(x, lambda s: np.where(CAUSAL, (s + BIAS) / 2, -np.inf)),
    ),
    "chosen": Form(CHOSEN + LAST, lambda x: attended(x, lambda s: np.where(CAUSAL, s, -np.inf)), "n v"),
    "a mask that moves": Form(
        "s = MatMul(q, k) m = ReduceMean(q, keys) n = Add(s, m) a = Mul(m, n) b = Add(n, a) p = Softmax(b) "
        "o = MatMul(p, v)",
        lambda x: attended(x, lambda s: moving(s, split(x).mean(axis=-1, keepdims=True))),
        "b v",
    ),
    "bent": Form(
        "s = MatMul(q, k) c = Tanh(s) n = Mul(c, root) " + LAST,
        lambda x: attended(x, lambda s: 2 * np.tanh(s)),
        "n v",
    ),
    "rows made numbers": Form(
        "s = MatMul(q, k) m = Where(empty, none, low) n = Add(s, m) p = Softmax(n) b = IsNaN(p) "
        "c = Where(b, none, p) o = MatMul(c, v)",
        lambda x: attended(x, lambda s: np.where(EMPTY, s, -np.inf)),
    ),
    "flattened": Form(
        CHOSEN + "f = Flatten<axis = 3>(n) p = Softmax<axis = 1>(f) g = Shape(n) c = Reshape(p, g) o = MatMul(c, v)",
        lambda x: attended(x, lambda s: np.where(CAUSAL, s, -np.inf)),
        "f v",
    ),
    "shared keys": Form(
        "a = Slice(k, start, heads, heads) c = Slice(v, start, heads, heads) n = MatMul(q, a) p = Softmax(n) "
        "o = MatMul(p, c)",
        lambda x: merged(softmax(product(x, heads=1)) @ split(2 * x)[:, :1]),
        "q a c",
    ),
    "shared weights": Form(
        "a = Slice(k, start, heads, heads) b = Slice(q, start, heads, heads) n = MatMul(b, a) " + LAST,
        lambda x: merged(softmax(product(x, heads=1)[:, :1]) @ split(2 * x)),
        "b a v",
    ),
    "one query, several masks": Form(
        "a = Slice(q, start, heads, places) s = MatMul(a, k) n = Add(s, bias) " + LAST,
        lambda x: merged(softmax(product(x, queries=1) + BIAS) @ split(2 * x)),
        "n v",
    ),
    "weights read by others": Form(
        "n = MatMul(q, k) p = Softmax(n) a = MatMul(p, v) m = ReduceMax(p, keys) o = Mul(a, m)",
        lambda x: times_largest(softmax(product(x)), split(2 * x)),
    ),
}  # fmt: skip


def moving(scores: Array, mean: Array) -> Array:
    """(s + m) (1 + m)."""
    return np.asarray((scores + mean) * (1 + mean))


def times_largest(weights: Array, values: Array) -> Array:
    return merged((weights @ values) * weights.max(axis=-1, keepdims=True))


def slopes(function: Callable[[Array], Array], x: Array = X) -> Array:
    """The gradient of <V, function> by central differences in float64."""
    at, found = x.astype(np.float64), np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(at)
        step[place] = 1e-5
        found[place] = np.sum(V * (function(at + step) - function(at - step))) / 2e-5
    return found


def reads(source: onnx.ModelProto, asked: tuple[str, ...] = ("x",)) -> list[tuple[str, ...]]:
    """What the attentions that are recognised lead to, where all of it moves."""
    nodes = LoadedModel(source, Backend("cpu"), given={"x": X}).graph.nodes
    active = {z.name for node in nodes for z in node.outputs if node.op != "Constant"} | {"x"}
    still = {"bias", "causal", "empty", "m"} if not any(n.op == "ReduceMean" for n in nodes) else {"bias"}
    functions = composites(nodes, asked, VJP).values()
    meant = [f.where(active - still) for f in functions]
    return [tuple(x.name for x in f.inputs) for f in meant if f is not None and len(f.inputs) > 1]


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_attention_is_that_of_its_formula(form: str) -> None:
    one = FORMS[form]
    assert reads(one.model()) == [tuple(one.reads.split())]
    found = gradients(one.model(), {"x": X}, ["x"], V)["x"]
    right = slopes(one.value)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize("inner", ["s", "n", "p"])
def test_scores_and_weights_that_are_asked_for_have_their_gradients(inner: str) -> None:
    one = FORMS["divided, masked"]
    source = one.model()
    assert ("q", "k", "v") not in reads(source, ("x", inner))
    network = LoadedModel(source, Backend("cpu"), given={"x": X}).network
    program = rows_program(network, Choice(("x",), ("x", inner), "z"))
    run = Backend("cpu", 1).session(program.model).run({"x": X, "target/weight": V.astype(np.float32)})
    found = {name: np.asarray(array, np.float64) for name, array in run.items()}
    right = slopes(one.value)
    np.testing.assert_allclose(found["gradient/x"], right, rtol=1e-4, atol=1e-5 * np.abs(right).max())
    x = X.astype(np.float64)
    weights, arrived = softmax(product(x) / 2 + BIAS), split(V) @ split(2 * x).swapaxes(2, 3)
    behind = weights * (arrived - (weights * arrived).sum(-1, keepdims=True))
    own = {"p": arrived, "n": behind, "s": behind / 2}[inner]
    np.testing.assert_allclose(found[f"gradient/{inner}"], own, rtol=1e-4, atol=1e-5 * np.abs(own).max())


@pytest.mark.parametrize("moves", ["q", "k", "v", "q k", "k v"])
def test_parts_that_do_not_move_have_no_gradient_and_the_others_theirs(moves: str) -> None:
    """Attention to what is given besides, and from it."""
    held = {"q": "c", "k": "c", "v": "c"} | dict.fromkeys(moves.split(), "x")
    text = "k = Transpose<perm = [0, 2, 1]>(kx) s = MatMul(qx, k) d = Div(s, root) p = Softmax(d) z = MatMul(p, vx)"
    text = re.sub(r"\b([qkv])x\b", lambda m: held[m[1]], text)
    source = parsed(f"g (float[N,3,8] x, float[N,3,8] c) => (float[N,3,8] z) {{ {START} {text} }}")
    c = RNG.standard_normal(X.shape).astype(np.float32)

    def value(x: Array) -> Array:
        q, k, v = ({"x": x, "c": c.astype(np.float64)}[held[part]] for part in "qkv")
        return np.asarray(softmax(q @ k.swapaxes(1, 2) / 2) @ v)

    found = gradients(source, {"x": X, "c": c}, ["x"], V)["x"]
    right = slopes(value)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


def test_a_query_that_sees_no_key_has_no_gradient_and_leaves_the_others_theirs() -> None:
    """Its own result is no number, and is not explained."""
    text = "s = MatMul(q, k) m = Where(empty, none, low) n = Add(s, m) " + LAST
    seen = "e = Constant<value = bool[3,1] {1, 0, 1}>() u = Where(e, o, none) "
    one = Form(text + seen, lambda x: attended(x, lambda s: np.where(EMPTY, s, -np.inf)))
    end = END.replace("(o)", "(u)")
    source = parsed(f"g (float[N,3,8] x) => (float[N,3,8] z) {{ {START} {PARTS} {one.text} {end} }}")
    assert reads(source) == [("q", "k", "v")]
    found = gradients(source, {"x": X}, ["x"], V)["x"]
    right = slopes(one.value)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize("sharp", [4.0, 8.0, 16.0])
def test_of_weights_close_to_1_the_gradients_keep_their_digits(sharp: float) -> None:
    """Of queries whose other weights are far below the rounding of the largest; the scores alone tell."""
    rng = np.random.default_rng(0)
    q = sharp * np.eye(3, 8, dtype=np.float32)[None] + 0.1 * rng.standard_normal((2, 3, 8)).astype(np.float32)
    text = "k = Constant<value = float[1,8,3] {" + ", ".join(map(str, np.eye(8, 3).ravel())) + "}>() "
    held = "v = Constant<value = float[1,3,8] {" + ", ".join(map(str, range(24))) + "}>() "
    body = "y = Add(x, x) c = Identity(k) b = Mul(v, root) s = MatMul(y, c) p = Softmax(s) z = MatMul(p, b)"
    source = parsed(f"g (float[N,3,8] x) => (float[N,3,8] z) {{ {START} {text} {held} {body} }}")
    found = gradients(source, {"x": q}, ["x"], V)["x"]
    keys, values = np.eye(8, 3), 2 * np.arange(24.0).reshape(3, 8)
    weights = softmax(2 * q.astype(np.float64) @ keys)
    arrived = V @ values.T
    away = weights[..., None, :] * (arrived[..., :, None] - arrived[..., None, :])
    right = 2 * (weights * away.sum(-1)) @ keys.T  # a sum of differences: nothing cancels in it
    np.testing.assert_allclose(found[..., :3], right[..., :3], rtol=1e-3)


@pytest.mark.parametrize("form", ["plain", "divided, masked", "masked twice, multiplied", "flattened"])
def test_no_array_of_keys_by_queries_is_turned_and_each_is_divided_once(form: str) -> None:
    network = LoadedModel(FORMS[form].model(), Backend("cpu"), given={"x": X}).network
    nodes = rows_program(network, Choice(("x",), ("x",), "z")).model.graph.node
    made = {z: node for node in nodes for z in node.output}
    weights = next(node for node in nodes if node.op_type == "Softmax").output[0]
    turned = [n for n in nodes if n.op_type == "Transpose" and n.input[0] == weights]
    counted = Counter(node.op_type for node in nodes)
    assert not turned
    assert counted["IsNaN"] <= 1
    assert counted["Div"] == ("divided" in form)
    assert not any(made[n.input[0]].op_type == "Softmax" for n in nodes if n.op_type == "IsNaN")


@pytest.mark.parametrize("form", ["plain", "divided, masked", "chosen", "rows made numbers", "flattened"])
def test_deeplift_of_attention_sums_to_the_change(form: str) -> None:
    total, change, size = contributions(FORMS[form].model(), {"x": X}, {"x": X[::-1] * 0.5}, V)
    assert abs(total - change) <= 1e-5 * size


def test_under_rules_of_their_own_its_nodes_are_followed_one_by_one() -> None:
    nodes = LoadedModel(FORMS["plain"].model(), Backend("cpu"), given={"x": X}).graph.nodes
    other = {**VJP, ("", "Softmax"): VJP["", "LogSoftmax"]}
    assert composites(nodes, ("x",), VJP)
    assert not composites(nodes, ("x",), other)


@pytest.mark.parametrize("form", ["plain", "divided, masked", "chosen"])
def test_of_half_types_too(form: str) -> None:
    names = [*NUMBERS, "bias"]
    halved = re.sub(
        rf"\b({'|'.join(names)}) = (Constant<[^>]*>\(\))", r"\1_ = \2 \1 = Cast<to = 10>(\1_)", START
    )
    x = X.astype(np.float16)
    found = gradients(FORMS[form].model("float16", halved), {"x": x}, ["x"], V)["x"]
    right = slopes(FORMS[form].value, x)
    # the forward pass, which is read, is rounded to 11 bits
    np.testing.assert_allclose(found, right, atol=4e-3 * np.abs(right).max())


@pytest.mark.parametrize("form", ["plain", "divided, masked", "flattened"])
def test_of_doubles_too(form: str) -> None:
    names = [*NUMBERS, "bias"]
    wide = re.sub(
        rf"\b({'|'.join(names)}) = (Constant<[^>]*>\(\))", r"\1_ = \2 \1 = Cast<to = 11>(\1_)", START
    )
    x = X.astype(np.float64)
    found = gradients(FORMS[form].model("double", wide), {"x": x}, ["x"], V)["x"]
    np.testing.assert_allclose(found, slopes(FORMS[form].value, x), rtol=1e-5, atol=1e-6)
