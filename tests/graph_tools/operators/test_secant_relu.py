"""Of a Relu between x and x': what lies above 0 of the way, in every form that the program has of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.methods.toys import values
from tests.programs import parsed

Array = NDArray[Any]
ENDS = [0.0, 1e-30, 3e-7, 1.0, 1.0000001, 7.0, 2e12, -1e-30, -3e-7, -1.0, -1.0000001, -7.0, -2e12]
SHAPES = {"images of whole blocks": (16, 13, 1), "images": (3, 13, 1), "vectors": (13,)}


def network(shape: tuple[int, ...], kind: str) -> Any:
    of = ",".join(map(str, shape))
    return parsed(
        f"""g ({kind}[N,{of}] x) => ({kind}[N,1] y) <int64[2] rows = {{0, -1}}, int64[1] last = {{1}}> {{
        a = Identity(x) r = Relu(a) f = Reshape(r, rows) y = ReduceSum<keepdims = 1>(f, last) }}"""
    )


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        for name, shape in SHAPES.items():
            for kind in ("float", "double"):
                made.add(f"{name}, {kind}", network(shape, kind))
        yield made


def expected(x: Array, y: Array) -> Array:
    """In float64; where x and x' are equal the gradient, 0 at 0."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    mixed = (x > 0) != (y > 0)
    part = np.maximum(x, 0) + np.maximum(y, 0)
    whole = np.where(mixed, np.abs(x) + np.abs(y), 1)
    return np.where(mixed, part / whole, (x > 0) & (y > 0))


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_multiplier_is_what_lies_above_0_of_the_way(engine: Engine, name: str, kind: str) -> None:
    """With a new reference, with one that is kept for a single sample, and with one for two samples."""
    shape = SHAPES[name]
    numbers = np.asarray(ENDS, np.float32 if kind == "float" else np.float64)
    reference = np.broadcast_to(numbers.reshape(-1, *[1] * (len(shape) > 1)), shape)
    for shift in range(len(ENDS)):
        x = np.broadcast_to(np.roll(numbers, shift).reshape(-1, *[1] * (len(shape) > 1)), (2, *shape))
        for samples in (x[:1], x[:1], x):
            asked = AttributionRequest(
                f"{name}, {kind}", {"x": samples}, "deeplift_rescale", ["x"], target=Target(index=0),
                baselines={"x": reference}, multiply_by_inputs=False,
            )  # fmt: skip
            found = values(engine.attribute(asked), "x")
            np.testing.assert_allclose(found, expected(samples, reference[None]), rtol=1e-6, atol=1e-37)
