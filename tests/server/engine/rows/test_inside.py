"""Sums that are made inside a program, because rows are too large to leave it: the same numbers in any run."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.methods import Quadrature
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.rows import along
from onnx_attribution.server.engine.rows.evaluate import Floats
from onnx_attribution.values import AttributionRequest, Target
from tests.method_names import QUADRATURES
from tests.methods.toys import model

STEPS, LARGE = 7, 64 << 20
LOGARITHMS = "(float[N,3] x) => (float[N,1] y) { h = Log(x) y = MatMul(h, V) }"
V = np.array([[1], [-2], [0.5]], np.float32)


def asked(text: str, budget: int, quadrature: Quadrature) -> tuple[Floats, Floats]:
    """The attributions of h, and the estimates of their errors."""
    x = np.array([[1, 2, 3], [0.5, 4, 1]], np.float32)
    request = AttributionRequest(
        "net", {"x": x}, "neuron_ig", ["h"], target=Target(index=0), steps=STEPS, quadrature=quadrature
    )
    with Engine(provider="cpu", threads=1, memory_budget=budget) as engine:
        engine.add("net", model(text, V=V))
        found = engine.attribute(request).layers["h"]
    return found.values.astype(np.float64), found.error_estimate


@pytest.mark.parametrize("quadrature", [q for q in QUADRATURES if q != "auto"])
@pytest.mark.parametrize("budget", [40, 400])
def test_rows_a_run_do_not_move_the_sums(
    monkeypatch: pytest.MonkeyPatch, quadrature: Quadrature, budget: int
) -> None:
    text = "(float[N,3] x) => (float[N,1] y) { h = Exp(x) s = Mul(h, h) y = MatMul(s, V) }"
    outside, known = asked(text, LARGE, quadrature)
    monkeypatch.setattr(along, "_inside", lambda *_: True)
    inside, estimate = asked(text, budget, quadrature)
    np.testing.assert_allclose(inside, outside, rtol=1e-6)
    size = float(np.abs(outside).sum())
    np.testing.assert_allclose(estimate, known, rtol=1e-4, atol=1e-6 * size)


def test_an_infinite_end_that_no_term_reads_is_in_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logarithm is -inf at x' = 0, and the nodes of riemann_middle begin behind it: along all of them it grows by
    the logarithm of the last over the first."""
    monkeypatch.setattr(along, "_inside", lambda *_: True)
    found = asked(LOGARITHMS, LARGE, "riemann_middle")[0]
    grown = np.log((2 * STEPS + 1) / 1)
    np.testing.assert_allclose(found, np.broadcast_to(V.T * grown, (2, 3)), rtol=1e-5)
