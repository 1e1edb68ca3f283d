"""Graphs inside nodes: what they read from outside, copies of them, and If, Loop and Scan emitted from functions.

The bodies that `scan`, `loop` and `branches` emit read outer values by name, as those of a file do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float, is_quantised, shape_of
from onnx_attribution.graph_tools.ir.quiet import quiet

Values = list[Value]
Dims = Sequence[int | str | None]
QUANTISING = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})
"""Operators that make integers which stand for real numbers."""
SHAPE_ONLY = frozenset({"EyeLike", "Shape", "Size"})
"""Operators through which a value does not pass: their output depends on the shape alone."""
ALIKE = frozenset({"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "MaxPool", "Pad", "Slice", "Tile"})
"""Operators whose first output has as many axes as their first input, where ONNX's inference needs sizes for that."""


def graphs_of(node: gs.Node) -> list[gs.Graph]:
    """The graphs among the attributes of a node."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def inner_nodes(node: gs.Node) -> list[gs.Node]:
    """The nodes of the graphs of a node, those of graphs within included."""
    return [one for graph in graphs_of(node) for inner in graph.nodes for one in (inner, *inner_nodes(inner))]


def captured(node: gs.Node) -> list[gs.Variable]:
    """The outer variables that the graphs of a node read, those that only inner nodes read included, each once."""
    found: dict[str, gs.Variable] = {}
    for graph in graphs_of(node):
        local = {x.name for x in graph.inputs} | {z.name for n in graph.nodes for z in n.outputs}
        for value in [*(x for n in graph.nodes for x in inputs_of(n)), *graph.outputs]:
            if isinstance(value, gs.Variable) and not value.is_empty() and value.name not in local:
                found.setdefault(value.name, value)
    return list(found.values())


def inputs_of(node: gs.Node) -> Values:
    """The inputs of a node, and after them the variables that its graphs capture."""
    return [*node.inputs, *captured(node)]


def key_of(node: gs.Node) -> tuple[str, str]:
    """Domain and operator, as the tables of rules name them."""
    return "" if node.domain in (None, "ai.onnx") else node.domain, node.op


def reachable(nodes: Iterable[gs.Node], sources: Iterable[str]) -> set[str]:
    """Names of the tensors that depend on `sources` through what derivatives pass, the sources included.

    Those are float tensors, the quantised ones that a quantising operator makes of them, and what holds tensors:
    sequences, of whose elements the type is not always known, are no way around the walk.
    """
    found, quantised = set(sources), set[str]()
    for node in nodes:
        moved = {x.name for x in inputs_of(node) if x.name in found}
        if moved:
            found.update(out.name for out in node.outputs if is_float(out) or _holds_tensors(out))
            if node.op in QUANTISING or moved & quantised:
                quantised.update(out.name for out in node.outputs if is_quantised(out))
                found |= quantised
    return found


def _holds_tensors(value: Value) -> bool:
    return getattr(value, "type", "tensor_type") in ("sequence_type", "optional_type")


def dependents(nodes: Iterable[gs.Node], sources: Iterable[str]) -> set[str]:
    """Names of the tensors whose values depend on the sources, the sources included."""
    found = set(sources)
    for node in nodes:
        if depends(node, found):
            found.update(z.name for z in node.outputs)
    return found


def depends(node: gs.Node, names: set[str]) -> bool:
    """Whether what a node makes depends on the values of the tensors of these names."""
    return node.op not in SHAPE_ONLY and any(x.name in names for x in inputs_of(node))


def graft(op: Emitter, graph: gs.Graph, values: Mapping[str, Value], names: str = "") -> dict[str, Value]:
    """Appends a copy of the nodes of `graph`, reading `values` by name where it names them.

    Returns the value of every tensor of `graph` by its old name, types and ranks filled in. `names` is put before
    those of the nodes.
    """
    made = _copied(graph, op.graph.nodes, values, op.prefix, names)
    infer_types(op.graph)
    return made


def _copied(
    graph: gs.Graph, nodes: list[gs.Node], values: Mapping[str, Value], prefix: str, names: str = ""
) -> dict[str, Value]:
    """Copies the nodes of `graph` into `nodes`; inner names get a prefix, so that they hide no outer name."""
    made = dict(values)
    for node in graph.nodes:
        attributes = attributes_of(node, made, prefix)
        outputs: Values = []
        for z in node.outputs:
            twin = gs.Variable.empty() if z.is_empty() else _twin(z, prefix)
            if not z.is_empty():
                made[z.name] = twin
            outputs.append(twin)
        inputs = [made.get(x.name, x) for x in node.inputs]
        name = node.name and names + node.name
        nodes.append(gs.Node(node.op, name, attributes, inputs, outputs, domain=node.domain))
    for z in graph.outputs:
        made.setdefault(z.name, z)
    return made


def attributes_of(node: gs.Node, values: Mapping[str, Value], prefix: str) -> dict[str, Any]:
    """The attributes of a node with copies of its graphs that read `values` by name where they name them."""
    return {
        name: _renamed(value, values, prefix) if isinstance(value, gs.Graph) else value
        for name, value in node.attrs.items()
    }


def _twin(value: Value, prefix: str) -> gs.Variable:
    return gs.Variable(f"{prefix}/{value.name}", dtype=value.dtype, shape=value.shape, type=value.type)


def _renamed(graph: gs.Graph, values: Mapping[str, Value], prefix: str) -> gs.Graph:
    """A copy of an inner graph with its own names."""
    inputs = {x.name: _twin(x, prefix) for x in graph.inputs}
    nodes: list[gs.Node] = []
    made = _copied(graph, nodes, {**values, **inputs}, prefix)
    return gs.Graph(
        nodes=nodes,
        inputs=list(inputs.values()),
        outputs=[made[z.name] for z in graph.outputs],
        name=graph.name,
        opset=graph.opset,
        import_domains=graph.import_domains,
    )


def infer_types(graph: gs.Graph) -> None:
    """Fills in the types and ranks of the tensors of an inner graph, as far as ONNX's inference knows them."""
    made = {z.name: z for node in graph.nodes for z in node.outputs if not z.is_empty()}
    unknown = {name: z for name, z in made.items() if _is_untyped(z)}
    if not unknown:
        return
    read = {x.name: x for node in graph.nodes for x in inputs_of(node) if isinstance(x, gs.Variable)}
    given = {**{x.name: x for x in graph.inputs}, **{k: x for k, x in read.items() if k and k not in made}}
    staged = gs.Graph(graph.nodes, given.values(), unknown.values(), opset=graph.opset)
    staged.import_domains = graph.import_domains
    with quiet():
        exported = gs.export_onnx(staged, do_type_check=False)
    inferred = onnx.shape_inference.infer_shapes(exported, data_prop=True)
    symbols = {d for x in given.values() for d in x.shape or () if isinstance(d, str)}
    for info in inferred.graph.output:
        if not info.type.HasField("tensor_type"):
            continue
        known, value = OnnxImporter.import_tensor(info), unknown[info.name]
        value.dtype = known.dtype if value.dtype is None else value.dtype
        if value.shape is None and known.shape is not None:  # a new symbol may mean another thing outside
            value.shape = [d if isinstance(d, int) or d in symbols else None for d in known.shape]
    nested = [node for node in graph.nodes if graphs_of(node) and any(map(_is_untyped, node.outputs))]
    if sum([type_graphs(node) for node in nested]) + sum([_ranked_alike(node) for node in graph.nodes]):
        infer_types(graph)


