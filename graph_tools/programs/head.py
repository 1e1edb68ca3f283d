"""The linear head of a classifier: found in a file, and made wider by classes that it did not have.

New classes have a node of their own, and a Concat joins what it makes to the old logits: what computed those reads the
same numbers by the same node as before, so that they keep every bit. Columns appended to the old weights would not:
matrix products of another width may sum in another order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner

from onnx_attribution.errors import AttributionError
from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.shapes import Dims, dims_of
from onnx_attribution.graph_tools.programs.behind_head import Behind, add_constant
from onnx_attribution.graph_tools.programs.export import outline
from onnx_attribution.graph_tools.programs.file_graph import FileGraph, of_onnx
from onnx_attribution.graph_tools.programs.linear_head import PRODUCTS, Head, linear, refused
from onnx_attribution.graph_tools.select.names import names_of, resolve

__all__ = ["ADDED", "CLASSES", "Head", "classes_told", "find_head", "flat", "origins_told", "widened"]

CLASSES, ADDED = "onnx_attribution.classes", "onnx_attribution.added"
"""What a widened file says of itself, in JSON: by tensor the names of its classes; where the new ones come from."""


def flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own."""
    return inliner.inline_local_functions(model) if model.functions else model


def classes_told(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """By tensor the names of classes that a widened file holds; nothing of what has no sense in it."""
    text = next((one.value for one in model.metadata_props if one.key == CLASSES), "{}")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    made = {z for node in model.graph.node for z in node.output}
    sizes = {z.name: dims_of(z) for z in model.graph.output}
    return {
        tensor: tuple(map(str, names))
        for tensor, names in told.items()
        if tensor in made and isinstance(names, list) and len(names) in (sizes.get(tensor) or (len(names),))
    }


def origins_told(model: onnx.ModelProto) -> tuple[str, ...]:
    """The digests of the files that this one was made of by adding classes, as it says itself."""
    text = next((one.value for one in model.metadata_props if one.key == ADDED), "[]")
    try:
        return tuple(str(one["source"]["sha256"]) for one in json.loads(text))
    except (ValueError, TypeError, KeyError):
        return ()


def find_head(
    model: onnx.ModelProto, name: str | None = None, shapes: Mapping[str, Dims] | None = None
) -> Head:
    """The head that a name of a node or tensor means; without a name the only one that there is. `shapes` are of
    tensors of which the file does not tell.

    Raises:
        ModelError: it is not linear in one tensor, or what reads its classes could not take more; the message names
            the node. NotFound, InvalidArgument: nothing, or several things, have the name.
    """
    file = FileGraph(flat(model), shapes)
    if name is not None:
        return _head(file, resolve(outline(file.model), name, names_of(model)))
    found, failed = list[Head](), list[AttributionError]()
    for node in reversed(file.model.graph.node):
        if node.op_type in (*PRODUCTS, "Concat") and of_onnx(node):
            try:
                found.append(_head(file, node.output[0]))
            except AttributionError as error:
                failed += [error] * (node.op_type in PRODUCTS)
    if len(found) == 1:
        return found[0]
    if found:
        raise refused(f"there are several heads: {', '.join(repr(one.node) for one in found)}; name one")
    why = f"; the last that could be one: {failed[0].message}" if failed else ""
    raise refused(
        "the file has no linear head, which is a Gemm, a MatMul or a 1x1 Conv with constant weights before its outputs"
        + why
    )


def widened(
    model: onnx.ModelProto,
    head: Head,
    names: Sequence[str],
    weight: NDArray[np.floating[Any]],
    bias: NDArray[np.floating[Any]],
    metadata: Mapping[str, str] | None = None,
    shapes: Mapping[str, Dims] | None = None,
) -> onnx.ModelProto:
    """The model with further classes behind its own: `weight` is `[classes, features]`, `bias` `[classes]`.

    What follows takes the wider axis: fixed sizes are mended, labels extended by the names, declared shapes widened.
    Nothing else changes; `metadata` is put beside what the file says of itself.

    Raises:
        ModelError: as `find_head`; or a name that is a label of the file already.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(flat(model))
    file = FileGraph(changed, shapes)
    graph = changed.graph
    place, last = next((k, one) for k, one in enumerate(graph.node) if head.logits in one.output)
    seen, added = file.free(f"{head.logits}/seen"), file.free(f"{head.logits}/added")
    nodes = _added_nodes(file, head, added, np.asarray(weight), np.asarray(bias))
    joined = file.free(f"{head.node}/classes")
    nodes.append(helper.make_node("Concat", [seen, added], [head.logits], name=joined, axis=head.axis))
    last.output[list(last.output).index(head.logits)] = seen
    for node in reversed(nodes):
        graph.node.insert(place + 1, node)
    _follow(changed, file, head, names, place + len(nodes))
    for key, value in (metadata or {}).items():
        known = next((one for one in changed.metadata_props if one.key == key), None)
        (known or changed.metadata_props.add(key=key)).value = value
    return changed


def _added_nodes(
    file: FileGraph, head: Head, output: str, weight: NDArray[Any], bias: NDArray[Any]
) -> list[onnx.NodeProto]:
    """The nodes of the new classes, whose weights are put into the graph."""
    base = f"{head.node}/added"

    def constant(kind: str, array: NDArray[Any]) -> str:
        name = file.free(f"{base}.{kind}")
        add_constant(file.model, name, np.ascontiguousarray(array, head.dtype))
        return name

    node, made = file.free(base), file.free(f"{output}/product") if head.tail else output
    if head.operator == "Gemm":
        given = [head.features, constant("weight", weight), constant("bias", bias)]
        nodes = [helper.make_node("Gemm", given, [made], name=node, transB=1)]
    elif head.operator == "Conv":
        kernel = weight.reshape(*weight.shape, *[1] * (head.rank - 2))
        given = [head.features, constant("weight", kernel), constant("bias", bias)]
        nodes = [helper.make_node("Conv", given, [made], name=node)]
    else:
        product = file.free(f"{output}/product")
        given = [head.features, constant("weight", weight.T)]
        nodes = [helper.make_node("MatMul", given, [product], name=node)]
        given = [product, constant("bias", bias)]
        nodes.append(helper.make_node("Add", given, [made], name=file.free(f"{base}.sum")))
    for k, name in enumerate(head.tail):  # a mean of all classes together could be summed in another order
        copy = onnx.NodeProto()
        copy.CopyFrom(file.makers[name])
        copy.name = file.free(f"{base}.{copy.op_type}")
        copy.input[0] = made
        made = output if k == len(head.tail) - 1 else file.free(f"{output}/tail")
        del copy.output[:]
        copy.output.append(made)
        nodes.append(copy)
    return nodes


# --- what a head is


def _head(file: FileGraph, tensor: str) -> Head:
    """The head that a tensor belongs to, once it is sure that it could have more classes.

    Raises:
        ModelError: it is none, or what reads it could not take more classes.
    """
    head = linear(file, tensor)
    if head.classes < 2:
        raise refused(
            f"the head {head.node!r} makes one number: there are no classes to which one could be added",
            head.node,
        )
    if any(size != 1 for axis, size in enumerate(head.dims) if axis not in (0, head.axis)):
        shape = [*map(str, head.dims)]
        raise refused(
            f"the head {head.node!r} scores every position of [{', '.join(shape)}], and what reads it takes no mean "
            "over them: it has no one logit for a class",
            head.node,
        )
    scratch = copied(file.model)
    place = next(k for k, one in enumerate(scratch.graph.node) if head.logits in one.output)
    return replace(head, scored=_follow(scratch, file, head, ["?"], place))


def _follow(
    model: onnx.ModelProto, file: FileGraph, head: Head, names: Sequence[str], place: int
) -> tuple[str, ...]:
    """Changes what reads the logits in a model, of nodes from this place on. Returns the outputs that hold a number for
    each class."""
    behind = Behind(model, file.shapes, file.constant, head.classes, names, place)
    return behind.follow(head.logits, head.axis, head.dims)
