"""Programs of the checks: a model with its backward pass, with as much known of its shapes as is asked for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, is_float, is_half
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.testing.kinds import FLOATS, Array, Arrays, elem_type
from onnx_attribution.graph_tools.walk.differentiate import Rules, differentiate


def gradient_model(
    model: onnx.ModelProto, wrt: Sequence[str], rules: RuleTable = VJP
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with its backward pass and the name of each gradient; no name where it is zero for every v.

    The cotangent of output `z` is the input `v/z`.
    """
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(copy.deepcopy(model), data_prop=True))
    op = Emitter(graph)
    seeds: dict[str, gs.Tensor] = {}
    for z in graph.outputs:
        if isinstance(z, gs.Variable) and is_float(z):
            seeds[z.name] = gs.Variable(f"v/{z.name}", dtype=z.dtype, shape=z.shape)
    graph.inputs.extend(seeds.values())
    found: dict[str, gs.Tensor] = {}
    try:
        found = differentiate(op, seeds, wrt, Rules(rules))
    except NotDifferentiable as error:
        if error.reason != Reason.ZERO_DERIVATIVE or len(wrt) > 1:
            raise
    graph.outputs = [op("Identity", value) for value in found.values()]
    names = {name: out.name for name, out in zip(found, graph.outputs, strict=True)}
    for name, out in zip(found, graph.outputs, strict=True):
        x = graph.tensors()[name]
        out.dtype = np.dtype(np.float32) if is_half(x) else x.dtype
    graph.cleanup(remove_unused_graph_inputs=True, recurse_subgraphs=False).toposort()
    exported = gs.export_onnx(graph)
    exported.ir_version = 10
    return exported, names


def in_form(model: onnx.ModelProto, form: str, inputs: Arrays, wrt: Sequence[str]) -> onnx.ModelProto:
    """The model with as much known of it as the form says; kernels, axes, sizes and the like have a known length."""
    result = copy.deepcopy(model)
    graph = result.graph
    kernels = {n for node in graph.node if node.op_type in ("Conv", "ConvTranspose") for n in node.input[1:]}
    if form != "free":
        held = {x.name for x in graph.initializer}
        for info in list(graph.input):
            if info.name not in wrt and info.type.HasField("tensor_type"):
                graph.input.remove(info)
                if info.name not in held:
                    graph.initializer.append(
                        onnx.numpy_helper.from_array(np.asarray(inputs[info.name]), info.name)
                    )
    for info in graph.input:
        dims = info.type.tensor_type.shape.dim
        if info.name in kernels or (len(dims) == 1 and elem_type(info) not in FLOATS):
            continue
        for axis, dim in enumerate(dims):
            if form == "free" or (form == "batch" and axis == 0):
                dim.dim_param = f"{info.name}_{axis}"
    if form != "fixed":
        del graph.value_info[:]
        for info in graph.output:
            for dim in info.type.tensor_type.shape.dim:
                dim.Clear()
    return result


_NUMPY: dict[int, Any] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.FLOAT16: np.float16,
}


def fed(model: onnx.ModelProto, feeds: Arrays) -> dict[str, Array]:
    """Those of the arrays that are inputs of the model, in the types that it declares."""
    kinds = {x.name: elem_type(x) for x in model.graph.input}
    return {n: np.asarray(v).astype(_NUMPY.get(kinds[n], v.dtype)) for n, v in feeds.items() if n in kinds}
