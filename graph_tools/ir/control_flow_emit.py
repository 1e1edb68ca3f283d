"""If, Loop and Scan emitted from functions; their bodies read outer values by name, as those of a file do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.ir.subgraphs import Branch, Dims, Step, Values


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
    reverse_made: Sequence[int] | int | None = None,
    axes_made: Sequence[int] | None = None,
) -> tuple[Values, Values]:
    """The final states and the stacked outputs of a new Scan.

    `step(op, states, slices)` emits one iteration and returns the next states and this iteration's outputs. What is
    made must have a known rank. `reverse` and `axes` say how each input is read, `reverse_made` and `axes_made` how
    each output is stacked: 1 for from the last to the first; one number is that of all outputs.
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
    turned = [reverse_made] * len(made) if isinstance(reverse_made, int) else list(reverse_made or [])
    places = [a % (len(z.shape) + 1) for a, z in zip(axes_made or [0] * len(made), results, strict=True)]
    stacked = [[*z.shape[:a], length, *z.shape[a:]] for z, a in zip(results, places, strict=True)]
    outputs = _outputs(name, [x.dtype for x in (*states, *results)], [*map(dims, states), *stacked])
    attributes = {
        "scan_input_directions": list(reverse or []),
        "scan_input_axes": along,
        "scan_output_directions": turned,
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
        raise NotDifferentiable(
            f"the rank of {value.name!r} is unknown", reason=Reason.UNKNOWN_RANK, tensor=value.name
        )
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
