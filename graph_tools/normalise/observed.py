"""The sizes of all tensors as runs show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, made_in, opset_of, placed_graphs
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.ir.shapes import (
    APART,
    dims_of,
    growths,
    sizes_of,
)
from onnx_attribution.graph_tools.normalise.declarations import drop_shape
from onnx_attribution.values import Array

Place = tuple[str, str]  # the place of a graph, and a name in it


WIDTH = 12  # numbers that hold a shape and its rank


SLICED_BY_INPUTS = 10  # the opset from which on Slice reads numbers


@dataclass(frozen=True)
class Seen:
    """One run: the size of each symbol (None where the inputs disagree), and by place and name what was seen."""

    sizes: Mapping[str, int | None]
    shapes: Mapping[Place, Sequence[tuple[int, ...]]]
    types: Mapping[Place, np.dtype[Any]]


def runs_at_sizes(model: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]) -> Iterator[Seen | None]:
    """The sample, and samples of other sizes: all symbols grown together, or where that does not run each alone."""
    yield seen_in(model, run, sample)
    for larger, enough in growths(model, sample):
        found = seen_in(model, run, larger)
        yield found
        if found is not None and enough:
            break
    if any(node.op_type == "If" for _, graph in placed_graphs(model.graph, "") for node in graph.node):
        for switched in _switched(sample):
            found = seen_in(model, run, switched)
            yield found
            if found is None:
                yield from (seen_in(model, run, other) for other in _halved(model, switched))


def _switched(sample: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The sample with one of the numbers and truth values changed that may choose a branch."""
    switches = [name for name, array in sample.items() if array.size == 1 and array.dtype.kind in "biu"]
    for name in switches[:APART]:
        array = sample[name]
        other = np.logical_not(array) if array.dtype.kind == "b" else np.add(array, 1)
        yield {**sample, name: other.astype(array.dtype).reshape(array.shape)}


