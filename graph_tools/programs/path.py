"""Programs of path methods: sums over many rows, and the rows are data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.convert import detach, input_like
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.network import Network, RowAxis
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.walk.differentiate import Rules


def path_program(
    network: Network,
    choice: Choice,
    *,
    delta: bool = True,
    rules: RuleTable = VJP,
    totals: bool = False,
    products: bool = False,
) -> Program:
    """Path sums over many rows in one run: rows and terms are data.

    Inputs: `sample/<input>` for every model input, `sample/<source>` for hidden sources, and `baseline/<source>`, each
    `[samples, ...]` along its batch axis; `path/row_sample` and `path/row_alpha` `[rows]` say where each row lies;
    `path/gradient_row`, `path/left_row`, `path/right_row`, `path/weight`, `path/slot` `[terms]` are the summands
    `sum[slot] += weight * g[gradient_row] * (h[right_row] - h[left_row])`, without the difference if `delta` is False
    (alphas and weights are float64 and cast to the model's type); `path/slots` is a vector `[slots]` of any numbers;
    `target/weight` is `[samples, ...]`.
    Outputs: `sum/<layer>` `[slots, *unit shape]`, in float32 at least, or with `totals` `[slots, 1]` in float64, summed
    over the units; and `target/value` `[rows]`.

    With `products` differences are products with a small matrix, which is quicker where rows are large and few; NaN in
    one row of an element is then in all differences of that element.
    """
    draft = Draft(network)
    op, graph = draft.op, draft.graph
    row_sample = gs.Variable("path/row_sample", dtype=np.dtype(np.int64), shape=["path/rows"])
    row_alpha = gs.Variable("path/row_alpha", dtype=np.dtype(np.float64), shape=["path/rows"])
    _interpolate(draft, choice.sources, draft.add(row_sample), draft.add(row_alpha))
    graph.toposort()
    sample_weight = draft.input(choice.target, "target/weight")
    weight = _gather(op, sample_weight, _rows_of(network, choice.target), row_sample)
    weight.shape = draft.tensor(choice.target).shape
    gradients = draft.gradients(choice, weight, Rules(rules))
    draft.put_target(choice.target, weight, "target/value")
    sums = _PathSums(op, delta, op("Shape", row_sample), totals, products)
    for layer in choice.layers:
        total = sums(draft.tensor(layer), gradients[layer], _rows_of(network, layer))
        draft.put(total, f"sum/{layer}")
    graph.inputs += sums.inputs
    return draft.finish()


def _rows_of(network: Network, tensor: str) -> RowAxis:
    rows = network.rows.get(tensor)
    if rows is None:
        raise NotSeparable(f"the rows of {tensor!r} are not separable")
    return rows


class NotSeparable(Exception):
    """The rows of a tensor cannot share a run; use rows one by one."""


def _interpolate(draft: Draft, sources: Sequence[str], row_sample: Value, row_alpha: Value) -> None:
    """Replaces the inputs by rows: sources on the line from baseline to sample, the others at the sample."""
    op, network, graph = draft.op, draft.network, draft.graph
    tensors = graph.tensors()
    for name in [*dict.fromkeys([*(x.name for x in graph.inputs), *sources])]:
        if name.startswith("path/row_"):
            continue
        if name in network.input_axes:
            axis = network.input_axes[name]
            if axis is None and name not in sources:
                continue  # shared by all rows
            if axis is None:
                raise NotSeparable(f"the rows of {name!r} are not separable")
            place = RowAxis(axis)
        else:
            place = _rows_of(network, name)
        value = detach(graph, name) if name in tensors else tensors[name]
        sample = draft.add(input_like(value, f"sample/{name}"))
        rows = _gather(op, sample, place, row_sample)
        if name in sources:
            baseline = draft.add(input_like(value, f"baseline/{name}"))
            rank = len(shape_of(value) or ())
            alpha = op.cast(row_alpha, value.dtype)
            if place.factor != 1:
                each = np.ones((1, place.factor), dtype=value.dtype)
                alpha = op("Mul", op("Reshape", alpha, op.ints([-1, 1])), op.constant(each))
            alpha = op("Reshape", alpha, op.ints([-1] + [1] * (rank - place.axis - 1)))
            rest = op("Sub", op.like(value, 1), alpha)
            low = _gather(op, baseline, place, row_sample)
            rows = op("Add", op("Mul", alpha, rows), op("Mul", rest, low))
        rows.dtype, rows.shape = value.dtype, value.shape
        graph.nodes.append(gs.Node("Identity", f"rows/{name}", inputs=[rows], outputs=[value]))


def _gather(op: Emitter, samples: Value, place: RowAxis, row_sample: Value) -> Value:
    """The samples of the rows, `factor` neighbouring elements each."""
    if place.factor != 1:
        first = op("Mul", op("Reshape", row_sample, op.ints([-1, 1])), op.ints([place.factor]))
        offsets = op.constant(np.arange(place.factor, dtype=np.int64).reshape(1, -1))
        row_sample = op("Reshape", op("Add", first, offsets), op.ints([-1]))
    return op("Gather", samples, row_sample, axis=place.axis)


class _PathSums:
    """The sums over terms, with the small matrix that all layers share.

    Without `products` rows are picked rather than multiplied by 0 and 1, so that NaN in one of them is not in all
    differences. The sum by slot is a product, which is fast: NaN in one slot of an element is in all slots of that
    element.
    """

    def __init__(self, op: Emitter, delta: bool, rows: Value, totals: bool, products: bool) -> None:
        self.op, self.delta, self.rows, self.totals = op, delta, rows, totals
        self.matrix: Value | None = None
        names = ["gradient_row", "weight", "slot", "slots"] + (["left_row", "right_row"] if delta else [])
        kinds = {"weight": np.float64, "slots": np.float32}
        by_name = {
            n: gs.Variable(
                f"path/{n}",
                dtype=np.dtype(kinds.get(n, np.int64)),
                shape=["path/slots" if n == "slots" else "path/terms"],
            )
            for n in names
        }
        self.inputs = list(by_name.values())
        self.gradient_row = by_name["gradient_row"]
        self.ends = [by_name[n] for n in ("right_row", "left_row") if n in by_name]
        if delta and products:
            self.matrix = op("Sub", *(self._hot(end, rows, 1) for end in self.ends))
            self.matrix.dtype = np.dtype(np.float32)
        hot = self._hot(by_name["slot"], op("Shape", by_name["slots"]), 0)
        self.hot, self.weight = hot, by_name["weight"]
        self.slots = op("Shape", by_name["slots"])

    def __call__(self, h: Value, g: Value, rows: RowAxis) -> Value:
        op = self.op
        wide = np.float64 if np.dtype(h.dtype) == np.float64 else np.float32
        front = self._front(g, rows)
        unit = op("Shape", front, start=1)
        if rows.factor != 1:
            unit = op("Concat", op.ints([rows.factor]), unit, axis=0)
        flat_g = op("Gather", op.cast(self._flat(front), wide), self.gradient_row, axis=0)
        if self.delta:
            flat_h = op.cast(self._flat(self._front(h, rows)), wide)
            if self.matrix is not None:
                step = op("MatMul", op.cast(self.matrix, wide), flat_h)
            else:
                step = op("Sub", *(op("Gather", flat_h, end, axis=0) for end in self.ends))
            flat_g = op("Mul", flat_g, step)
        if self.totals:
            each = op.cast(op("ReduceSum", flat_g, op.ints([1]), keepdims=1), np.float64)
            return op(
                "MatMul", op("Mul", op.cast(self.hot, np.float64), op.cast(self.weight, np.float64)), each
            )
        by_slot = op("Mul", op.cast(self.hot, wide), op.cast(self.weight, wide))
        summed = op("MatMul", by_slot, flat_g)
        return op("Reshape", summed, op("Concat", self.slots, unit, axis=0), allowzero=1)

    def _hot(self, places: Value, count: Value, axis: int) -> Value:
        """1 at each place, else 0, along an axis of this many entries."""
        found = self.op("OneHot", places, count, self.op.constant(np.asarray([0, 1], np.float32)), axis=axis)
        found.dtype = np.dtype(np.float32)
        return found

    def _front(self, value: Value, rows: RowAxis) -> Value:
        """The value with its rows in front."""
        rank = len(shape_of(value) or ())
        if rows.axis == 0:
            return value
        return self.op("Transpose", value, perm=[rows.axis, *(k for k in range(rank) if k != rows.axis)])

    def _flat(self, front: Value) -> Value:
        return self.op("Reshape", front, self.op("Concat", self.rows, self.op.ints([-1]), axis=0))
