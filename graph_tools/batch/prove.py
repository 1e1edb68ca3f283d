"""Proves that rows of a network do not depend on the others that share their run, by runs.

Rows that are alike prove little: they hide what depends on the largest, the smallest or the sum of all. So the rows are
of very different sizes and signs, one is zero and one comes twice, and each is compared with itself run alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.network import Network, RowAxis, dims
from onnx_attribution.graph_tools.normalise.comparison import same_values
from onnx_attribution.values import Array

TOGETHER: Mapping[int, tuple[int, ...]] = {3: (0, 1, 2), 5: (3, 0, 4, 0, 1)}
"""The rows that share a run, by their number: each beside others of another size, one of them twice."""
KINDS = ("usual", "large", "zero", "small", "negative")
QUIET = 1e-2
"""A row's output below this share of the outputs of all rows is compared on their scale: it may be rounding."""
GRADIENT = 1e-3  # relative to the largest: kernels for several rows sum in another order
SEVERAL = 3  # what a count, a length or a choice may be in a large row, where the model runs then
NUDGE = 1e-6  # relative change of a row's inputs, by which its conditioning is judged
Row = dict[str, Array]


def prove(network: Network, run: Runner, tensors: Sequence[str]) -> None:
    """Fills `rows`, `places` and `shared` of the network for `tensors`.

    Raises:
        ModelError: rows cannot share a run.
    """
    wanted = [name for name in dict.fromkeys(tensors) if name not in network.rows]
    if not wanted:
        return
    alone = _alone(network, run, wanted)
    together = {
        count: run(network.model, stacked(network, [alone[k][0] for k in order]), wanted)
        for count, order in TOGETHER.items()
    }
    for name in wanted:
        each, joined = [found[name] for _, found in alone], {c: found[name] for c, found in together.items()}
        network.rows[name] = network.places[name] = None
        if not isinstance(each[0], np.ndarray):  # a sequence or map: one entry a row
            if all(
                _same_entries(joined[count], [e for k in order for e in each[k]])
                for count, order in TOGETHER.items()
            ):
                network.shared.add(name)
            continue
        if len({one.shape for one in each}) > 1:
            continue  # sizes that depend on values
        network.unit_shapes[name] = tuple(each[0].shape)
        place = _row_axis([each[0].shape, *[joined[count].shape for count in TOGETHER]])
        network.places[name] = place
        parts = {c: _split(a, place) if place else [a] * c for c, a in joined.items()}
        if _same(network, run, name, [row for row, _ in alone], each, parts):
            network.rows[name] = place
            if place is None:
                network.shared.add(name)


def prove_shared(network: Network, run: Runner, tensors: Sequence[str]) -> str:
    """The name of an input that all rows are said to share although they do not, "" for none.

    An axis of size 1 broadcasts, so that it fits any number of rows: it is made larger, where the model runs then.
    """
    proven = [name for name in tensors if network.rows.get(name) is not None]
    for value in network.model.graph.input:
        name, example = value.name, network.example.get(value.name)
        if example is None or network.input_axes[name] is not None:
            continue
        open_axes = [
            k for k, d in enumerate(dims(value)) if isinstance(d, str) and example.shape[k : k + 1] == (1,)
        ]
        for axis in open_axes:
            rng = np.random.default_rng(axis)
            pair = np.concatenate([example, _drawn(example, "usual", rng)], axis=axis)
            wider = replace(
                network,
                example={**network.example, name: pair},
                rows={},
                unit_shapes={},
                places={},
                shared=set(),
            )
            try:
                run(wider.model, row_like(wider, 0), list(proven))
            except ModelError:
                continue  # the axis has one size only
            try:
                prove(wider, run, proven)
            except ModelError:
                return name
            if any(wider.rows[one] is None for one in proven):
                return name
    return ""


