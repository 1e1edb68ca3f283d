"""What each operator's secant credits to each element, by definitions written in numpy.

Where several inputs move: their Shapley values, by evaluating the operator where some have moved. That holds for
elementwise operators and for those that are linear in each input. Longer products halve one factor after the other;
functions of many elements have definitions of their own, `OWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conformance.float64 import run_double
from tests.credit import assert_credit, shares_by_evaluation, totals_by_evaluation
from tests.graph_tools.operators.test_secants import (
    NORM,
    ROWS,
    Row,
    S,
    lifted,
    node_of,
    points,
    run_single,
)

Array = NDArray[Any]
Ends = Mapping[str, Array]
Definition = Callable[[Row, Ends, Ends, Array], dict[str, Any]]


def evaluation(row: Row) -> Callable[[Ends], Array]:
    model, _, _ = node_of(row)
    run = run_single if row.single else run_double
    return lambda at: np.asarray(run(model, dict(at))["z"], np.float64)


def mean(x: Array, y: Array) -> Array:
    return np.asarray((x + y) / 2)


# --- several inputs


def shapley(row: Row, x: Ends, y: Ends, weight: Array) -> dict[str, Any]:
    return dict(shares_by_evaluation(evaluation(row), x, y, weight))


def shapley_of_whole_inputs(row: Row, x: Ends, y: Ends, weight: Array) -> dict[str, Any]:
    """For a normalisation whose scale and bias move: linear in these two, so that they have values by element."""
    by_element = shares_by_evaluation(evaluation(row), x, y, weight)
    return {**by_element, "x0": totals_by_evaluation(evaluation(row), x, y, weight)["x0"]}


def pairs_from_the_left(row: Row, x: Ends, y: Ends, weight: Array) -> dict[str, Any]:
    """An Einsum of three and more: the product so far times the next factor, each at the mean of the other."""
    inputs, result = row.attributes["equation"].replace("...", "A").split("->")
    terms, found = inputs.split(","), {}
    for k, name in enumerate(x):
        before = "".join(dict.fromkeys("".join(terms[:k])))
        factors = [x[name] - y[name], weight, *(mean(x[n], y[n]) for n in list(x)[k + 1 :])]
        labels = [terms[k], result, *terms[k + 1 :]]
        if k:
            equation = f"{','.join(terms[:k])}->{before}"
            factors.append(mean(*(np.einsum(equation, *list(e.values())[:k]) for e in (x, y))))
            labels.append(before)
        found[name] = np.einsum(f"{','.join(labels)}->{terms[k]}", *factors)
    return found


def batch_norm(row: Row, x: Ends, y: Ends, weight: Array) -> dict[str, Any]:
    """(x - mean) times (scale / deviation), plus bias: two factors, of which the second is a product of two."""

    def parts(e: Ends) -> tuple[Array, Array, Array]:
        wide = [e[f"x{k}"].reshape(1, -1, 1, 1) for k in (1, 3, 4)]
        return e["x0"] - wide[1], 1 / np.sqrt(wide[2] + 1e-5), wide[0]

    (c, i, s), (c0, i0, s0) = parts(x), parts(y)
    to_center, to_factor = weight * mean(i * s, i0 * s0), weight * mean(c, c0)

    def summed(value: Array) -> Array:
        return np.asarray(value.sum(axis=(0, 2, 3)))

    return {
        "x0": to_center * (x["x0"] - y["x0"]),
        "x1": summed(to_factor * mean(i, i0) * (s - s0)),
        "x2": summed(weight) * (x["x2"] - y["x2"]),
        "x3": -summed(to_center) * (x["x3"] - y["x3"]),
        "x4": summed(to_factor * mean(s, s0) * (i - i0)),
    }


WHOLE = ("LayerNormalization", "InstanceNormalization", "GroupNormalization")


def definition_of(row: Row) -> Definition:
    if row.op == "BatchNormalization" and len(row.shapes) > 2:
        return batch_norm
    if row.op == "Einsum" and len(row.shapes) > 2:
        return pairs_from_the_left
    return shapley_of_whole_inputs if row.op in WHOLE else shapley


SEVERAL = [row for row in ROWS if len(row.shapes) > 1 and row.op != "GridSample"]


@pytest.mark.parametrize("row", SEVERAL, ids=str)
def test_several_inputs_share_the_change_by_definition(row: Row) -> None:
    x, y = points(row)
    weight = np.random.default_rng(0).normal(size=evaluation(row)(x).shape)
    found = dict(zip(x, lifted(row, x, y)[0], strict=True))
    assert_credit(found, definition_of(row)(row, x, y, weight))


# --- a grid that moves with its image


def places(grid: Array, size: int, attributes: Mapping[str, Any]) -> Array:
    """The weight of every pixel along one axis at every place of the grid."""
    u = (grid + 1) / 2 * (size - 1) if attributes["align_corners"] else ((grid + 1) * size - 1) / 2
    if attributes["mode"] == "nearest":
        u = np.round(u)
    low, high = (0.0, size - 1.0) if attributes["align_corners"] else (-0.5, size - 0.5)
    if attributes["padding_mode"] == "reflection":
        span = high - low
        u = low + span - np.abs((u - low) % (2 * span) - span)
    if attributes["padding_mode"] != "zeros":
        u = np.clip(u, 0, size - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(u[..., None] - np.arange(size))))


@pytest.mark.parametrize("row", [row for row in ROWS if row.op == "GridSample"], ids=str)
def test_an_image_and_its_grid_share_as_products_of_weights(row: Row) -> None:
    """The rows are read first, with weights of their own; what is read is then multiplied by those of the columns."""
    x, y = points(row)
    weight = np.random.default_rng(0).normal(size=evaluation(row)(x).shape)
    images, grids = [[np.asarray(e[n]) for e in (x, y)] for n in ("x0", "x1")]
    down, across = (
        [places(g[..., axis], images[0].shape[3 - axis], row.attributes) for g in grids] for axis in (1, 0)
    )
    read = [np.einsum("npqi,ncij->npqcj", d, m) for d, m in zip(down, images, strict=True)]
    to_read = np.einsum("ncpq,npqj->npqcj", weight, mean(*across))
    expected = {
        "x0": np.einsum("npqcj,npqi->ncij", to_read, mean(*down)) * (images[0] - images[1]),
        "x1": np.stack(
            [
                np.einsum("ncpq,npqcj,npqj->npq", weight, mean(*read), across[0] - across[1]),
                np.einsum("npqcj,npqi,ncij->npq", to_read, down[0] - down[1], mean(*images)),
            ],
            axis=-1,
        ),
    }
    found = dict(zip(x, lifted(row, x, y)[0], strict=True))
    assert_credit(found, expected, tolerance=2e-5)  # in float32


@pytest.mark.parametrize("row", [row for row in ROWS if row.op == "GridSample"], ids=str)
def test_the_multipliers_of_an_image_and_its_grid_where_nothing_changes_are_their_gradients(row: Row) -> None:
    """Against differences of the definition, whose steps in float64 are short enough to cross no pixel."""
    x, direction = points(row)
    weight = np.random.default_rng(0).normal(size=evaluation(row)(x).shape)

    def value(image: Array, grid: Array) -> float:
        down, across = (places(grid[..., 1 - k], image.shape[2 + k], row.attributes) for k in (0, 1))
        return float(np.einsum("ncpq,npqi,npqj,ncij->", weight, down, across, image))

    found = dict(zip(x, lifted(row, x, x, multiply=False)[0], strict=True))
    for name, multipliers in found.items():
        ends = [{**x, name: x[name] + e * direction[name]} for e in (1e-7, -1e-7)]
        slope = (value(*ends[0].values()) - value(*ends[1].values())) / 2e-7
        terms = multipliers.astype(np.float64) * direction[name]
        assert abs(float(terms.sum()) - slope) <= 1e-4 * float(np.linalg.norm(terms))


# --- functions of many elements of one input


def log_mean(p: Array, q: Array) -> Array:
    return np.asarray((p - q) / (np.log(p) - np.log(q)))


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def of_softmax(row: Row, x: Array, y: Array, g: Array) -> Array:
    """L_i (d_ij - L_j / sum L) with the logarithmic means L of both softmaxes."""
    axis = row.attributes["axis"]
    means = log_mean(softmax(x, axis), softmax(y, axis))
    share = means / means.sum(axis=axis, keepdims=True)
    arrived = g * means if row.op == "Softmax" else g
    return np.asarray((arrived - arrived.sum(axis=axis, keepdims=True) * share) * (x - y))


def kept(row: Row, g: Array) -> Array:
    return g if row.attributes["keepdims"] else np.expand_dims(g, 1)


def of_log_sum(row: Row, x: Array, y: Array, g: Array) -> Array:
    means = log_mean(softmax(x, 1), softmax(y, 1))
    return np.asarray(kept(row, g) * means / means.sum(axis=1, keepdims=True) * (x - y))


def of_norm(row: Row, x: Array, y: Array, g: Array) -> Array:
    """The difference of squares over the sum of both norms."""
    total = sum(np.sqrt((v**2).sum(axis=1, keepdims=True)) for v in (x, y))
    return np.asarray(kept(row, g) * (x**2 - y**2) / total)


def of_extreme(row: Row, x: Array, y: Array, g: Array) -> Array:
    """Cross-max: with c the larger maximum, c - z' to the place of x's, z - c to that of x'."""
    sign = 1 if row.op == "ReduceMax" else -1
    tops = [(sign * v).max(axis=1, keepdims=True) for v in (x, y)]
    c = np.maximum(*tops)
    here, there = (sign * v == top for v, top in zip((x, y), tops, strict=True))
    return np.asarray(sign * kept(row, g) * ((c - tops[1]) * here + (tops[0] - c) * there))


