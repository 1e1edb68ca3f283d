"""Sizes that follow from counts: what a Reshape makes has as many elements as what it reads, whatever the batch is."""

from __future__ import annotations

import math
from collections import Counter

import onnx

from onnx_attribution.graph_tools.ir.shapes import Dim, Dims, dims_of, set_dims


def counted(model: onnx.ModelProto) -> bool:
    """Declares, in place, the sizes that counts of elements decide; False if there are none.

    The names are those of inference: one that is not an input's stands for the same size wherever it is.
    """
    graph = model.graph
    values = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}
    shapes = {name: dims_of(v) for name, v in values.items()}
    shapes |= {t.name: tuple(t.dims) for t in graph.initializer}
    given = {d for x in graph.input for d in dims_of(x) or ()}
    meant: dict[str, Dim] = {}
    told = False
    for node in graph.node:
        if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx"):
            continue
        x, z = shapes.get(node.input[0]), shapes.get(node.output[0])
        if x is None or z is None or None in x:
            continue
        unknown = [k for k, d in enumerate(z) if d is None or (isinstance(d, str) and d not in x)]
        size = _left(x, [d for k, d in enumerate(z) if k not in unknown]) if len(unknown) == 1 else None
        if size is None:
            continue
        told = True
        name = z[unknown[0]]
        if isinstance(name, str) and name not in given:
            meant[name] = size
        else:
            set_dims(values[node.output[0]], [size if k in unknown else d for k, d in enumerate(z)])
    for value in (*graph.value_info, *graph.output) if meant else ():
        dims = dims_of(value)
        if dims is not None and any(d in meant for d in dims):
            set_dims(value, [meant.get(d, d) if isinstance(d, str) else d for d in dims])
    return told


def _left(whole: Dims, others: list[Dim]) -> Dim:
    """What is left of the elements of a tensor for one more axis: a number or a symbol, None where it is neither."""
    symbols = Counter(d for d in whole if isinstance(d, str))
    symbols.subtract(d for d in others if isinstance(d, str))
    above, below = (math.prod(d for d in dims if isinstance(d, int)) for dims in (whole, others))
    if not above or not below or above % below or any(n < 0 for n in symbols.values()):
        return None
    rest = list(symbols.elements())
    if not rest:
        return above // below
    return rest[0] if len(rest) == 1 and above == below else None
