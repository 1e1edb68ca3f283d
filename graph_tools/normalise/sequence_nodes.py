"""Lists that Loop and If hand on, as tensors: what each turn appends is stacked, what a branch makes is read in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray
from onnx import helper

from onnx_attribution.graph_tools.ir.nodes import inner_graphs

READERS = {"SequenceAt", "SequenceLength", "ConcatFromSequence"}
Dims = list[int | None]


def appended(
    node: onnx.NodeProto,
    listed: Callable[[str], list[str] | None],
    number: Callable[[str], NDArray[Any] | None],
) -> Iterator[tuple[str, str, list[str], bool, Dims | None]]:
    """Replaces the lists to which each turn of a Loop adds one item by outputs that stack the items.

    `listed` gives the items of a list that is known, `number` a constant. Yields the list that the Loop made, the
    stack, the items that the list had before, whether items were put in front, and the sizes of an item if known.
    """
    (body,) = inner_graphs(node)
    for k in reversed(range(len(node.input) - 2)):
        state, after = body.input[2 + k].name, body.output[1 + k].name
        first = listed(node.input[2 + k])
        makers = [n for n in body.node if after in n.output]
        if (
            first is None
            or not makers
            or makers[0].op_type != "SequenceInsert"
            or makers[0].input[0] != state
        ):
            continue
        maker, front = makers[0], False
        if len(maker.input) > 2 and maker.input[2]:
            position = (
                number(maker.input[2]) if maker.input[2] not in _made(body) else _held(body, maker.input[2])
            )
            if position is None or int(position.reshape(-1)[0]) != 0:
                continue
            front = True
        if _uses(body, state) != 1 or _uses(body, after) != 1:
            continue
        name, stack = node.output[k] if k < len(node.output) else "", f"{after}/stack"
        item, each = maker.input[1], f"{maker.input[1]}/each"
        body.node.remove(maker)
        body.node.append(helper.make_node("Identity", [item], [each], f"unrolled/{each}"))
        types = {v.name: v.type for v in (*body.value_info, *body.output, *body.input)}
        made = onnx.ValueInfoProto(name=each)
        if item in types:
            made.type.CopyFrom(types[item])
        del body.input[2 + k]
        del body.output[1 + k]
        body.output.append(made)
        del node.input[2 + k]
        if k < len(node.output):
            del node.output[k]
        _fill(node, len(body.output) - 2)
        node.output.append(stack)
        shape = made.type.tensor_type.shape if made.type.tensor_type.HasField("shape") else None
        sizes: Dims | None = None
        if shape is not None:
            sizes = [d.dim_value if d.HasField("dim_value") else None for d in shape.dim]
        if name:
            yield name, stack, first, front, sizes


def _fill(node: onnx.NodeProto, count: int) -> None:
    """Outputs that nobody names before one that is read."""
    while len(node.output) < count:
        node.output.append("")


def _made(graph: onnx.GraphProto) -> set[str]:
    return {z for node in graph.node for z in node.output} | _given(graph)


def _held(graph: onnx.GraphProto, name: str) -> NDArray[Any] | None:
    """A constant that a graph itself holds."""
    found = [
        constant_of(node) for node in graph.node if node.op_type == "Constant" and node.output[0] == name
    ]
    found += [x for x in graph.initializer if x.name == name]
    return onnx.numpy_helper.to_array(found[0]) if found and found[0] is not None else None


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node holds, if that is a tensor or integers."""
    (one,) = node.attribute
    if one.name == "value":
        return one.t
    if one.name in ("value_int", "value_ints"):
        numbers = one.i if one.name == "value_int" else list(one.ints)
        return onnx.numpy_helper.from_array(np.asarray(numbers, dtype=np.int64))
    return None


def _uses(graph: onnx.GraphProto, name: str) -> int:
    """How often a tensor is read in a graph and those within, its outputs included."""
    found = sum(z.name == name for z in graph.output)
    for node in graph.node:
        found += sum(x == name for x in node.input)
        found += sum(_uses(inner, name) for inner in inner_graphs(node))
    return found


def pushed(graph: onnx.GraphProto) -> None:
    """Moves what reads a list that an If makes into its branches, in place, where that is all that is done with it."""
    types = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
    for node in list(graph.node):
        if node.op_type == "If":
            _pushed(node, graph, types)


def _pushed(node: onnx.NodeProto, graph: onnx.GraphProto, types: Mapping[str, onnx.TypeProto]) -> None:
    branches = list(inner_graphs(node))
    earlier = _earlier(graph, node)
    for k in reversed(range(len(node.output))):
        name = node.output[k]
        if name not in types or not types[name].HasField("sequence_type"):
            continue
        readers = [n for n in graph.node if n.op_type in READERS and n.input[0] == name]
        if not readers or _uses(graph, name) != len(readers):
            continue
        if any(x not in earlier for reader in readers for x in reader.input[1:] if x):
            continue
        for reader in readers:
            for side, branch in enumerate(branches):
                copy = onnx.NodeProto()
                copy.CopyFrom(reader)
                copy.input[0], copy.output[0] = branch.output[k].name, f"{reader.output[0]}/{side}"
                copy.name = f"unrolled/{copy.output[0]}"
                branch.node.append(copy)
                made = onnx.ValueInfoProto(name=copy.output[0])
                if reader.output[0] in types:
                    made.type.CopyFrom(types[reader.output[0]])
                branch.output.append(made)
            node.output.append(reader.output[0])
        for branch in branches:
            del branch.output[k]
        del node.output[k]
        for reader in readers:
            graph.node.remove(reader)


def _given(graph: onnx.GraphProto) -> set[str]:
    return {x.name for x in graph.input} | {x.name for x in graph.initializer}


def _earlier(graph: onnx.GraphProto, node: onnx.NodeProto) -> set[str]:
    """What a node may read."""
    found = _given(graph)
    for one in graph.node:
        if one is node or (one.output and node.output and one.output[0] == node.output[0]):
            break
        found.update(one.output)
    return found


def is_whole(graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> bool:
    """Whether all that nodes read is there: a list that could not be read as a tensor is not."""
    known = set(outer) | _given(graph)
    for node in graph.node:
        if any(x and x not in known for x in node.input):
            return False
        if not all(is_whole(inner, frozenset(known)) for inner in inner_graphs(node)):
            return False
        known.update(node.output)
    return all(z.name in known for z in graph.output)
