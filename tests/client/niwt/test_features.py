"""M(x) is the derivative of the features by the layer, summed over positions; it is found out where it is the same for
all images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_attribution.client.niwt.features import Features, dependence, kind_of, spread
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from tests.programs import parsed

Array = NDArray[Any]
RNG = np.random.default_rng(5)
K, A, B, W = (RNG.normal(size=size) for size in ((5, 2, 3, 3), (4, 5), (5, 3), (3, 7)))
IMAGE = """net (float[N,2,4,3] x) => (float[N,7] y) {
    c = Conv <pads=[1,1,1,1]> (x, K)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    y = Gemm (f, H)
}"""
POSITIONS = """net (float[N,2,4,3] x) => (float[N,7] y) {
    c = Conv <pads=[1,1,1,1]> (x, K)
    r = Tanh (c)
    h = Conv (r, L)
    p = GlobalAveragePool (h)
    y = Flatten (p)
}"""
DENSE = """net (double[N,4] x) => (double[N,7] y) {
    a = MatMul (x, A)
    t = Tanh (a)
    b = MatMul (t, B)
    f = Tanh (b)
    y = MatMul (f, W)
}"""
AROUND = """net (double[N,4] x) => (double[N,7] y) {
    a = MatMul (x, A)
    t = Tanh (a)
    s = Sigmoid (a)
    u = Add (t, s)
    y = MatMul (u, H)
}"""


def file(text: str) -> bytes:
    model: onnx.ModelProto = parsed(text)
    known = {"K": K, "A": A, "B": B, "W": W, "H": RNG.normal(size=(5, 7)), "L": RNG.normal(size=(7, 5, 1, 1))}
    read = {x for node in model.graph.node for x in node.input}
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    model.graph.initializer.extend(
        numpy_helper.from_array(known[name].astype(kind), name) for name in known if name in read
    )
    return model.SerializeToString()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu") as engine:
        for name, text in {"image": IMAGE, "positions": POSITIONS, "dense": DENSE, "around": AROUND}.items():
            engine.add(name, file(text))
        yield engine


def images(count: int, *unit: int) -> list[dict[str, Array]]:
    kind = np.float32 if len(unit) > 1 else np.float64
    return [{"x": RNG.normal(size=(1, *unit)).astype(kind)} for _ in range(count)]


def test_behind_the_last_positions_of_a_mean_it_is_the_identity(engine: Engine) -> None:
    features = Features("f", 5, 1, 2)
    found = dependence(engine.attribute, "image", images(20, 2, 4, 3), "r", features)
    assert (found.kind, found.M.shape) == ("identity", (1, 5, 5))
    np.testing.assert_allclose(found.M[0], np.eye(5), atol=1e-6)


def test_before_a_rectifier_it_is_the_share_of_positions_that_pass(engine: Engine) -> None:
    given = images(12, 2, 4, 3)
    found = dependence(engine.attribute, "image", given, "c", Features("f", 5, 1, 2))
    assert (found.kind, found.M.shape) == ("varying", (12, 5, 5))
    assert sorted(found.images) == list(range(12))
    for M, k in zip(found.M, found.images, strict=True):
        c = engine.predict("image", given[k], ["c"])["c"][0]
        np.testing.assert_allclose(M, np.diag((c > 0).mean(axis=(1, 2))), atol=1e-6)


def test_of_a_head_before_the_mean_it_is_that_of_the_mean_features(engine: Engine) -> None:
    given = images(3, 2, 4, 3)
    features = Features("r", 5, 1, 4, positions=12)
    found = dependence(engine.attribute, "positions", given, "c", features)
    for M, k in zip(found.M, found.images, strict=True):
        c = engine.predict("positions", given[k], ["c"])["c"][0]
        np.testing.assert_allclose(M, np.diag((1 - np.tanh(c) ** 2).mean(axis=(1, 2))), atol=1e-6)
    assert dependence(engine.attribute, "positions", given, "r", features).kind == "identity"


def test_of_dense_layers_it_is_the_product_of_weights_and_slopes(engine: Engine) -> None:
    given = images(4, 4)
    found = dependence(engine.attribute, "dense", given, "t", Features("f", 3, 1, 2))
    for M, k in zip(found.M, found.images, strict=True):
        f = np.tanh(np.tanh(given[k]["x"] @ A) @ B)[0]
        np.testing.assert_allclose(M, B * (1 - f**2), atol=1e-12)
    assert dependence(engine.attribute, "dense", given, "b", Features("b", 3, 1, 2)).kind == "identity"
    constant = dependence(engine.attribute, "dense", given, "t", Features("b", 3, 1, 2))
    assert constant.kind == "constant"
    np.testing.assert_allclose(constant.M[0], B, atol=1e-12)


def test_a_layer_with_a_way_around_is_refused(engine: Engine) -> None:
    with pytest.raises(
        InvalidArgument, match="'t' is no cut before the head: some way leads to 'u' around it"
    ):
        dependence(engine.attribute, "around", images(2, 4), "t", Features("u", 5, 1, 2))


def test_the_budget_bounds_how_many_images_are_held(engine: Engine) -> None:
    found = dependence(
        engine.attribute, "dense", images(30, 4), "t", Features("f", 3, 1, 2), budget=9 * 5 * 3 * 8
    )
    assert len(found.M) == len(found.images) == 9
    assert "9 of 30 images" in found.warnings[0]
    few = dependence(engine.attribute, "dense", images(30, 4), "t", Features("f", 3, 1, 2), most=11)
    assert (len(few.M), few.warnings) == (11, ())
    with pytest.raises(InvalidArgument, match="there are no images"):
        dependence(engine.attribute, "dense", [], "t", Features("f", 3, 1, 2))


def test_images_are_taken_from_all_over_the_data() -> None:
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert sorted(spread(11)) == list(range(11))
    assert spread(1) == [0]


def test_an_M_is_called_by_what_it_is() -> None:
    assert kind_of(2 * np.eye(3)) == "identity"
    assert kind_of(np.diag([1.0, 2, 3])) == "diagonal"
    assert kind_of(np.ones((3, 3))) == "constant"
    assert kind_of(np.eye(3)[:2]) == "constant"