def _ranked_alike(node: gs.Node) -> int:
    """Gives the output of an operator that keeps the number of axes that of its input; whether it had none before."""
    x, z = (*node.inputs, None)[0], (*node.outputs, None)[0]
    if (
        node.op not in ALIKE
        or x is None
        or z is None
        or z.is_empty()
        or z.shape is not None
        or x.shape is None
    ):
        return 0
    z.shape = [None] * len(x.shape)
    return 1


def type_graphs(node: gs.Node) -> int:
    """Fills in the types and ranks in the graphs of a node, and of those outputs where ONNX's inference gives up.

    Returns how many outputs it filled in.
    """
    before = sum(map(_is_untyped, node.outputs))
    for graph in graphs_of(node):
        for x, like in zip(graph.inputs, _fed(node), strict=False):
            x.dtype = like.dtype if x.dtype is None else x.dtype
            if x.shape is None and like.shape is not None:
                x.shape = [None] * len(like.shape)
        infer_types(graph)
        skipped = 1 if node.op == "Loop" else 0
        carried = {
            "Loop": len(graph.inputs) - 2,
            "Scan": len(graph.inputs) - node.attrs.get("num_scan_inputs", 0),
        }
        alike = carried.get(node.op, len(node.outputs))
        for k, (z, inner) in enumerate(zip(node.outputs, graph.outputs[skipped:], strict=False)):
            z.dtype = inner.dtype if z.dtype is None else z.dtype
            if z.shape is None and inner.shape is not None:
                z.shape = [None] * (len(inner.shape) + (k >= alike))
    return before - sum(map(_is_untyped, node.outputs))


