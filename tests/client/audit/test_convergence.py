"""Relevance that is carried back through weights of one sign becomes the same, as the products in numpy do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_attribution.client.audit.metrics.convergence import convergence
from onnx_attribution.client.audit.subject import Subject
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Lrp
from onnx_attribution.server.engine import Engine

WIDTH, DEPTH = 24, 4
X = np.random.default_rng(3).uniform(0.5, 1, (3, WIDTH)).astype(np.float32)
Floats = NDArray[np.float64]


def weights(*, positive: bool) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    drawn = [rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32) for _ in range(DEPTH)]
    return [np.abs(one) if positive else one for one in drawn]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(threads=1) as engine:
        for name, positive in (("positive", True), ("signed", False)):
            nodes = [f"m{k} = MatMul (r{k}, w{k}) r{k + 1} = Relu (m{k})" for k in range(DEPTH)]
            model = onnx.parser.parse_model(
                f"""<ir_version: 9, opset_import: ["" : 20]>
                net (float[N, {WIDTH}] r0) => (float[N, {WIDTH}] r{DEPTH}) {{ {" ".join(nodes)} }}"""
            )
            model.graph.initializer.extend(
                numpy_helper.from_array(one, f"w{k}") for k, one in enumerate(weights(positive=positive))
            )
            engine.add(name, model)
        yield engine


def cosines(pairs: Floats, *, positive: bool) -> Floats:
    """`[layers, samples]` from the input up: |cos| of the two vectors of each pair, carried back by the gradient."""
    held, x = weights(positive=positive), X.astype(np.float64)
    gates = []
    for w in held:
        x = np.maximum(x @ w, 0)
        gates.append(x > 0)
    found = []
    for left, right in pairs:
        r, s = (np.tile(one, (len(X), 1)) for one in (left, right))
        layers = []
        for w, gate in zip(held[::-1], gates[::-1], strict=True):
            r, s = (r * gate) @ w.T, (s * gate) @ w.T
            layers.append(np.abs((r * s).sum(1) / np.linalg.norm(r, axis=1) / np.linalg.norm(s, axis=1)))
        found.append(layers[::-1])
    return np.asarray(np.mean(found, axis=0))


@pytest.mark.parametrize("name", ["positive", "signed"])
def test_the_cosines_are_those_of_numpy(engine: Engine, name: str) -> None:
    layers = tuple(f"r{k}" for k in range(DEPTH))
    found = convergence(Subject(engine, name), "gradient", {"r0": X}, layers=layers, pairs=3, seed=5)
    pairs = np.random.default_rng(5).normal(size=(3, 2, WIDTH))
    wanted = cosines(pairs, positive=name == "positive")
    np.testing.assert_allclose(np.stack([found[one] for one in layers]), wanted, rtol=1e-4, atol=1e-5)


def test_weights_of_one_sign_converge_and_signed_ones_do_not(engine: Engine) -> None:
    both = {
        name: convergence(Subject(engine, name), "gradient", {"r0": X}, layers=("r0", "r3"), pairs=8)
        for name in ("positive", "signed")
    }
    assert (both["positive"]["r0"] > 0.999).all()
    assert both["signed"]["r0"].mean() < 0.5
    assert (both["positive"]["r0"] > both["positive"]["r3"]).all()


def test_the_z_plus_rule_converges_whatever_the_signs_of_the_weights(engine: Engine) -> None:
    subject = Subject(engine, "signed")
    found = convergence(subject, Lrp(rule="zplus"), {"r0": X}, layers=("r0", "r2"), pairs=8)
    plain = convergence(subject, "gradient", {"r0": X}, layers=("r0", "r2"), pairs=8)
    assert (found["r0"] > 0.85).all()  # of the 4 layers the relevance begins with both signs
    assert (found["r0"] > found["r2"]).all()
    assert (found["r0"] > plain["r0"]).all()


def test_one_number_and_no_pair_are_refused(engine: Engine) -> None:
    subject = Subject(engine, "signed")
    with pytest.raises(InvalidArgument, match="pairs"):
        convergence(subject, "gradient", {"r0": X}, pairs=0)
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        net (float[N, 4] x) => (float[N, 1] y) { y = ReduceSum <keepdims = 1> (x, axes) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    engine.add("one", model)
    with pytest.raises(InvalidArgument, match="one number"):
        convergence(Subject(engine, "one"), "gradient", {"x": X[:, :4]})