def gradients_apart(
    network: Network,
    run: Callable[[Row], Mapping[str, Array]],
    sources: Sequence[str],
    target: str,
    rows: Sequence[Row],
) -> bool:
    """Whether the first row's gradient, beside the others, is what it is alone, and zero with respect to theirs.

    `run` runs the program of gradient rows; `rows` hold the inputs and the hidden sources.
    """
    places = {name: network.rows[name] for name in (*sources, target)}
    width = places[target]
    assert width is not None
    weight = np.random.default_rng(0).normal(size=network.unit_shapes[target]).astype(rows[0][target].dtype)
    seed = np.concatenate([weight, *[np.zeros_like(weight)] * (len(rows) - 1)], axis=width.axis)
    joined = stacked(network, rows)
    for name in sources:
        if (place := places[name]) is not None and name not in joined:
            joined[name] = np.concatenate([row[name] for row in rows], axis=place.axis)
    beside, alone = run({**joined, "target/weight": seed}), run({**rows[0], "target/weight": weight})
    nudged = {
        n: _nudged(a)
        if n != target and a.dtype.kind in "fV" and network.input_axes.get(n, 0) is not None
        else a
        for n, a in rows[0].items()
    }
    for name in sources:
        place = places[name]
        assert place is not None
        mine, *others = _split(beside[f"gradient/{name}"], place)
        if any((np.isfinite(other) & (other != 0)).any() for other in others):
            return False
        wanted = alone[f"gradient/{name}"]
        if not same_values(mine, wanted, GRADIENT) and not _as_far(
            mine, wanted, run({**nudged, "target/weight": weight})[f"gradient/{name}"]
        ):
            return False
    return True


def _alone(network: Network, run: Runner, tensors: Sequence[str]) -> list[tuple[Row, Row]]:
    """The rows of the proof with what the network makes of each; rows on which it cannot be run are usual ones."""
    found: list[tuple[Row, Row]] = []
    for number, kind in enumerate(KINDS):
        row = row_like(network, number, kind)
        try:
            made = run(network.model, row, list(tensors))
        except ModelError:
            if kind == "usual":
                raise
            row = row_like(network, number)
            made = run(network.model, row, list(tensors))
        found.append((row, made))
    return found


def row_like(network: Network, seed: int, kind: str = "usual") -> Row:
    """One row like the example, of a kind; what all rows share is as it is there."""
    rng = np.random.default_rng(seed)
    return {
        name: network.example[name] if axis is None else _drawn(network.example[name], kind, rng)
        for name, axis in network.input_axes.items()
    }


