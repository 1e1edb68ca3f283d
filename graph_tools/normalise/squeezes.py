"""Gives a Squeeze without axes the axes that it takes at every number of samples.

As it stands it removes the axis of the samples too, where there is one, so that the rank at one sample is another one
than at more. So does an If that squeezes an axis or leaves it: exporters write one where a size is unknown to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, opset_of
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.ir.weights import value_of
from onnx_attribution.graph_tools.normalise.observed import Place
from onnx_attribution.graph_tools.normalise.types import Size, sizes_seen
from onnx_attribution.values import Array

ROUNDS = 8  # behind a Squeeze that is settled, the ranks of others become known
BY_INPUT = 13  # the opset from which on Squeeze reads its axes
_OF_SIZES = frozenset(
    {"Cast", "Constant", "Equal", "Gather", "Identity", "Reshape", "Shape", "Slice", "Squeeze"}
)
"""Operators between a shape and a condition that asks whether an axis has size 1."""
Axes = Callable[[Sequence[Size]], Sequence[int]]


def settled(model: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]) -> onnx.ModelProto:
    """The model in which only what always has size 1 is squeezed; the same object where nothing else was."""
    return _explicit(
        model, run, sample, lambda sizes: [k for k, size in enumerate(sizes) if size.always == 1]
    )


def settled_for_one(model: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]) -> onnx.ModelProto:
    """The model in which what has size 1 in the sample is squeezed, so that it takes as many samples as that only."""
    return _explicit(model, run, sample, lambda sizes: [k for k, size in enumerate(sizes) if size.first == 1])


def _explicit(
    model: onnx.ModelProto, run: Runner, sample: Mapping[str, Array], axes: Axes
) -> onnx.ModelProto:
    current = model
    for _ in range(ROUNDS):
        if not any(True for _ in _squeezing(current.graph, "", {})):
            break
        changed = copied(current)
        seen = sizes_seen(current, run, sample)
        if not sum(_settle(changed, *found, seen, axes) for found in list(_squeezing(changed.graph, "", {}))):
            break
        current = changed
    return current


_Scope = Mapping[str, str]  # the place of the graph in which a name is made


def _squeezing(
    graph: onnx.GraphProto, place: str, outer: _Scope
) -> Iterator[tuple[onnx.NodeProto, Place, Sequence[int] | None]]:
    """The nodes that squeeze whatever has size 1: each with what it squeezes, and the axes that it may take."""
    here = [*(x.name for x in graph.input), *(z for node in graph.node for z in node.output)]
    scope = {**outer, **dict.fromkeys(here, place)}
    made = {z: node for node in graph.node for z in node.output}
    constants = {t.name: t for t in graph.initializer} | {
        node.output[0]: a.t for node in graph.node for a in node.attribute
        if node.op_type == "Constant" and a.name == "value"
    }  # fmt: skip
    for index, node in enumerate(graph.node):
        if node.op_type == "Squeeze" and node.domain in ("", "ai.onnx"):
            if not _has_axes(node, constants):
                yield node, (scope.get(node.input[0], ""), node.input[0]), None
        elif node.op_type == "If" and (found := _either(node, made, constants)):
            name, chosen = found
            yield node, (scope.get(name, ""), name), chosen
        for number, inner in enumerate(inner_graphs(node)):
            yield from _squeezing(inner, f"{place}/{index}.{number}", scope)


def _has_axes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if len(node.input) > 1 and node.input[1]:
        given = constants.get(node.input[1])
        return given is None or bool(np.prod(given.dims, dtype=np.int64))
    return any(a.name == "axes" and a.ints for a in node.attribute)


def _either(
    node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> tuple[str, Sequence[int]] | None:
    """What an If squeezes where sizes say so and leaves else, and along which axes; None for any other If."""
    if len(node.output) != 1 or not _asks_sizes(node.input[0], made):
        return None
    taken: list[tuple[str, tuple[int, ...]]] = []
    for branch in inner_graphs(node):
        end, axes = branch.output[0].name, tuple[int, ...]()
        inside = {z: n for n in branch.node for z in n.output}
        held = {**constants, **{t.name: t for t in branch.initializer}} | {
            n.output[0]: n.attribute[0].t for n in branch.node
            if n.op_type == "Constant" and n.attribute[0].name == "value"
        }  # fmt: skip
        while end in inside and inside[end].op_type in ("Identity", "Squeeze"):
            last = inside[end]
            if last.op_type == "Squeeze":
                given = _axes_of(last, held)
                if axes or not given:
                    return None
                axes = given
            end = last.input[0]
        if end in inside:
            return None
        taken.append((end, axes))
    (left, first), (right, second) = taken
    if left != right or bool(first) == bool(second):
        return None
    return left, first or second


def _axes_of(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[int, ...]:
    if len(node.input) > 1:
        given = constants.get(node.input[1])
        return () if given is None else tuple(value_of(given).reshape(-1).tolist())
    return tuple(k for a in node.attribute if a.name == "axes" for k in a.ints)


def _asks_sizes(name: str, made: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a condition is made of shapes and constants."""
    if name not in made:
        return True  # a constant: a condition of the file's inputs is no comparison
    node = made[name]
    if node.op_type == "Shape":
        return True
    return node.op_type in _OF_SIZES and all(_asks_sizes(x, made) for x in node.input if x)


def _settle(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    source: Place,
    among: Sequence[int] | None,
    seen: Mapping[Place, Sequence[Size]],
    axes: Axes,
) -> bool:
    """Writes, in place, the axes of one node; False where its rank is unknown, or it takes no other ones anyway."""
    sizes = seen.get(source)
    if sizes is None or all(size.fixed for size in sizes):
        return False
    chosen = list(axes(sizes))
    if among is not None:
        chosen = [k for k in chosen if k in {j % len(sizes) for j in among}]
    del node.attribute[:], node.input[:]
    node.input.append(source[1])
    node.op_type = "Squeeze" if chosen else "Identity"
    if not chosen:
        return True
    opset = opset_of(model)
    if opset < BY_INPUT:
        node.attribute.append(helper.make_attribute("axes", chosen))
    else:
        node.input.append(_constant(model.graph, chosen))
    return True


def _constant(graph: onnx.GraphProto, axes: Sequence[int]) -> str:
    name = f"axes/{'_'.join(map(str, axes))}"
    if name not in {t.name for t in graph.initializer}:
        graph.initializer.append(numpy_helper.from_array(np.asarray(axes, np.int64), name))
    return name