def _fed(node: gs.Node) -> Values:
    """What the inputs of the graph of a node look like."""
    if node.op == "Loop":
        counter = gs.Variable("iteration", np.dtype(np.int64), [])
        return [counter, gs.Variable("going", np.dtype(bool), []), *node.inputs[2:]]
    if node.op != "Scan":
        return []
    count = len(node.inputs) - node.attrs["num_scan_inputs"]
    slices = [gs.Variable(x.name, x.dtype, x.shape and list(x.shape)[1:]) for x in node.inputs[count:]]
    return [*node.inputs[:count], *slices]


def _is_untyped(value: Value) -> bool:
    return (
        not value.is_empty() and value.type == "tensor_type" and (value.dtype is None or value.shape is None)
    )


Branch = Callable[[Emitter], Values]
Step = Callable[[Emitter, Values, Values], tuple[Values, Values]]


def branches(
    op: Emitter, condition: Value, then: Branch, otherwise: Branch, shapes: Sequence[Dims]
) -> Values:
    """The outputs, of these shapes, of a new If whose graphs are emitted by functions that return equal types."""
    name = op.name_for("If")
    made: list[Values] = []
    graphs: list[gs.Graph] = []
    for kind, emit in (("then", then), ("else", otherwise)):
        inner = _inner(op, f"{name}/{kind}")
        made.append(_results(inner, emit(inner)))
        graphs.append(inner.graph)
    outputs = _outputs(name, [z.dtype for z in made[0]], shapes)
    return _append(op, "If", name, [condition], outputs, then_branch=graphs[0], else_branch=graphs[1])


def scan(
    op: Emitter,
    step: Step,
    states: Sequence[Value],
    inputs: Sequence[Value],
    *,
    reverse: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    reverse_made: Sequence[int] | None = None,
    axes_made: Sequence[int] | None = None,
) -> tuple[Values, Values]:
    """The final states and the stacked outputs of a new Scan.

    `step(op, states, slices)` emits one iteration and returns the next states and this iteration's outputs. What is
    made must have a known rank. `reverse` and `axes` say how each input is read, `reverse_made` and `axes_made` how
    each output is stacked: 1 for from the last to the first.
    """
    name = op.name_for("Scan")
    inner = _inner(op, name)
    along = [a % len(dims(x)) for a, x in zip(axes or [0] * len(inputs), inputs, strict=True)]
    carried = [_given(inner, f"state_{k}", x.dtype, dims(x)) for k, x in enumerate(states)]
    slices = [
        _given(inner, f"slice_{k}", x.dtype, [*dims(x)[:a], *dims(x)[a + 1 :]])
        for k, (x, a) in enumerate(zip(inputs, along, strict=True))
    ]
    finals, made = step(inner, carried, slices)
    for final, state in zip(finals, states, strict=True):
        _declare(final, dims(state))
    results = _results(inner, [*finals, *made])[len(finals) :]
    length = dims(inputs[0])[along[0]] if inputs else None
    places = [a % (len(z.shape) + 1) for a, z in zip(axes_made or [0] * len(made), results, strict=True)]
    stacked = [[*z.shape[:a], length, *z.shape[a:]] for z, a in zip(results, places, strict=True)]
    outputs = _outputs(name, [x.dtype for x in (*states, *results)], [*map(dims, states), *stacked])
    attributes = {
        "scan_input_directions": list(reverse or []),
        "scan_input_axes": along,
        "scan_output_directions": list(reverse_made or []),
        "scan_output_axes": places,
    }
    used = {key: value for key, value in attributes.items() if any(value)}
    _append(
        op, "Scan", name, [*states, *inputs], outputs, body=inner.graph, num_scan_inputs=len(inputs), **used
    )
    return outputs[: len(states)], outputs[len(states) :]


