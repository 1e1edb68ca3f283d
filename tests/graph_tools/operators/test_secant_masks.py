"""DeepLIFT through masks of -inf, -3.4e38 and the like that depend on the source: by the limit of large masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.programs import parsed

Array = NDArray[Any]
METHODS: tuple[str, ...] = ("deeplift_rescale", "deeplift_reveal_cancel", "deeplift_genomics_default")
X, Y = np.array([[1, 0.5, -1]], np.float32), np.array([[0.3, -0.2, 0.4]], np.float32)
HIDDEN = np.array([[-0.3, -0.2, -0.4]], np.float32)
"""All of it is masked."""


def model(body: str, kind: str = "float") -> onnx.ModelProto:
    """Elements below 0 are masked, c says which; `i` is a mask of -inf, `l` one of the lowest float32."""
    return parsed(
        f"""g ({kind}[N,3] x) => ({kind}[N,3] y) <{kind} zero = {{0.0}}, int64[1] ax = {{1}}> {{
        i = Constant<value = {kind} {{-inf}}>() l = Constant<value = {kind} {{-3.4028234e38}}>()
        c = Less(x, zero) {body} }}"""
    )


def contributions(
    network: onnx.ModelProto,
    inputs: Mapping[str, Array],
    baselines: Mapping[str, Array],
    method: str,
    target: Any = 0,
    layer: str = "x",
) -> tuple[Array, Array]:
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("masked", network)
        ask = AttributionRequest(
            "masked", inputs, method, [layer], target=Target(index=target), baselines=baselines
        )
        found = engine.attribute(ask).layers[layer]
    return found.values, found.residual


SOFTMAX = {
    "Where": "w = Where(c, i, x) y = Softmax(w)",
    "Where, finite": "w = Where(c, l, x) y = Softmax(w)",
    "Where, turned": "n = Not(c) v = Where(n, x, i) u = Neg(v) w = Neg(u) y = Softmax(w)",
    "Where, then Add": "m = Where(c, i, zero) w = Add(x, m) y = Softmax(w)",
    "Mul, then Add": "f = CastLike(c, x) m = Mul(f, l) w = Add(x, m) y = Softmax(w)",
    "Mul, then Sub": "f = CastLike(c, x) h = Neg(l) m = Mul(h, f) w = Sub(x, m) y = Softmax(w)",
    "Log, then Add": "n = Not(c) f = CastLike(n, x) m = Log(f) w = Add(x, m) y = Softmax(w)",
    "in a branch": """t = ReduceSum<keepdims = 0>(x) u = Sub(l, l) b = GreaterOrEqual(u, u)
        w = If(b) <then_branch = p () => (float[N,3] q) { q = Where(c, i, x) },
                   else_branch = r () => (float[N,3] q) { q = Identity(x) }> y = Softmax(w)""",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", SOFTMAX)
def test_a_mask_gets_what_it_takes_from_the_others(form: str, method: str) -> None:
    """Of softmax, in the limit: -(s_j - s'_j) for what is masked at one end, and the rest keeps its share."""
    found, _ = contributions(model(SOFTMAX[form]), {"x": X}, {"x": Y}, method)
    np.testing.assert_allclose(found, [[0, -0.377541, 0.524979]], atol=2e-6)
    back, _ = contributions(model(SOFTMAX[form]), {"x": Y}, {"x": X}, method)
    np.testing.assert_allclose(back, [[0, 0.377541, -0.524979]], atol=2e-6)


def test_the_masked_scores_themselves_are_a_layer() -> None:
    found, _ = contributions(model(SOFTMAX["Where"]), {"x": X}, {"x": Y}, "deeplift_rescale", layer="w")
    np.testing.assert_allclose(found, [[0, -0.377541, 0.524979]], atol=2e-6)


def test_a_mask_in_double_precision() -> None:
    x, y = ({"x": v.astype(np.float64)} for v in (X, Y))
    found, _ = contributions(model("w = Where(c, i, x) y = Softmax(w)", "double"), x, y, "deeplift_rescale")
    s, t = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.1))
    np.testing.assert_allclose(found, [[0, s - 1, 1 - t]], atol=1e-7)