def of_normalised(
    x: Array, y: Array, g: Array, axes: tuple[int, ...], epsilon: float, *, centred: bool
) -> Array:
    """(u I - (2 / n) c c' / (s s' (s + s'))) of the centred change: u and c the means of 1 / s and of both ends."""

    def center(v: Array) -> Array:
        return np.asarray(v - v.mean(axis=axes, keepdims=True)) if centred else v

    cs = [center(v) for v in (x, y)]
    s, t = (np.sqrt((c**2).mean(axis=axes, keepdims=True) + epsilon) for c in cs)
    halfway = mean(*cs)
    inner = (g * halfway).mean(axis=axes, keepdims=True)
    return np.asarray(center(g * mean(1 / s, 1 / t) - 2 * inner * halfway / (s * t * (s + t))) * (x - y))


def wide(values: Array, rank: int) -> Array:
    return values.reshape(1, -1, *[1] * (rank - 2))


def of_groups(*values: Array) -> Array:
    x, y, g = (v.reshape(2, 2, -1) for v in values)
    return of_normalised(x, y, g, (2,), 1e-5, centred=True).reshape(values[0].shape)


OWN: dict[str, Callable[[Row, Array, Array, Array], Array]] = {
    "Softmax": of_softmax,
    "LogSoftmax": of_softmax,
    "ReduceLogSumExp": of_log_sum,
    "ReduceL1": lambda row, x, y, g: kept(row, g) * (np.abs(x) - np.abs(y)),
    "ReduceL2": of_norm,
    "ReduceSumSquare": lambda row, x, y, g: kept(row, g) * (x**2 - y**2),
    "ReduceMax": of_extreme,
    "ReduceMin": of_extreme,
    "LayerNormalization": lambda row, x, y, g: of_normalised(
        x, y, g * row.constants[1], tuple(range(row.attributes.get("axis", -1) % 3, 3)), 1e-5, centred=True
    ),
    "RMSNormalization": lambda row, x, y, g: of_normalised(
        x, y, g * row.constants[1], (2,), 1e-5, centred=False
    ),
    "InstanceNormalization": lambda row, x, y, g: of_normalised(
        x, y, g * wide(NORM[1], 4), (2, 3), 1e-5, centred=True
    ),
    "GroupNormalization": lambda row, x, y, g: of_groups(x, y, g * wide(NORM[1], 4)),
    "MeanVarianceNormalization": lambda row, x, y, g: of_normalised(x, y, g, (0, 2, 3), 0, centred=True),
}


