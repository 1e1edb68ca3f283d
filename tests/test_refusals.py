"""Every reason for which no derivative is given, made to happen: by the engine, in the walk back, or by `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import InvalidArgument, NotDifferentiable, Reason
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.check import check_file
from onnx_attribution.values import AttributionRequest, Target
from tests.checks import gradient_model
from tests.programs import parsed

X = {"x": np.array([[3.0, 1, -2]], np.float32)}
PICTURE = {"p": np.ones((1, 1, 4, 4), np.float32)}
BOXES = "float[1, 4] boxes = {0, 0, 2, 2}, int64[1] which = {0}"
TEXT = "net (float[N, 3] x) => (float[N, 3] z) "

ASKED: dict[Reason, tuple[str, dict[str, Any], dict[str, Any]]] = {
    Reason.NO_PATH: (
        "net (float[N, 3] x) => (float[N, 3] z, float[N, 3] w) { z = Sin(x) w = Cos(x) }", X,
        {"layers": ("w",), "target": "z"},
    ),
    Reason.ZERO_DERIVATIVE: (TEXT + "{ z = Round(x) }", X, {}),
    Reason.NOT_FLOAT: (
        "net (int64[N] ids) => (float[N, 2] z) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { z = Gather(w, ids) }",
        {"ids": np.array([1])}, {"source": ("ids",)},
    ),
    Reason.NO_RULE: (
        TEXT + "{ z = com.microsoft.SampleOp(x) }", X, {},
    ),
    Reason.NO_SECANT: (
        TEXT + "{ best = ArgMax<axis = 1>(x) s = Sin(x) z = GatherElements<axis = 1>(s, best) }",
        X, {"method": "deeplift_rescale", "baselines": {"x": np.array([[0.0, 0.5, -1]], np.float32)}, "index": 0},
    ),
    Reason.INPUT_WITHOUT_RULE: (
        "net (float[1, 1, 4, 4] p, float[1, 4] r) => (float[1, 1, 1, 1] z) <int64[1] which = {0}> "
        "{ z = RoiAlign(p, r, which) }", PICTURE | {"r": np.array([[0, 0, 2, 2]], np.float32)}, {"source": ("r",)},
    ),
    Reason.FORM_WITHOUT_RULE: (
        f"net (float[1, 1, 4, 4] p) => (float[1, 1, 1, 1] z) <{BOXES}> "
        "{ z = RoiAlign<mode = \"max\">(p, boxes, which) }", PICTURE, {},
    ),
    Reason.UNKNOWN_RANK: (
        "net (float[N, 1, 4, 4] p, float[m, c, k, l] w) => (float[N, m, h, i] z) "
        "{ z = com.microsoft.FusedConv<activation = \"Relu\">(p, w) }",
        PICTURE | {"w": np.ones((1, 1, 4, 4), np.float32)}, {"source": ("p",), "index": 0},
    ),
    Reason.RANDOM: (
        TEXT + "<float rate = {0.5}, bool train = {1}> { z = Dropout(x, rate, train) }", X, {"index": 0},
    ),
}  # fmt: skip
WALKED: dict[Reason, tuple[str, int]] = {
    Reason.OLD_OPSET: ("net (float[5, 4] x) => (float[2, 4] z) <int64[2] at = {3, 0}> { z = Gather(x, at) }", 13),
    Reason.SEQUENCE: (
        """net (int64 m, float[2] x) => (float[2] z) {
        s0 = SequenceConstruct(x)
        s1, z = Loop (m, , s0, x) <
          body = b (int64 i, bool c, seq(float[2]) s, float[2] h) => (bool d, seq(float[2]) t, float[2] k) {
            d = Identity(c) k = Mul(h, h) t = SequenceInsert(s, h) }> }""", 21,
    ),
}  # fmt: skip
CHECKED: dict[Reason, str] = {
    Reason.NOT_RUNNABLE: (
        "net (seq(float[2]) s) => (float[2] z) <int64 first = {0}> { z = SequenceAt(s, first) }"
    ),
    Reason.NOT_FINITE: "net (float[1, 3] x) => (float[1, 3] z) { a = Abs(x) b = Neg(a) z = Sqrt(b) }",
    # the steps of a staircase, which have no slope, are finer than any difference
    Reason.NOT_CONFIRMED: (
        "net (float[1, 3] x) => (float[1, 3] z) <float fine = {1e7}> { a = Mul(x, fine) b = Floor(a) z = Mul(b, x) }"
    ),
    Reason.ZERO_DERIVATIVE: "net (float[1, 3] x) => (int64[1, 1] z) { z = ArgMax<axis = 1>(x) }",
    Reason.NO_RULE: "net (float[1, 3] x) => (float[1, 3] z) { z = com.microsoft.SampleOp(x) }",
}


def test_every_reason_without_a_derivative_happens_here() -> None:
    refusals = {one for one in Reason if {"NotDifferentiable", "check"} & {*one.errors}}
    assert {*ASKED, *WALKED, *CHECKED} == refusals


@pytest.mark.parametrize("reason", ASKED)
def test_the_engine_refuses_for_this_reason(reason: Reason) -> None:
    text, inputs, asked = ASKED[reason]
    rest = dict(asked)
    target = Target(rest.pop("target", None), rest.pop("index", None))
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", parsed(text))
        with pytest.raises(NotDifferentiable) as caught:
            engine.attribute(
                AttributionRequest("net", inputs, target=target, **{"method": "gradient", **rest})
            )
    assert caught.value.reason is reason


@pytest.mark.parametrize("role", ["layer", "source"])
def test_a_constant_is_no_derivative_that_is_zero_but_a_wrong_name(role: str) -> None:
    text = "net (float[N, 3] x) => (float[N, 3] z) <float[3] w = {1, 2, 3}> { z = Mul(x, w) }"
    named: dict[str, Any] = {"layers": ("w",)} if role == "layer" else {"source": ("w",)}
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", parsed(text))
        with pytest.raises(InvalidArgument, match=f"{role} 'w' is a constant") as caught:
            engine.attribute(AttributionRequest("net", X, "gradient", **named, target=Target(index=0)))
    assert caught.value.reason == f"{role.upper()}_INVALID"


@pytest.mark.parametrize("reason", WALKED)
def test_the_walk_back_refuses_for_this_reason(reason: Reason) -> None:
    text, opset = WALKED[reason]
    with pytest.raises(NotDifferentiable) as caught:
        gradient_model(parsed(text, opset), ["x"])
    assert caught.value.reason is reason


@pytest.mark.parametrize("reason", CHECKED)
def test_check_refuses_for_this_reason(reason: Reason, tmp_path: Path) -> None:
    onnx.save(parsed(CHECKED[reason]), tmp_path / "m.onnx")
    verdict = check_file(tmp_path / "m.onnx", Backend("cpu", 1))
    assert not verdict.attributable
    assert {one["word"] for one in verdict.refused} == {reason}
    assert all(one["reason"] for one in verdict.refused)