RELATIVES = {
    "LogSoftmax": "w = Where(c, i, x) y = LogSoftmax(w)",
    "ReduceMax": "w = Where(c, i, x) m = ReduceMax<keepdims = 1>(w, ax) y = Sub(x, m)",
    "ReduceMin": "h = Neg(i) w = Where(c, h, x) m = ReduceMin<keepdims = 1>(w, ax) y = Sub(x, m)",
    "ReduceLogSumExp": "w = Where(c, l, x) m = ReduceLogSumExp<keepdims = 1>(w, ax) y = Sub(x, m)",
    "written out": """w = Where(c, i, x) m = ReduceMax<keepdims = 1>(w, ax) q = Sub(w, m) e = Exp(q)
        s = ReduceSum<keepdims = 1>(e, ax) y = Div(e, s)""",
    "TopK": "w = Where(c, i, x) m, p = TopK(w, ax) q = Sub(x, m) z = Sub(q, x) y = Add(z, x)",
    "LeakyRelu": "w = Where(c, i, x) v = LeakyRelu(w) y = Softmax(v)",
    "Sigmoid": "w = Where(c, i, x) y = Sigmoid(w)",
    "Max": "w = Where(c, i, x) y = Max(w, zero)",
    "Exp": "w = Where(c, l, x) y = Exp(w)",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", RELATIVES)
def test_other_functions_of_masked_scores_sum(form: str, method: str) -> None:
    for target in (0, 1) if form != "LogSoftmax" else (0,):
        found, residual = contributions(model(RELATIVES[form]), {"x": X}, {"x": Y}, method, target)
        assert np.isfinite(found).all()
        assert np.abs(residual).max() <= 1e-5 * max(float(np.abs(found).sum()), 1e-3)


def test_what_log_softmax_loses_to_a_mask() -> None:
    """By hand: with L the logarithmic mean of the only softmax left, -(s_j - s'_j) / L."""
    found, _ = contributions(model(RELATIVES["LogSoftmax"]), {"x": X}, {"x": Y}, "deeplift_rescale")
    s, t = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.1))
    mean = (s - t) / (np.log(s) - np.log(t))
    np.testing.assert_allclose(found, [[0, (s - 1) / mean, (1 - t) / mean]], rtol=1e-5)


GUARDED = "w = Where(c, i, x) s = Softmax(w) n = IsNaN(s) y = Where(n, {0}, s)"


@pytest.mark.parametrize("method", METHODS)
def test_those_that_leave_a_fully_masked_row_share_its_change(method: str) -> None:
    """No limit exists: both that are unmasked get half of 0.622459, from 0 or from a third."""
    given, hidden = {"x": X}, {"x": HIDDEN}
    half = np.array([[0.3112297, 0.3112297, 0]])
    found, _ = contributions(model(GUARDED.replace("{0}", "zero")), given, hidden, method)
    np.testing.assert_allclose(found, half, atol=1e-6)
    back, _ = contributions(model(GUARDED.replace("{0}", "zero")), hidden, given, method)
    np.testing.assert_allclose(back, -half, atol=1e-6)
    uniform, _ = contributions(model(SOFTMAX["Where, finite"]), given, hidden, method)
    np.testing.assert_allclose(uniform, half - [[1 / 6, 1 / 6, 0]], atol=1e-6)
    nothing, _ = contributions(model(GUARDED.replace("{0}", "zero")), hidden, {"x": 2 * HIDDEN}, method)
    np.testing.assert_array_equal(nothing, np.zeros((1, 3)))


def test_each_row_has_what_it_has_alone() -> None:
    rows = np.concatenate([X, HIDDEN, Y]), np.concatenate([HIDDEN, X, X])
    network = model(GUARDED.replace("{0}", "zero"))
    together, _ = contributions(network, {"x": rows[0]}, {"x": rows[1]}, "deeplift_rescale")
    for k in range(3):
        x, y = ({"x": v[k : k + 1]} for v in rows)
        alone, _ = contributions(network, x, y, "deeplift_rescale")
        np.testing.assert_allclose(together[k], alone[0], atol=1e-7)


ATTENTION = """g (float[B,3,4] x, float[4,12] w, float[12] b) => (float[B,3,4] y)
    <float limit = {{0.5}}, int64[1] ax = {{2}}> {{
    m = ReduceMax<keepdims = 0>(x, ax) c = Greater(m, limit) k = Cast<to = 6>(c)
    y = com.microsoft.Attention<num_heads = 2{0}>(x, w, b, k) }}"""


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("extra", ["", ", unidirectional = 1", ", mask_filter_value = -3.4028234e38"])
def test_attention_whose_mask_depends_on_the_source_sums(extra: str, method: str) -> None:
    rng = np.random.default_rng(0)
    network = parsed(ATTENTION.format(extra))
    held = {"w": rng.normal(size=(4, 12)).astype(np.float32), "b": rng.normal(size=12).astype(np.float32)}
    network.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in held.items())
    del network.graph.input[1:]
    x = np.array([[[1, 0.2, -0.3, 0.4], [0.1, 0.2, 0.3, 0.1], [0.7, -0.5, 0.3, 0.2]]], np.float32)
    y = np.array([[[0.1, 0.2, -0.3, 0.4], [0.9, 0.2, 0.3, 0.1], [0.7, -0.5, 0.3, 0.2]]], np.float32)
    found, residual = contributions(network, {"x": x}, {"x": y}, method, (1, 0))
    assert np.abs(found).sum() > 0
    assert np.abs(residual).max() <= 1e-5 * np.abs(found).sum()