def has_own(row: Row) -> bool:
    return row.op in OWN and len(row.shapes) == 1 and (row.op[:6] != "Reduce" or 1 in row.constants)


@pytest.mark.parametrize("row", [row for row in ROWS if has_own(row)], ids=str)
def test_a_function_of_many_elements_has_its_definition(row: Row) -> None:
    x, y = points(row)
    weight = np.random.default_rng(0).normal(size=evaluation(row)(x).shape)
    expected = OWN[row.op](row, x["x0"], y["x0"], weight)
    assert_credit({"x0": lifted(row, x, y)[0][0]}, {"x0": expected}, 2e-5 if row.single else 1e-8)


@pytest.mark.parametrize("p", [1, 3])
def test_a_root_of_a_sum_that_stays_passes_on_what_its_elements_change(p: int) -> None:
    """By hand: the two elements change places, so that the root stays; each has its own change of |x|^p."""
    row = Row("LpPool", ((1, 1, 2),), attributes={"kernel_shape": [2], "p": p})
    x, y = np.array([[[1.0, 2]]]), np.array([[[2.0, 1]]])
    (found,), change = lifted(row, {"x0": x}, {"x0": y})
    assert abs(change) < 1e-12
    weight = np.random.default_rng(0).normal(size=(1, 1, 1))
    root = (1 + 2**p) ** (1 / p)
    np.testing.assert_allclose(found, weight * (x**p - y**p) / (p * root ** (p - 1)), rtol=1e-9)


@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_an_extreme_of_more_than_four_goes_by_cross_max(operator: str) -> None:
    """Beyond four inputs the reached ones of both ends have the change, as in a reduction."""
    row = Row(operator, (S,) * 5)
    x, y = points(row)
    weight = np.random.default_rng(0).normal(size=S)
    found = np.stack(lifted(row, x, y)[0], axis=1)
    like = Row(f"Reduce{operator}", (), attributes={"keepdims": 0})
    here, there = (np.stack(list(e.values()), axis=1) for e in (x, y))
    assert_credit({"all": found}, {"all": of_extreme(like, here, there, weight)})
