"""LRP's rule box: bounds for each channel or element, and what becomes of them before the first weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.graph_tools.relevance.bounds import Bound
from onnx_attribution.graph_tools.relevance.lrp import Lrp, lrp
from onnx_attribution.graph_tools.relevance.weights import Chosen, Numbers
from onnx_attribution.methods import Lrp as Method
from onnx_attribution.methods import make
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto.method_messages import from_method, to_method
from onnx_attribution.server.cli.method import options_known, parsed
from tests.graph_tools.relevance.carried import assert_carried, carried
from tests.methods.toys import model

Floats = NDArray[np.float64]
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 2, 2))
X = RNG.uniform(0.1, 0.9, size=(1, 3, 5, 5))
WEIGHT = RNG.normal(size=(1, 4, 4, 4))
LOW, HIGH = np.array([-1.0, 0.0, -0.5]), np.array([1.0, 1.5, 2.0])


def table(low: Any, high: Any) -> Any:
    ends: list[Bound] = [
        float(np.ravel(end)[0]) if np.size(end) == 1 else tuple(np.ravel(end).tolist()) for end in (low, high)
    ]
    return lrp(Lrp(first=Chosen("box"), numbers=Numbers(low=ends[0], high=ends[1])))


def convolved(x: Floats, w: Floats) -> Floats:
    """By windows of 2 x 2."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(2, 3))
    return np.asarray(np.einsum("nchwij,kcij->nkhw", windows, w))


def spread(s: Floats, w: Floats) -> Floats:
    """The transposed convolution."""
    found = np.zeros((len(s), w.shape[1], s.shape[2] + 1, s.shape[3] + 1))
    for i in range(2):
        for j in range(2):
            found[:, :, i : i + s.shape[2], j : j + s.shape[3]] += np.einsum(
                "nkhw,kc->nchw", s, w[:, :, i, j]
            )
    return found


def box(x: Floats, low: Floats, high: Floats) -> Floats:
    """The definition: what begins is the output times the weight."""
    low, high = np.broadcast_to(low, x.shape), np.broadcast_to(high, x.shape)
    up, down = np.maximum(KERNEL, 0), np.minimum(KERNEL, 0)
    z = convolved(x, KERNEL) - convolved(low, up) - convolved(high, down)
    s = convolved(x, KERNEL) * WEIGHT / z
    return x * spread(s, KERNEL) - low * spread(s, up) - high * spread(s, down)


def found(body: str, low: Any, high: Any, x: Floats = X, shape: str = "[N,3,5,5]", **weights: Any) -> Floats:
    net = model(
        f"(float{shape} x) => (float[N,4,4,4] z) {{ {body} }}", k=KERNEL.astype(np.float32),
        **{name: np.asarray(w, np.float32) for name, w in weights.items()},
    )  # fmt: skip
    return carried(net, table(low, high), WEIGHT, relevance=True, x=x)["x"]


ALONG = (1, 3, 1, 1)
ELEMENTS = np.sort(RNG.uniform(-2, 2, size=(2, 3, 5, 5)), axis=0)


@pytest.mark.parametrize(
    ("low", "high", "wide"),
    [
        (-1.0, 2.0, (np.array(-1.0), np.array(2.0))),
        (LOW, HIGH, (LOW.reshape(ALONG), HIGH.reshape(ALONG))),
        (0.0, HIGH, (np.array(0.0), HIGH.reshape(ALONG))),
        (*ELEMENTS, (ELEMENTS[:1], ELEMENTS[1:])),
    ],
    ids=["one number", "channels", "both", "elements"],
)
def test_bounds_are_one_number_or_of_channels_or_of_elements(low: Any, high: Any, wide: Any) -> None:
    assert_carried(found("z = Conv(x, k)", low, high), box(X, *wide))


def test_channels_may_lie_last() -> None:
    last = np.moveaxis(X, 1, -1)
    got = found("t = Transpose <perm = [0, 3, 1, 2]> (x) z = Conv(t, k)", LOW, HIGH, last, "[N,5,5,3]")
    assert_carried(np.moveaxis(got, -1, 1), box(X, LOW.reshape(ALONG), HIGH.reshape(ALONG)))


