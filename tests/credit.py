"""What each input is due, by evaluating a function where some of its inputs have moved and others have not.

It shares no code with the rules: the function is a model that the ONNX reference evaluator or onnxruntime runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Function = Callable[[Mapping[str, Array]], Array]


def shares_by_evaluation(
    function: Function, x: Mapping[str, Array], y: Mapping[str, Array], weight: Array
) -> dict[str, Array]:
    """The Shapley value of every element of every input, for <weight, function> between y and x.

    An element moves alone, after each set of other inputs in its order's share. That is the Shapley value where an
    element of the output depends on one element of each input, and where the function is linear in each input.
    """
    found = {}
    for name in x:
        shares = np.zeros(np.shape(x[name]))
        for at, share in _before(name, x, y):
            start = float(np.sum(weight * function(at)))
            for place in np.ndindex(shares.shape):
                moved = np.array(at[name])
                moved[place] = x[name][place]
                if moved[place] != at[name][place]:
                    shares[place] += share * (float(np.sum(weight * function({**at, name: moved}))) - start)
        found[name] = shares
    return found


def totals_by_evaluation(
    function: Function, x: Mapping[str, Array], y: Mapping[str, Array], weight: Array
) -> dict[str, float]:
    """The Shapley value of every input as a whole."""
    return {
        name: sum(
            share * float(np.sum(weight * (function({**at, name: x[name]}) - function(at))))
            for at, share in _before(name, x, y)
        )
        for name in x
    }


def assert_credit(found: Mapping[str, Array], expected: Mapping[str, Any], tolerance: float = 1e-8) -> None:
    """Fails unless each input has what is expected of it, or of its sum where a number is expected."""
    assert found.keys() == expected.keys()
    size = max(float(np.max(np.abs(e), initial=0)) for e in expected.values())
    assert size > 0
    for name, due in expected.items():
        given = np.asarray(found[name], np.float64)
        whole = np.sum(given) if isinstance(due, float) else given
        assert np.shape(whole) == np.shape(due)
        apart = float(np.max(np.abs(whole - due)))
        assert apart <= tolerance * size, f"{name}: {apart / size:.1e} apart"  # NaN fails


def _before(
    name: str, x: Mapping[str, Array], y: Mapping[str, Array]
) -> Iterator[tuple[dict[str, Array], float]]:
    """The points where some other inputs have moved, each with the share of the orders that pass it."""
    others: Sequence[str] = [n for n in x if n != name]
    for size in range(len(others) + 1):
        for moved in itertools.combinations(others, size):
            at = {n: x[n] if n in moved else y[n] for n in x}
            yield at, 1 / (math.comb(len(others), size) * (len(others) + 1))
