"""DeepLIFT of selections among a few moving inputs: the mean over all orders in which they may move, by brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from tests.programs import parsed

Array = NDArray[Any]


def largest(*x: Array) -> Array:
    return np.asarray(np.max(np.broadcast_arrays(*x), axis=0))


def smallest(*x: Array) -> Array:
    return np.asarray(np.min(np.broadcast_arrays(*x), axis=0))


def clipped(x: Array, low: Array, high: Array) -> Array:
    return np.asarray(np.minimum(np.maximum(x, low), high))


def by_orders(function: Callable[..., Array], x: Sequence[Array], y: Sequence[Array]) -> list[Array]:
    """What each input changes the result by, where inputs move from y to x one after the other."""
    found = [np.zeros(np.broadcast_shapes(*(v.shape for v in x))) for _ in x]
    for order in itertools.permutations(range(len(x))):
        at = list(y)
        for k in order:
            before = function(*at)
            at[k] = x[k]
            found[k] += (function(*at) - before) / math.factorial(len(x))
    return found


FORMS: dict[str, tuple[Callable[..., Array], int]] = {
    "Max": (largest, 3),
    "Min": (smallest, 3),
    "Max of four": (largest, 4),
    "Clip": (clipped, 3),
}


@pytest.mark.parametrize("shape", [(), (1,), (4, 3)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_a_few_inputs_share_as_all_orders_say(form: str, shape: tuple[int, ...]) -> None:
    function, count = FORMS[form]
    operator, rng = form.split()[0], np.random.default_rng(count + len(shape))
    shapes = [() if operator == "Clip" and k else shape for k in range(count)]
    x, y = ([np.asarray(rng.normal(size=s)) for s in shapes] for _ in range(2))
    if operator == "Clip":
        for ends in (x, y):
            ends[1:] = [np.asarray(-0.5 + 0.2 * ends[1]), np.asarray(0.5 + 0.2 * ends[2])]
    names = tuple(f"x{k}" for k in range(count))
    kinds = ["double" + (f"[{','.join(map(str, s))}]" if s else "") for s in shapes]
    given = ", ".join(f"{kind} {name}" for kind, name in zip(kinds, names, strict=True))
    model = onnx.shape_inference.infer_shapes(
        parsed(f"g ({given}) => ({kinds[0]} z) {{ z = {operator}({', '.join(names)}) }}")
    )
    program = deeplift_program(Network(model, "single", dict.fromkeys(names), {}), Choice(names, names, "z"))
    weight = np.asarray(rng.normal(size=shape))
    feeds = {**dict(zip(names, x, strict=True)), "target/weight": weight}
    feeds |= {f"baseline/{n}": v for n, v in zip(names, y, strict=True)}
    found = Backend("cpu", 1).session(program.model).run(feeds)
    for name, expected, like in zip(names, by_orders(function, x, y), x, strict=True):
        whole = expected * weight
        summed: Array = whole if like.shape == shape else np.asarray(whole.sum())
        given_there: Array = found[f"contribution/{name}"]
        np.testing.assert_allclose(given_there, summed, rtol=1e-9, atol=1e-12)