def _halved(model: onnx.ModelProto, sample: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The sample with one symbol of its inputs at half its size: what another branch may take, as of half the rate."""
    sizes = {name: size for name, size in sizes_of(model, sample).items() if size and size > 1}
    yield from (cut_to(model, sample, name, size // 2) for name, size in list(sizes.items())[:APART])


def cut_to(model: onnx.ModelProto, sample: Mapping[str, Array], symbol: str, size: int) -> dict[str, Array]:
    """The sample with the first of what lies along the input dimensions of this name."""
    smaller = dict(sample)
    for value in model.graph.input:
        for axis, dim in enumerate(dims_of(value) or ()):
            if dim == symbol:
                smaller[value.name] = np.take(smaller[value.name], range(size), axis=axis)
    return smaller


def seen_in(model: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]) -> Seen | None:
    """What a run shows; None where the model does not run on the sample."""
    probe = copied(model)
    opset = opset_of(model)
    unknown = _untyped(probe.graph)  # nobody knows what it is: it is looked at whole
    watched = _watch(probe.graph, "", opset)
    typed_only = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in probe.graph.output]
    for value in typed_only:  # the runtime asks for types of operators that it does not infer
        drop_shape(value.type)
    del probe.graph.output[:], probe.graph.value_info[:]
    probe.graph.value_info.extend(v for v in typed_only if v.name not in unknown)
    probe.graph.output.extend(onnx.ValueInfoProto(name=z) for z in (*watched.values(), *unknown))
    try:
        found = run(probe, dict(sample), [z.name for z in probe.graph.output], as_written=True)
    except ModelError:
        return None
    whole = {("", n): found[n] for n in unknown if isinstance(found[n], np.ndarray)}
    shapes = {key: _decoded(found[z]) for key, z in watched.items()}
    return Seen(
        _all_sizes(model.graph, sizes_of(model, sample), shapes),
        {**shapes, **{key: [a.shape] for key, a in whole.items()}},
        {key: a.dtype for key, a in whole.items()},
    )


def _all_sizes(
    graph: onnx.GraphProto, sizes: Mapping[str, int | None], shapes: Mapping[Place, Sequence[tuple[int, ...]]]
) -> dict[str, int | None]:
    """The sizes of the symbols of the inputs, and of those that inference makes up."""
    found = dict(sizes)
    for value in (*graph.value_info, *graph.output):
        for shape in shapes.get(("", value.name), ()):
            for dim, size in zip(dims_of(value) or (), shape, strict=False):
                if isinstance(dim, str) and dim not in sizes:
                    found[dim] = size if found.get(dim, size) == size else None
    return found


def _decoded(rows: Array) -> list[tuple[int, ...]]:
    """The shapes that a watched value says, each once."""
    found = [tuple(row[1 : 1 + row[0]]) for row in rows.reshape(-1, WIDTH).tolist() if row[0] >= 0]
    return list(dict.fromkeys(found))


def _untyped(graph: onnx.GraphProto) -> list[str]:
    kinds = {v.name: v.type for v in (*graph.value_info, *graph.output)}
    return [z for z in made_in(graph) if z not in kinds or not _is_known(kinds[z])]


def _is_known(kind: onnx.TypeProto) -> bool:
    held = kind.WhichOneof("value")
    return held is not None and (held != "tensor_type" or bool(kind.tensor_type.elem_type))


def _watch(graph: onnx.GraphProto, place: str, opset: int) -> dict[Place, str]:
    """Adds, in place, values that hold the shapes of all tensors, those of bodies included; their names by tensor.

    Such a value is as long as all others, so that a Loop can stack it: the rank, the sizes, and -1 for the rest.
    """
    infos = (*graph.value_info, *graph.output, *(graph.input if place else ()))
    tensors = [v.name for v in infos if v.type.HasField("tensor_type") and v.type.tensor_type.elem_type]
    prefix = f"shapes{place}"
    watched: dict[Place, str] = {}
    for index, node in enumerate(graph.node):
        watched |= _watch_inside(node, f"{place}/{index}", opset)
    made = {*made_in(graph), *(x.name for x in graph.input if place)}
    numbers = {"rest": [-1] * WIDTH, "begin": [0], "end": [WIDTH]}
    rest, *ends = [_constant(graph, f"{prefix}:{word}", values) for word, values in numbers.items()]
    for number, name in enumerate(dict.fromkeys(tensors)):
        if name not in made:
            continue
        names = [f"{prefix}:{number}.{k}" for k in range(4)]
        graph.node.add().CopyFrom(helper.make_node("Shape", [name], [names[0]]))
        graph.node.add().CopyFrom(helper.make_node("Shape", [names[0]], [names[1]]))
        graph.node.add().CopyFrom(helper.make_node("Concat", [names[1], names[0], rest], [names[2]], axis=0))
        if opset < SLICED_BY_INPUTS:
            cut = helper.make_node("Slice", [names[2]], [names[3]], starts=[0], ends=[WIDTH])
        else:
            cut = helper.make_node("Slice", [names[2], *ends], [names[3]])
        graph.node.add().CopyFrom(cut)
        watched[place, name] = names[3]
    return watched


def _watch_inside(node: onnx.NodeProto, place: str, opset: int) -> dict[Place, str]:
    """Adds, in place, outputs to a node that hold the shapes of the tensors of its graphs."""
    if node.op_type not in ("If", "Loop", "Scan"):
        return {}
    bodies = list(inner_graphs(node))
    inside = [_watch(body, f"{place}.{k}", opset) for k, body in enumerate(bodies)]
    for k, body in enumerate(bodies):
        for j, held in enumerate(inside):
            for z in held.values():
                name = z if k == j else _constant(body, f"{z}/none", [-1] * WIDTH)
                body.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    for attribute in node.attribute:
        if attribute.name in ("scan_output_axes", "scan_output_directions"):
            attribute.ints.extend([0] * sum(map(len, inside)))
    outputs = {key: f"{z}/out" for held in inside for key, z in held.items()}
    node.output.extend(outputs.values())
    return outputs


def _constant(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    tensor = numpy_helper.from_array(np.asarray(values, np.int64), name)
    graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
    return name
