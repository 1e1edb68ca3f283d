"""Layers whose rows do not fit into the memory: programs add up the segments of a path, to the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.values import Array, Attribution, AttributionRequest, Completed, Revision
from tests.methods.toys import model

WIDE = 128
RELU = """(float[N,4] x) => (float[N,1] y) {
    a = MatMul(x, A)
    h = Relu(a)
    b = MatMul(h, B)
    t = Tanh(b)
    y = MatMul(t, C)
}"""
STEEP = RELU.replace("y = MatMul(t, C)", "s = MatMul(t, C) u = Mul(s, steep) y = Tanh(u)")
BRANCHES = """(float[N,4] x) => (float[N,1] y) {
    a = MatMul(x, A)
    left = Relu(a)
    right = Tanh(a)
    s = Sub(left, right)
    b = MatMul(s, B)
    t = Tanh(b)
    y = MatMul(t, C)
}"""
KEPT = 1 << 30
ROW = 4 * WIDE
"""The bytes of the gradients, or of the activations, of a wide layer in one row."""


def asked(
    text: str, layers: list[str], budget: int, samples: int = 1, method: str = "neuron_ig", **given: Any
) -> tuple[Attribution, list[Attribution], str]:
    """The best answer, all revisions, and why it ended."""
    rng = np.random.default_rng(0)
    weights = {
        "A": rng.normal(size=(4, WIDE)), "B": rng.normal(size=(WIDE, 8)) / 4, "C": rng.normal(size=(8, 1)),
        "steep": np.array(2.0),
    }  # fmt: skip
    x = rng.normal(size=(samples, 4)).astype(np.float32)
    low = rng.normal(size=(samples, 4)).astype(np.float32)
    with Engine(provider="cpu", threads=1, memory_budget=budget) as engine:
        used = {name: array.astype(np.float32) for name, array in weights.items() if f" {name})" in text}
        engine.add("net", model(text, **used))
        request = AttributionRequest("net", {"x": x}, method, layers, baselines={"x": low}, target=0, **given)
        events = list(engine.stream(request))
    revisions = [event.attribution for event in events if isinstance(event, Revision)]
    (end,) = [event for event in events if isinstance(event, Completed)]
    return (
        revisions[end.best_revision if len(revisions) > end.best_revision else -1],
        revisions,
        end.stop_reason,
    )


@pytest.mark.parametrize(
    ("text", "layers", "method", "samples"),
    [
        (RELU, ["a", "h"], "neuron_ig", 1),
        (RELU, ["h"], "neuron_ig", 3),
        (STEEP, ["h"], "neuron_ig", 1),
        (BRANCHES, ["left", "right"], "neuron_ig", 1),
        (RELU, ["h"], "internal_influence", 1),
    ],
    ids=["two layers", "three samples", "steep", "a joint cut", "means"],
)
def test_numbers_are_those_of_rows_that_are_kept(
    text: str, layers: list[str], method: str, samples: int
) -> None:
    whole, _, _ = asked(text, layers, KEPT, samples, method, tolerance=1e-3)
    answer, revisions, reason = asked(text, layers, 24 * ROW * len(layers), samples, method)
    assert reason == "converged"
    assert (len(revisions) > 1) == (samples == 1)
    for name, layer in answer.layers.items():
        found, wanted = (one.layers[name].values.astype(np.float64) for one in (answer, whole))
        error = np.abs(found - wanted).reshape(samples, -1).sum(axis=1)
        size = np.abs(wanted).reshape(samples, -1).sum(axis=1)
        assert (error <= layer.error_estimate + 1e-3 * size).all()
        assert (layer.error_estimate <= 0.0101 * size).all()


def test_what_saturates_near_the_baseline_is_found_where_equal_steps_miss_it() -> None:
    """The target goes from 1/3 to 1 within the first thousandth of the path, and no layer bypasses another."""
    text = "(float[N,3] x) => (float[N,3] y) { z = Mul(x, steep) y = Softmax(z) }"
    missed: dict[str, float] = {}
    ways: dict[str, dict[str, Any]] = {"auto": {}, "trapezoid": {"quadrature": "trapezoid", "steps": 128}}
    for kind, given in ways.items():
        with Engine(provider="cpu", threads=1, memory_budget=20 * 24) as engine:
            engine.add("net", model(text, steep=np.float32(3e3)))
            request = AttributionRequest(
                "net", {"x": np.array([[1, -1, 0]], np.float32)}, "neuron_ig", ["z"], target=0, **given
            )
            answer = engine.attribute(request)
        missed[kind] = abs(float(answer.layers["z"].residual[0]))
        if kind == "auto":
            assert answer.evaluations <= 400
            assert answer.layers["z"].error_estimate[0] <= 0.0101 * np.abs(answer.layers["z"].values).sum()
    assert missed["auto"] <= 0.01 * 2 / 3
    assert missed["trapezoid"] > 1


def test_no_rows_leave_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Array]] = []
    run = Session.run

    def noted(self: Session, *given: Any) -> dict[str, Array]:
        found = run(self, *given)
        seen.append(found)
        return found

    monkeypatch.setattr(Session, "run", noted)
    asked(RELU, ["h"], 24 * ROW)
    of_segments = [found for found in seen if "sum/h" in found]
    assert len(of_segments) > 3
    assert all(found[f"{kind}/h"].size == WIDE for found in of_segments for kind in ("sum", "square"))


def test_the_best_is_answered_where_steps_run_out() -> None:
    answer, _, reason = asked(STEEP, ["h"], 24 * ROW, max_steps=12, tolerance=1e-4)
    assert reason == "max_steps"
    assert answer.steps <= 12
    assert (answer.layers["h"].error_estimate >= np.abs(answer.layers["h"].residual)).all()