def test_bounds_go_through_what_a_file_does_to_its_pixels() -> None:
    """The source lies within 0 and 1, and what the convolution reads within other bounds for each channel."""
    mean, std = np.array([0.5, 0.4, 0.3]).reshape(ALONG), np.array([0.2, -0.3, 0.25]).reshape(ALONG)
    body = "c = Sub(x, mean) n = Div(c, std) z = Conv(n, k)"
    got = found(body, 0.0, 1.0, mean=mean, std=std)
    read = (X - mean) / std
    ends = np.sort(
        np.stack([(0 - mean) / std, (1 - mean) / std]), axis=0
    )  # a deviation below 0 turns them around
    of_read = box(read, ends[0], ends[1])
    # Sub and Div pass it back: Div as it is, Sub by its terms, of which the constant takes its own.
    assert_carried(got, of_read / (X - mean) * X)


def test_bounds_that_fit_no_source_are_refused() -> None:
    with pytest.raises(
        InvalidArgument, match=r"have 2 numbers, and 'x' has the shape .*one for each channel"
    ):
        found("z = Conv(x, k)", LOW[:2], HIGH[:2])
    square = model("(float[N,3,3] x) => (float[N,3,2] z) { z = MatMul(x, w) }", w=np.ones((3, 2), np.float32))
    with pytest.raises(InvalidArgument, match="whichever has as many"):
        carried(square, table(LOW, HIGH), np.ones((1, 3, 2)), relevance=True, x=X[:, :, :3, 0])


def test_bounds_go_through_shapes_that_the_graph_makes() -> None:
    body = """s = Shape(x) q = Reshape(x, flat) c = Reshape(q, s) a = Add(c, c) h = Mul(a, half)
        z = Conv(h, k)"""
    net = model(
        f"(float[N,3,5,5] x) => (float[N,4,4,4] z) {{ {body} }}", k=KERNEL.astype(np.float32),
        flat=np.array([-1, 75]), half=np.array(0.5, np.float32),
    )  # fmt: skip
    got = carried(net, table(LOW, HIGH), WEIGHT, relevance=True, x=X)["x"]
    assert_carried(got, box(X, LOW.reshape(ALONG), HIGH.reshape(ALONG)))


def test_what_is_not_monotone_has_no_bounds() -> None:
    with pytest.raises(NotDifferentiable, match=r"no bounds behind Sin \(node .*a source behind it"):
        found("s = Sin(x) z = Conv(s, k)", 0.0, 1.0)


def test_a_box_that_is_named_further_up_is_of_what_is_read_there() -> None:
    net = model(
        "(float[N,3] x) => (float[N,2] z) { h = MatMul(x, w) z = MatMul(h, v) }",
        w=np.eye(3, dtype=np.float32), v=np.array([[1, -1], [2, 1], [-1, 3]], np.float32),
    )  # fmt: skip
    x, ends = np.array([[0.5, 0.2, -0.1]]), (-LOW - 2, HIGH)
    numbers = Numbers(low=tuple(ends[0].tolist()), high=tuple(ends[1].tolist()))
    got = carried(
        net, lrp(Lrp(named=(("z", Chosen("box")),), numbers=numbers)), np.ones((1, 2)), relevance=True, x=x
    )
    v = np.array([[1.0, -1], [2, 1], [-1, 3]])
    part = x[0][:, None] * v - ends[0][:, None] * np.maximum(v, 0) - ends[1][:, None] * np.minimum(v, 0)
    assert_carried(got["x"], (part / part.sum(axis=0) * (x @ v)).sum(axis=1)[None])


def test_bounds_are_read_and_travel() -> None:
    message = pb.AttributeRequest()
    for low, high in ((-1.0, 2.0), (tuple(LOW), tuple(HIGH)), (0.0, tuple(HIGH))):
        given = Method(first="box", low=low, high=high)
        to_method(given, message)
        assert from_method(pb.AttributeRequest.FromString(message.SerializeToString())) == given
    assert Method(first="box", low=LOW.reshape(3, 1, 1), high=2.0).low == tuple(LOW)
    wrong: list[Any] = [(LOW, HIGH[:2]), (LOW, LOW), (HIGH, LOW), (float("nan"), 1.0), ("0", 1.0), ([], 1.0)]
    for ends in wrong:
        with pytest.raises(InvalidArgument, match="low"):
            make("lrp", {"first": "box", "low": ends[0], "high": ends[1]})


def test_bounds_on_the_command_line_are_numbers_or_a_file(tmp_path: Any) -> None:
    known = options_known()
    np.save(tmp_path / "high.npy", HIGH)
    given = [(known["--low"], "-1,0,-1/2"), (known["--high"], str(tmp_path / "high.npy"))]
    found = make("lrp", {"first": "box", **parsed("lrp", given, [], [])})
    assert (found.low, found.high) == (tuple(LOW), tuple(HIGH))  # type: ignore[attr-defined]