def loop(
    op: Emitter,
    step: Callable[[Emitter, Value, Value, Values], tuple[Value, Values, Values]],
    trips: Value | None,
    condition: Value | None,
    states: Sequence[Value],
    shapes: Sequence[Dims],
) -> tuple[Values, Values]:
    """The final states and the stacked outputs of a new Loop; `shapes` are those of the inputs of the body.

    `step(op, iteration, condition, states)` emits one iteration and returns the condition for another one, the next
    states and this iteration's outputs.
    """
    name = op.name_for("Loop")
    inner = _inner(op, name)
    iteration = _given(inner, "iteration", np.dtype(np.int64), shapes[0])
    going = _given(inner, "going", np.dtype(bool), shapes[1])
    typed = enumerate(zip(states, shapes[2:], strict=True))
    carried = [_given(inner, f"state_{k}", x.dtype, shape) for k, (x, shape) in typed]
    again, finals, made = step(inner, iteration, going, carried)
    for final, shape in zip([again, *finals], shapes[1:], strict=True):
        _declare(final, shape)
    results = _results(inner, [again, *finals, *made])[1 + len(finals) :]
    outputs = _outputs(
        name, [x.dtype for x in (*states, *results)], [*shapes[2:], *([None, *z.shape] for z in results)]
    )
    _append(op, "Loop", name, [trips, condition, *states], outputs, body=inner.graph)
    return outputs[: len(states)], outputs[len(states) :]


def dims(value: Value) -> list[int | str | None]:
    """The shape of a value of known rank, None for what is unknown."""
    shape = shape_of(value)
    if shape is None:
        raise NotDifferentiable(f"the rank of {value.name!r} is unknown", tensor=value.name)
    return [None if d == "?" else d for d in shape]


def _declare(value: Value, shape: Dims) -> None:
    if value.shape is None:
        value.shape = list(shape)


def _inner(op: Emitter, name: str) -> Emitter:
    return Emitter(gs.Graph(name=name, opset=op.graph.opset, import_domains=op.graph.import_domains), name)


def _given(inner: Emitter, name: str, dtype: Any, shape: Dims) -> gs.Variable:
    """A new input of an inner graph."""
    value = gs.Variable(f"{inner.prefix}/{name}", dtype=dtype, shape=list(shape))
    inner.graph.inputs.append(value)
    return value


def _results(inner: Emitter, values: Sequence[Value]) -> Values:
    """The values as outputs of an inner graph: of known rank, made there, each once."""
    results: Values = []
    for value in values:
        own = any(node is maker for maker in value.inputs for node in inner.graph.nodes)
        if not own or any(value is other for other in results):
            maker = gs.Node("Identity", inputs=[value], name=inner.name_for("Identity"))
            value = gs.Variable(maker.name, dtype=value.dtype, shape=dims(value))
            maker.outputs = [value]
            inner.graph.nodes.append(maker)
        value.shape = dims(value)
        results.append(value)
    inner.graph.outputs = list(results)
    return results


def _outputs(name: str, types: Iterable[Any], shapes: Iterable[Dims]) -> Values:
    return [
        gs.Variable(name if k == 0 else f"{name}.{k}", dtype=dtype, shape=list(shape))
        for k, (dtype, shape) in enumerate(zip(types, shapes, strict=True))
    ]


def _append(
    op: Emitter, operator: str, name: str, inputs: Sequence[Value | None], outputs: Values, **attributes: Any
) -> Values:
    given = [gs.Variable.empty() if x is None else x for x in inputs]
    op.graph.nodes.append(gs.Node(operator, name, attributes, given, outputs))
    return outputs
