"""How rows pass If, Loop and Scan: through the graphs inside."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnx_attribution.graph_tools.batch.freeing import Axis, Freeing, follows
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, reads


def _body(freeing: Freeing, body: onnx.GraphProto, entering: Sequence[Axis | None]) -> list[Axis | None]:
    """Rewrites a body whose inputs hold rows where `entering` says; returns where its outputs do.

    What was inferred of it for one row is dropped.
    """
    inner = [*body.input, *body.value_info, *body.output]
    freeing.shapes |= {
        v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
        for v in inner
        if v.type.tensor_type.HasField("shape")
    }
    freeing.constants |= {
        node.output[0]: a.t
        for node in body.node
        for a in node.attribute
        if node.op_type == "Constant" and a.name == "value"
    }
    made = {z for node in body.node for z in node.output}
    for name in [*made, *(x.name for x in body.input)]:
        freeing.tracked.pop(name, None)
    entered = zip(body.input, entering, strict=False)
    freeing.tracked.update({x.name: axis for x, axis in entered if axis is not None})
    freeing.rewrite(body)
    del body.value_info[:]
    for value in [*body.input, *body.output]:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    return [freeing.tracked.get(z.name) for z in body.output]


@follows("If")
def _if(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    ends = [_body(freeing, branch, []) for branch in inner_graphs(node)]
    for name, places in zip(node.output, zip(*ends, strict=True), strict=True):
        found = set(places)
        if len(found) != 1:
            raise freeing.fail(node)  # one branch makes rows of it, the other does not
        if (place := found.pop()) is not None:
            freeing.tracked[name] = place
    return None


@follows("Loop")
def _loop(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    body = freeing.attribute(node, "body")
    states = len(node.input) - 2
    ends = _carried(freeing, node, body, 2, states, [], axis)
    _leaves(freeing, node, ends[1 : states + 1], ends[states + 1 :], [0] * (len(ends) - states - 1))
    return None


@follows("Scan")
def _scan(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    body, count = freeing.attribute(node, "body"), freeing.attribute(node, "num_scan_inputs")
    states = len(node.input) - count
    along = freeing.attribute(node, "scan_input_axes", [0] * count)
    parts: list[Axis | None] = []
    for name, position in zip(node.input[states:], along, strict=True):
        own = freeing.tracked.get(name)
        position %= freeing.rank(name)
        if own is not None and own.position == position:
            raise freeing.fail(node)
        parts.append(own and Axis(own.position - (own.position > position), own.factor))
    ends = _carried(freeing, node, body, 0, states, parts, axis)
    out = freeing.attribute(node, "scan_output_axes", [0] * (len(ends) - states))
    _leaves(freeing, node, ends[:states], ends[states:], out)
    return None


def _carried(
    freeing: Freeing,
    node: onnx.NodeProto,
    body: onnx.GraphProto,
    first: int,
    states: int,
    parts: list[Axis | None],
    axis: Axis,
) -> list[Axis | None]:
    """Rewrites a body that carries states; a state that comes to hold rows does so from the start."""
    lead = next(x for x in reads(node) if x in freeing.tracked)
    for _ in range(states + 1):
        entering = [freeing.tracked.get(x) for x in node.input[first : first + states]]
        trial = onnx.GraphProto()
        trial.CopyFrom(body)
        count, known, nodes = freeing.count, len(freeing.model.graph.initializer), list(freeing.nodes)
        ends = _body(freeing, trial, [*[None] * first, *entering, *parts])
        carried = ends[1 if first else 0 :][:states]
        late = [k for k in range(states) if carried[k] is not None and entering[k] is None]
        if not late:
            break
        freeing.count, freeing.nodes = count, nodes
        del freeing.model.graph.initializer[known:]
        for k in late:
            place = carried[k]
            assert place is not None
            name = node.input[first + k]
            sizes = freeing.sizes_with_rows(
                lead, freeing.tracked[lead], [1] * freeing.rank(name), place.position
            )
            node.input[first + k] = freeing.emit("Expand", [name, sizes])
            freeing.tracked[node.input[first + k]] = place
            freeing.shapes[node.input[first + k]] = freeing.shapes[name]
    if any(a != b for a, b in zip(entering, carried, strict=True)):
        raise freeing.fail(node)
    body.CopyFrom(trial)
    return ends


def _leaves(
    freeing: Freeing,
    node: onnx.NodeProto,
    carried: Sequence[Axis | None],
    scanned: Sequence[Axis | None],
    along: Sequence[int],
) -> None:
    """Where rows lie in the outputs of a loop; what is stacked gains an axis."""
    for name, place in zip(node.output, carried, strict=False):
        if place is not None:
            freeing.tracked[name] = place
    for name, place, position in zip(node.output[len(carried) :], scanned, along, strict=False):
        if place is not None:
            if position < 0:
                raise freeing.fail(node)
            freeing.tracked[name] = Axis(place.position + (place.position >= position), place.factor)