def _drawn(array: Array, kind: str, rng: np.random.Generator) -> Array:
    """Normal floats; other values are drawn from the array's own, of which a large or a zero row takes the ends.

    The large row outweighs the others by its sum too, which is positive, and the negative one's is negative: beside it
    that one goes the other way wherever a condition asks for the sum.
    """
    if array.dtype.kind in "fV":
        normal = rng.normal(size=array.shape)
        made = {
            "usual": normal,
            "large": 1e3 * (normal + 1),
            "zero": 0 * normal,
            "small": 1e-3 * np.abs(normal),
            "negative": -30 * np.abs(normal),
        }[kind]
        with np.errstate(over="ignore"):  # half types end at 65504
            return made.astype(array.dtype)
    if not array.size:
        return array
    if array.dtype.kind == "b" and kind != "usual":
        return np.full_like(array, kind == "large")
    if array.dtype.kind in "iu":  # an example of one number says nothing of the others
        if kind == "large":
            return np.full_like(array, max(array.max(), SEVERAL))
        if kind in ("zero", "negative"):
            return np.full_like(array, min(array.min(), 0))
        if kind == "small" and array.size > 1 and (array == 1).all():  # a mask, of a shorter row
            shorter = array.copy()
            shorter.reshape(-1)[array.size // 2 :] = 0
            return shorter
        if kind == "small":
            return np.ones_like(array)
    return rng.choice(array.reshape(-1), size=array.shape)


def stacked(network: Network, rows: Sequence[Mapping[str, Array]]) -> Row:
    """Rows joined along the batch axis of each input."""
    return {
        name: rows[0][name] if axis is None else np.concatenate([row[name] for row in rows], axis=axis)
        for name, axis in network.input_axes.items()
    }


def _same(
    network: Network,
    run: Runner,
    name: str,
    rows: Sequence[Row],
    alone: Sequence[Array],
    together: Mapping[int, Sequence[Array]],
) -> bool:
    """Whether every row that shares a run is what it is alone, up to rounding."""
    floor = QUIET * float(np.median([_size(one) for one in alone])) if alone[0].dtype.kind in "fV" else 0.0
    for count, order in TOGETHER.items():
        for place, (k, found) in enumerate(zip(order, together[count], strict=True)):
            if same_values(found, alone[k], floor=floor):
                continue
            if alone[k].dtype.kind not in "fV" or found.shape != alone[k].shape:
                return False
            again = run(network.model, {n: a.copy() for n, a in rows[k].items()}, [name])[name]
            if not same_values(again, alone[k]):
                return False  # it is random
            if _is_rounding(network, run, name, rows[k], alone[k], found):
                continue
            beside = [rows[other] for other in order]
            if KINDS[k] != "zero" or not _stays(network, run, name, beside, place, found, floor):
                return False
    return True


def _size(array: Array) -> float:
    wide = np.abs(array.astype(np.float64))
    return float(wide[np.isfinite(wide)].max(initial=0))


def _is_rounding(network: Network, run: Runner, name: str, row: Row, alone: Array, found: Array) -> bool:
    """Whether a difference is one that rounding makes of this row: a nudge of its inputs does as much."""
    nudged = {
        n: a if network.input_axes[n] is None or a.dtype.kind not in "fV" else _nudged(a)
        for n, a in row.items()
    }
    return _as_far(found, alone, run(network.model, nudged, [name])[name])


def _stays(
    network: Network, run: Runner, name: str, rows: Sequence[Row], place: int, found: Array, floor: float
) -> bool:
    """Whether a row keeps what it is beside others when all of those move.

    Kernels that take several numbers at once round the last ones in another way; where a row is constant, as zeros are,
    a normalisation makes any number of that.
    """
    moved = [row if k == place else _turned(row) for k, row in enumerate(rows)]
    lead = network.places[name]
    array = run(network.model, stacked(network, moved), [name])[name]
    part = array if lead is None else _split(array, lead)[place]
    return same_values(part, found, floor=floor)


def _turned(row: Row) -> Row:
    """A row whose floats have another size and the other sign."""
    return {
        n: (-0.37 * a.astype(np.float64)).astype(a.dtype) if a.dtype.kind in "fV" else a
        for n, a in row.items()
    }


def _as_far(found: Array, wanted: Array, moved: Array) -> bool:
    """Whether numbers differ by no more than a nudge of the inputs moves them."""
    other, wide, third = (a.astype(np.float64) for a in (found, wanted, moved))
    if not (np.isfinite(wide).all() and np.isfinite(other).all() and np.isfinite(third).all()):
        return False
    return bool(np.abs(other - wide).max(initial=0) <= 10 * np.abs(third - wide).max(initial=0))


def _nudged(array: Array) -> Array:
    signs = np.where(np.arange(array.size).reshape(array.shape) % 2, 1.0, -1.0)
    wide = array.astype(np.float64)
    size = max(float(np.abs(wide).max(initial=0)), 1e-3)
    return (wide + NUDGE * signs * np.maximum(np.abs(wide), 1e-3 * size)).astype(array.dtype)


def _same_entries(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether two sequences of maps or arrays agree."""
    as_arrays = [
        [np.asarray(list(e.values()) if isinstance(e, dict) else e) for e in part] for part in (found, wanted)
    ]
    return len(found) == len(wanted) and all(same_values(a, b) for a, b in zip(*as_arrays, strict=True))


def _split(array: Array, rows: RowAxis) -> list[Array]:
    """The parts of each row."""
    return np.split(array, array.shape[rows.axis] // rows.factor, axis=rows.axis)


def _row_axis(shapes: Sequence[tuple[int, ...]]) -> RowAxis | None:
    """The one axis that grows with the number of rows."""
    one, three, five = shapes
    if not len(one) == len(three) == len(five):
        return None
    grown = [k for k in range(len(one)) if not one[k] == three[k] == five[k]]
    if len(grown) != 1:
        return None
    axis = grown[0]
    if one[axis] and (three[axis], five[axis]) == (3 * one[axis], 5 * one[axis]):
        return RowAxis(axis, one[axis])
    return None
