"""What answers say of themselves in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Method
from tests.methods.toys import model

SKIP = """(double[N,1] x) => (double[N,1] y) {
    half = Mul(x, quarter)
    again = Tanh(half)
    both = Add(again, x)
    y = Mul(both, two)
}"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("skip", model(SKIP, quarter=np.array(0.25), two=np.array(2.0)))
        yield made


@pytest.mark.parametrize("method", ["deeplift_rescale", "neuron_ig"])
def test_a_layer_that_a_skip_connection_bypasses_says_by_how_much(engine: Engine, method: Method) -> None:
    """The change is 2 (tanh(x / 4) + x), of which 2 x bypasses the layer."""
    x = np.array([[1.0], [8.0]])
    answer = engine.attribute(AttributionRequest("skip", {"x": x}, method, ("half", "both")))
    shares = [round(100 * v / (v + np.tanh(v / 4))) for v in (1.0, 8.0)]
    (note,) = answer.warnings
    assert note == (
        f"layer 'half' is no cut: {shares[0]} % to {shares[1]} % of the change bypasses it; the next cut is 'both'"
    )


def test_a_gradient_has_no_share(engine: Engine) -> None:
    asked = AttributionRequest("skip", {"x": np.array([[1.0]])}, "gradient", ("half",))
    assert engine.attribute(asked).warnings == ()
