"""What a file declares of sizes: the names that it gives them, and what of it is forgotten or false."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from onnx_attribution.graph_tools.ir.nodes import inner_graphs, placed_graphs
from onnx_attribution.graph_tools.ir.shapes import (
    Dim,
    Dims,
    dims_of,
    set_dims,
)

PLACEHOLDERS = frozenset({"", "?", "*", "-", "-1", "any", "dyn", "dynamic", "none", "null", "unk", "unknown"})
"""What exporters call every size that they do not know."""


OWN = 2  # inputs of the body of a Loop that the Loop makes itself, in the form that the body declares
LISTED = 3  # false declarations that a note names


def name_dims(model: onnx.ModelProto, *, labels: bool = True) -> None:
    """Names, in place, the input dimensions that the file leaves open: those without a name or a size of 1 at least.

    Names that say nothing count as none; without `labels` all do.
    """
    for value in model.graph.input:
        dims = dims_of(value)
        if dims is not None:
            set_dims(
                value, [d if _says_something(d, labels) else f"{value.name}.{k}" for k, d in enumerate(dims)]
            )


def _says_something(dim: Dim, labels: bool) -> bool:
    if isinstance(dim, int):
        return dim >= 1
    return labels and dim is not None and dim.strip().lower() not in PLACEHOLDERS


def repeated_labels(model: onnx.ModelProto) -> set[str]:
    """The names that several dimensions of the inputs have."""
    named = [d for value in model.graph.input for d in dims_of(value) or () if isinstance(d, str)]
    return {d for d in named if named.count(d) > 1}


def forget(model: onnx.ModelProto) -> None:
    """Drops, in place, every shape but those of the inputs, and every type that is not an output's or a body's own."""
    _forget(model.graph)
    for value in model.graph.output:
        drop_shape(value.type)
    for function in model.functions:
        del function.value_info[:]
        for node in function.node:
            _forget_inside(node)


def believe_scans(model: onnx.ModelProto, ranks: Mapping[str, int]) -> None:
    """Declares, in place, the ranks of what bodies of Scan give out: onnxruntime asks for them."""
    for _, graph in placed_graphs(model.graph, ""):
        for node in graph.node:
            for body in inner_graphs(node) if node.op_type == "Scan" else ():
                for value in body.output:
                    if value.type.HasField("tensor_type") and dims_of(value) is None and value.name in ranks:
                        set_dims(value, [None] * ranks[value.name])


def _forget(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for node in graph.node:
        _forget_inside(node)


def _forget_inside(node: onnx.NodeProto) -> None:
    if node.op_type not in ("If", "Loop", "Scan", "SequenceMap"):
        return  # a search reads from its decoder's declarations how it has to be fed
    for graph in inner_graphs(node):
        _forget(graph)
        own = OWN if node.op_type == "Loop" else 0
        for value in (*graph.input[own:], *graph.output):
            drop_shape(value.type)
        for value in graph.input[:own]:
            if dims_of(value) is None:
                set_dims(value, [])


def drop_shape(kind: onnx.TypeProto) -> None:
    held = kind.WhichOneof("value")
    if held in ("tensor_type", "sparse_tensor_type"):
        getattr(kind, held).ClearField("shape")
    elif held in ("sequence_type", "optional_type"):
        drop_shape(getattr(kind, held).elem_type)


def contradicted(model: onnx.ModelProto, settled: onnx.ModelProto) -> str:
    """In words, the declarations of a file that are false; "" where there are none."""
    found = {v.name: dims_of(v) for v in [*settled.graph.value_info, *settled.graph.output]}
    symbols = {d for x in settled.graph.input for d in dims_of(x) or () if isinstance(d, str)}
    told = [*model.graph.value_info, *model.graph.output]
    false = [
        f"{v.name!r} is declared {_shown(said)} and is {_shown(real, symbols)}"
        for v in told
        if (said := dims_of(v)) is not None
        and (real := found.get(v.name)) is not None
        and _differ(said, real, symbols)
    ]
    if not false:
        return ""
    more = f", and {len(false) - LISTED} more" if len(false) > LISTED else ""
    return f"the file declares shapes that are false; they are not used: {', '.join(false[:LISTED])}{more}"


def _differ(said: Dims, real: Dims, symbols: Collection[str]) -> bool:
    """Whether a declared shape is another one; names are labels, and sizes below 1 say nothing.

    What is found is known where it is a number or a symbol of the inputs.
    """
    if len(said) != len(real):
        return True
    return any(
        isinstance(a, int) and a >= 1 and a != b and (isinstance(b, int) or b in symbols)
        for a, b in zip(said, real, strict=True)
    )


def _shown(dims: Dims, symbols: Collection[str] | None = None) -> str:
    known = [isinstance(d, int) or (d is not None and (symbols is None or d in symbols)) for d in dims]
    return f"[{', '.join(str(d) if told else '?' for d, told in zip(dims, known, strict=True))}]"
