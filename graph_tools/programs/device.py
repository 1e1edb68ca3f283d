"""Writes programs for a CUDA device: what has no kernel there in a form that has one, so that nothing is copied out.

On the CPU the forms of the file stay, since onnxruntime fuses and runs them well there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.graph_tools.ir.edit import copied, set_nodes
from onnx_attribution.graph_tools.ir.emit import COPIED
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, nodes_in
from onnx_attribution.graph_tools.ir.weights import weights_of
from onnx_attribution.graph_tools.operators.contrib import CONVOLUTION, SIMPLE

Constants: TypeAlias = Mapping[str, onnx.TensorProto]
_WITH_PARAMETERS = {
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Selu": ("alpha", "gamma"),
    "ThresholdedRelu": ("alpha",),
}
_GEMM = ("alpha", "beta", "transA", "transB")


def for_device(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with kernels on the device; itself where it has them already."""
    if not any(node.op_type in _FORMS for node in nodes_in(model.graph)):
        return model
    changed = copied(model)
    held = weights_of(changed.graph.initializer)
    _rewrite(changed.graph, {t.name: t for t in changed.graph.initializer if t.name not in held})
    return changed


def _rewrite(graph: onnx.GraphProto, constants: Constants) -> None:
    """Puts, in place, other nodes for those without a kernel, in inner graphs too."""
    constants = {**constants, **{t.name: t for t in graph.initializer if t.name not in constants}}
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        for inner in inner_graphs(node):
            shadowed = {x.name for x in inner.input}
            _rewrite(inner, {name: t for name, t in constants.items() if name not in shadowed})
        form = _FORMS.get(node.op_type)
        written += (form and form(node, constants)) or [node]
    set_nodes(graph, written)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _dequantised(node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
    """Biases of quantised files, int32, as the floats that they stand for."""
    x, scale, *zero = (constants.get(name) for name in node.input if name)
    if x is None or scale is None or (zero and zero[0] is None):
        return None
    if x.data_type != TensorProto.INT32 or np.prod(x.dims, dtype=np.int64) > COPIED:
        return None
    numbers, factors = numpy_helper.to_array(x), numpy_helper.to_array(scale)
    shift = numpy_helper.to_array(zero[0]) if zero and zero[0] is not None else np.zeros((), np.int32)
    attributes = _attributes(node)
    if attributes.get("block_size"):
        return None
    if factors.size > 1:
        wide = [-1 if k == attributes.get("axis", 1) % numbers.ndim else 1 for k in range(numbers.ndim)]
        factors, shift = factors.reshape(wide), shift.reshape(wide) if shift.size > 1 else shift
    else:
        factors, shift = factors.reshape(()), shift.reshape(())
    values = ((numbers - shift).astype(factors.dtype) * factors).reshape(numbers.shape)
    return [helper.make_node("Constant", [], node.output, node.name, value=numpy_helper.from_array(values))]


def _unfused(
    operator: str, kept: Sequence[str]
) -> Callable[[onnx.NodeProto, Constants], list[onnx.NodeProto] | None]:
    """Splits what onnxruntime fused on the CPU: the operator, what is added to it, and its activation."""

    def split(node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
        given = _attributes(node)
        kind = given.get("activation", b"").decode()
        listed = dict(zip(("alpha", "beta"), given.get("activation_params", []), strict=False))
        named = {
            n: given[f"activation_{n}"] for n in ("alpha", "beta", "gamma") if f"activation_{n}" in given
        }
        if kind and kind not in SIMPLE and kind not in _WITH_PARAMETERS:
            return None
        inputs, place = list(node.input), f"{node.output[0]}/{operator}"
        added = inputs.pop() if operator == "Conv" and len(inputs) == 4 else ""
        made = [helper.make_node(operator, inputs, [place], node.name)]
        made[0].attribute.extend(a for a in node.attribute if a.name in kept)
        if added:
            made.append(helper.make_node("Add", [place, added], [f"{place}/Add"], f"{node.name}/Add"))
        if kind:
            last = made[-1].output[0]
            made.append(helper.make_node(kind, [last], [""], f"{node.name}/{kind}"))
            parameters = {n: v for n, v in {**listed, **named}.items() if n in _WITH_PARAMETERS.get(kind, ())}
            made[-1].attribute.extend(helper.make_attribute(n, v) for n, v in parameters.items())
        made[-1].output[0] = node.output[0]
        return made

    return split


def _even_pads(node: onnx.NodeProto, constants: Constants) -> list[onnx.NodeProto] | None:
    """A transposed convolution whose pads are the same at both ends.

    Where fewer are cut at the end than at the beginning, the difference is added there, if it is less than a step;
    all other differences are cut off after.
    """
    given = _attributes(node)
    pads = list(given.get("pads", ()))
    rank = len(pads) // 2
    if pads[:rank] == pads[rank:] or given.get("output_shape"):
        return None
    strides, added = given.get("strides") or [1] * rank, list(given.get("output_padding") or [0] * rank)
    even, starts, ends = pads[:rank], [0] * rank, [0] * rank
    for k, (begin, end, stride) in enumerate(zip(pads[:rank], pads[rank:], strides, strict=True)):
        more = added[k] + begin - end
        if more < 0:
            added[k], ends[k] = 0, more
        elif more < stride:
            added[k] = more
        else:
            even[k], starts[k] = end, begin - end
    whole = onnx.NodeProto()
    whole.CopyFrom(node)
    kept = [a for a in node.attribute if a.name not in ("pads", "output_padding")]
    del whole.attribute[:]
    whole.attribute.extend(kept)
    whole.attribute.append(helper.make_attribute("pads", [*even, *even]))
    whole.attribute.append(helper.make_attribute("output_padding", added))
    axes = [k for k in range(rank) if starts[k] or ends[k]]
    if not axes:
        return [whole]
    whole.output[0] = f"{node.output[0]}/whole"
    made = [whole]
    far = [ends[k] or 2**62 for k in axes]
    for word, numbers in (
        ("begin", [starts[k] for k in axes]),
        ("end", far),
        ("axes", [k + 2 for k in axes]),
    ):
        values = numpy_helper.from_array(np.asarray(numbers, np.int64))
        place = f"{node.output[0]}/{word}"
        made.append(helper.make_node("Constant", [], [place], f"{node.name}/{word}", value=values))
    cut = [one.output[0] for one in made]
    return [*made, helper.make_node("Slice", cut, node.output, f"{node.name}/Slice")]


_FORMS: Mapping[str, Callable[[onnx.NodeProto, Constants], list[onnx.NodeProto] | None]] = {
    "ConvTranspose": _even_pads,
    "DequantizeLinear": _dequantised,
    "FusedConv": _unfused("Conv", CONVOLUTION),
    "FusedGemm": _unfused("Gemm", _GEMM),
}
