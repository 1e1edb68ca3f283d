"""Sums along a path within a program: all rows at once, or the nodes one after the other in a Scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.convert import detach
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.programs.line import Line, Nodes, TermsMade, fixed, made
from onnx_attribution.graph_tools.programs.pairs import clone
from onnx_attribution.graph_tools.programs.question import Along, Found, Work
from onnx_attribution.graph_tools.programs.scalar import FAR
from onnx_attribution.graph_tools.walk.differentiate import Rules

ROWS = "path/rows"


@dataclass(frozen=True)
class Evaluated:
    """The target `[nodes, rows]`, and by layer gradients and activations `[nodes, elements]`; `shapes` are those of the
    layers at one node, as vectors, with the axis of the rows in front if `places` say so."""

    value: Value
    gradients: Mapping[str, Value]
    activations: Mapping[str, Value]
    shapes: Mapping[str, Value]
    places: Mapping[str, RowAxis]


def along(work: Work, at: Along) -> Found:
    """The sums, and the coarse ones where the line has two levels."""
    op, draft, sources = work.op, work.draft, work.asked.choice.sources
    own = [value for value in draft.graph.tensors().values() if isinstance(value, gs.Variable)]
    own = [value for value in own if value is not work.given]
    highs = _inputs(work, at.loop)
    lows = work.lows(highs)
    kinds = [element_type(highs[name]) for name in sources]
    wide = np.float64 if np.dtype(np.float64) in kinds else np.float32
    if isinstance(at.line, Line):
        nodes = fixed(op, at.line, wide)
    else:
        steps = draft.add(gs.Variable("steps", dtype=np.dtype(np.int64), shape=[1]))
        nodes = made(op, at.line, steps, wide)
    found = (_looped if at.loop else _together)(work, highs, lows, nodes, own)
    levels: list[dict[str, Value]] = [{} for _ in range(nodes.levels)]
    for layer, gradients in found.gradients.items():
        total = _total(op, nodes, gradients, found.activations[layer] if at.conductance else None)
        for number, level in enumerate(levels):
            value = _shaped(work, found, layer, op("Gather", total, op.constant(np.int64(number)), axis=0))
            if not at.conductance and at.multiply:
                value = op("Mul", value, op.cast(op("Sub", highs[layer], lows[layer]), value.dtype))
            value.shape = work.shapes[layer]
            level[layer] = value
    ends = [
        op("Reshape", op("Gather", found.value, end, axis=0), op.ints([-1]))
        for end in (nodes.last, nodes.first)
    ]
    for end in ends:
        end.shape = [work.rows]
    return Found(levels[0], ends[0], ends[1], levels[1] if len(levels) > 1 else None, nodes.no_estimate)


def _inputs(work: Work, loop: bool) -> dict[str, Value]:
    """The inputs and the sources at x; those whose rows are others than the samples have inputs in their place."""
    graph, network, sources = work.draft.graph, work.draft.network, work.asked.choice.sources
    highs: dict[str, Value] = {}
    for x in list(graph.inputs):
        if x.name not in network.input_axes:
            continue
        highs[x.name] = x
        if x.name in sources or (not loop and network.input_axes[x.name] is not None):
            highs[x.name] = gs.Variable(f"sample/{x.name}", dtype=x.dtype, shape=x.shape)
            work.new_names += [(x, f"rows/{x.name}"), (highs[x.name], x.name)]
    if hidden := [name for name in sources if name not in highs]:
        before = dict(highs)
        clone(graph, before, "sample")
        highs |= {name: before[name] for name in hidden}
    return highs


def _replace(work: Work, name: str, high: Value, rows: Value) -> None:
    """Puts rows in the place of an input or a hidden source."""
    graph = work.draft.graph
    value = detach(graph, name)
    if name in work.draft.network.input_axes:
        graph.inputs.append(high)
    graph.nodes.append(gs.Node("Identity", f"rows/{name}", inputs=[rows], outputs=[value]))


# --- All rows in one run: row r is sample r % samples at node r // samples


def _together(
    work: Work, highs: Mapping[str, Value], lows: Mapping[str, Value], nodes: Nodes, own: Sequence[Value]
) -> Evaluated:
    op, draft, choice = work.op, work.draft, work.asked.choice
    graph = draft.graph
    for value in own:
        if value.shape is not None and work.rows is not None:
            value.shape = [ROWS if d == work.rows else d for d in value.shape]
    for name in [n for n, high in highs.items() if high is not graph.tensors().get(n)]:
        place = _place(work, name)
        front = _front(op, highs[name], place)
        if name in lows:
            alphas = op("Reshape", nodes.alphas, op.ints([-1] + [1] * len(front.shape)))
            alphas.shape = [None] + [1] * len(front.shape)
            mixed = _between(op, alphas, front, _front(op, lows[name], place))
        else:
            mixed = op("Expand", front, op("Concat", nodes.count, op("Shape", front), axis=0))
        _replace(work, name, highs[name], _rows(op, mixed, front, place))
    graph.toposort()
    given = work.given
    if given is not None:
        place = RowAxis(0) if work.asked.target.by_index else _place(work, choice.target)
        front = _front(op, given, place)
        spread = op("Expand", front, op("Concat", nodes.count, op("Shape", front), axis=0))
        given = _rows(op, spread, front, place)
        given.shape = [ROWS if d == work.rows else d for d in work.given.shape]  # type: ignore[union-attr]
    tensors = graph.tensors()
    value = work.value(tensors[choice.target], ROWS, given)
    gradients = draft.gradients(choice, work.weight(value), Rules(work.asked.rules))
    places = {layer: _place(work, layer) for layer in choice.layers}
    sizes = op("Concat", nodes.count, op.ints([-1]), axis=0)

    def flat(layer: str, tensor: Value) -> Value:
        return op("Reshape", _front(op, tensor, places[layer]), sizes)

    return Evaluated(
        op("Reshape", value, sizes),
        {layer: flat(layer, g) for layer, g in gradients.items()},
        {layer: flat(layer, tensors[layer]) for layer in choice.layers},
        {
            layer: op("Concat", op.ints([-1]), _unit(op, _front(op, tensors[layer], place)), axis=0)
            for layer, place in places.items()
        },
        places,
    )


def _unit(op: Emitter, value: Value) -> Value:
    """The sizes of all axes but the first, at the run: what is declared of rows and nodes is not asked."""
    if op.graph.opset >= 15:
        return op("Shape", value, start=1)
    return op("Slice", op("Shape", value), op.ints([1]), op.ints([FAR]))


def _place(work: Work, name: str) -> RowAxis:
    network = work.draft.network
    axis = network.input_axes.get(name)
    place = network.rows.get(name) if axis is None else RowAxis(axis)
    assert place is not None  # the rows were asked for before
    return place


def _front(op: Emitter, value: Value, place: RowAxis) -> Value:
    """The value with the axis of its rows in front."""
    if place.axis == 0:
        return value
    dims = list(value.shape or ())
    order = [place.axis, *(k for k in range(len(dims)) if k != place.axis)]
    front = op("Transpose", value, perm=order)
    front.shape = [dims[k] for k in order]
    return front


def _rows(op: Emitter, stacked: Value, front: Value, place: RowAxis) -> Value:
    """`[nodes, rows, ...]` as rows of the tensor that `front` is of."""
    rank = len(front.shape)
    sizes = op("Concat", op.ints([-1]), _unit(op, front), axis=0) if rank > 1 else op.ints([-1])
    rows = op("Reshape", stacked, sizes)
    rows.dtype, rows.shape = front.dtype, [ROWS, *front.shape[1:]]
    return _back(op, rows, place)


def _back(op: Emitter, front: Value, place: RowAxis) -> Value:
    """The inverse of `_front`."""
    if place.axis == 0:
        return front
    order = [*range(1, place.axis + 1), 0, *range(place.axis + 1, len(front.shape))]
    own = op("Transpose", front, perm=order)
    own.shape = [front.shape[k] for k in order]
    return own


# --- One node after the other


def _looped(
    work: Work, highs: Mapping[str, Value], lows: Mapping[str, Value], nodes: Nodes, own: Sequence[Value]
) -> Evaluated:
    op, draft, choice = work.op, work.draft, work.asked.choice
    graph = draft.graph
    alpha = gs.Variable("path/alpha", dtype=nodes.alphas.dtype, shape=[])
    for name, low in lows.items():
        _replace(work, name, highs[name], _between(op, alpha, highs[name], low))
    graph.toposort()
    tensors = graph.tensors()
    value = work.value(tensors[choice.target], work.rows, work.given)
    gradients = draft.gradients(choice, work.weight(value), Rules(work.asked.rules))
    each = [value, *gradients.values(), *(tensors[layer] for layer in choice.layers)]
    stacked = _scan(draft.graph, alpha, nodes.alphas, each)
    sizes = op("Concat", nodes.count, op.ints([-1]), axis=0)
    flat = [op("Reshape", one, sizes) for one in stacked]
    count = len(choice.layers)
    layers = list(gradients)
    return Evaluated(
        flat[0],
        dict(zip(layers, flat[1 : 1 + count], strict=True)),
        dict(zip(choice.layers, flat[1 + count :], strict=True)),
        {layer: _unit(op, one) for layer, one in zip(layers, stacked[1:], strict=False)},
        {},
    )


def _scan(graph: gs.Graph, alpha: gs.Variable, alphas: Value, values: Sequence[Value]) -> list[gs.Variable]:
    """Moves what depends on `alpha` into the body of a Scan over `alphas`; returns the values stacked."""
    graph.toposort()  # a rule may have put what makes a value behind what reads it
    found, inside, outside = {alpha.name}, list[gs.Node](), list[gs.Node]()
    for node in graph.nodes:
        if any(x.name in found for x in inputs_of(node)):
            found.update(z.name for z in node.outputs if not z.is_empty())
            inside.append(node)
        else:
            outside.append(node)
    outs, stacked = [], []
    for number, value in enumerate(values):
        out = gs.Variable(f"path/body.{number}", dtype=value.dtype, shape=value.shape)
        inside.append(gs.Node("Identity", f"path/body.{number}", inputs=[value], outputs=[out]))
        outs.append(out)
        dims = None if value.shape is None else [None, *value.shape]
        stacked.append(gs.Variable(f"path/node.{number}", dtype=value.dtype, shape=dims))
    body = gs.Graph(
        inside, [alpha], outs, name="path", opset=graph.opset, import_domains=graph.import_domains
    )
    attributes = {"body": body, "num_scan_inputs": 1}
    graph.nodes.clear()
    graph.nodes.extend([*outside, gs.Node("Scan", "path", attributes, [alphas], stacked)])
    return stacked


# --- Sums


def _between(op: Emitter, alphas: Value, high: Value, low: Value) -> Value:
    """The line from `low` to `high` at some places."""
    alphas = op.cast(alphas, high.dtype)
    rest = op("Sub", op.like(high, 1), alphas)
    rows = op("Add", op("Mul", alphas, high), op("Mul", rest, low))
    rows.dtype, rows.shape = high.dtype, [None, *high.shape] if alphas.shape else high.shape
    return rows


def _total(op: Emitter, nodes: Nodes, gradients: Value, activations: Value | None) -> Value:
    """The sums over terms, `[levels, elements]`."""
    wide = np.float64 if np.dtype(gradients.dtype) == np.float64 else np.float32
    terms, sums = op.cast(gradients, wide), nodes.sums
    moved = None if activations is None else op.cast(activations, wide)
    if not isinstance(sums, TermsMade):
        assert moved is not None  # the mean of gradients is a sum over terms
        levels = [op("Mul", terms, op("MatMul", op.cast(one, wide), moved)) for one in sums]
        return op("Concat", *(op("ReduceSum", one, op.ints([0]), keepdims=1) for one in levels), axis=0)
    if sums.gradient is not None:
        terms = op("Gather", terms, sums.gradient, axis=0)
    if moved is not None:
        right, left = (op("Gather", moved, end, axis=0) for end in (sums.right, sums.left))
        terms = op("Mul", terms, op("Sub", right, left))
    return op("MatMul", op.cast(sums.weights, wide), terms)


def _shaped(work: Work, found: Evaluated, layer: str, flat: Value) -> Value:
    """The elements of a layer in its own shape."""
    value = work.op("Reshape", flat, found.shapes[layer])
    place = found.places.get(layer)
    if place is None:
        return value
    value.shape = [None] * len(work.shapes[layer])
    return _back(work.op, value, place)
