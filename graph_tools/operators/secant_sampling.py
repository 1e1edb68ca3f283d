"""The secant of GridSample where its grid depends on the source."""

from __future__ import annotations

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import NodeView
from onnx_attribution.graph_tools.operators.sampling import at_pixels, mode_of
from onnx_attribution.graph_tools.operators.secant import parts
from onnx_attribution.graph_tools.operators.tricks import convert, declare, dimensions, rank_of

PIXELS = "ijk"


@parts("GridSample", when=lambda node: node.active[1] and mode_of(node) != "cubic")
def grid_sample(op: Emitter, node: NodeView) -> Value:
    """Per axis every pixel i has the weight max(0, 1 - |u - i|) at the coordinate u; products of these read the image.

    Letters: `b` images of `c` channels, `q` places in each, pixels `i`, `j`, `k` along the axes.
    """
    x, grid = node.input(0), node.input(1)
    axes = rank_of(x) - 2
    sizes_of_places = dimensions(grid)[1:-1]  # equal names are equal sizes to onnxruntime
    places = "?" if "?" in sizes_of_places else "*".join(map(str, sizes_of_places))
    columns = declare(op("Reshape", grid, op.ints([0, -1, axes])), [dimensions(x)[0], places, axes])
    read, letters = x, "bc" + PIXELS[:axes]
    for axis in range(axes):
        at, edge, _ = at_pixels(op, node, columns, axis)
        if mode_of(node) == "nearest":
            at = op("Round", at)
        if edge.padding == "reflection":
            at = edge.mapped(op, at)[0]
        if edge.padding != "zeros":
            at = edge.clamped(op, at)
        size = dimensions(x)[2 + axis]
        stop = op("Reshape", op.dims(x, 2 + axis, 3 + axis), op.ints([]))
        pixel = op("Range", op.constant(np.int64(0)), stop, op.constant(np.int64(1)))
        numbers = convert(op, declare(pixel, [size]), grid)
        apart = op("Unsqueeze", declare(at, [dimensions(x)[0], places]), op.ints([2]))
        distance = op("Abs", declare(op("Sub", apart, numbers), [dimensions(x)[0], places, size]))
        weight = convert(op, op("Relu", op("Sub", op.like(distance, 1), distance)), x)
        left = "bqc" + PIXELS[axis + 1 : axes]
        sizes = dict(zip("bcijk", dimensions(x), strict=False)) | {"q": places}
        read = op("Einsum", weight, read, equation=f"bq{PIXELS[axis]},{letters}->{left}")
        read, letters = declare(read, [sizes[c] for c in left]), left
    turned = declare(op("Transpose", read, perm=[0, 2, 1]), [*dimensions(x)[:2], places])
    return op.reshape_like(turned, node.z)
