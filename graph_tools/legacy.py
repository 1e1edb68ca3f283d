"""Rewrites of operators that the standard has dropped, or that its version converter gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

Rewrite = Callable[[NodeProto], list[NodeProto]]


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _constant(name: str, value: Any) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value), name))


def _affine(node: NodeProto) -> list[NodeProto]:
    """z = alpha x + beta."""
    given, out = _attributes(node), node.output[0]
    alpha, beta, scaled = f"{out}/alpha", f"{out}/beta", f"{out}/scaled"
    return [
        _constant(alpha, np.float32(given.get("alpha", 1.0))),
        _constant(beta, np.float32(given.get("beta", 0.0))),
        helper.make_node("Mul", [node.input[0], alpha], [scaled], f"{node.name}/scale"),
        helper.make_node("Add", [scaled, beta], [out], node.name),
    ]


def _image_scaler(node: NodeProto) -> list[NodeProto]:
    """z = scale x + bias, with a bias per channel of `[N, C, H, W]`."""
    given, out = _attributes(node), node.output[0]
    bias = np.asarray(given.get("bias", [0.0]), dtype=np.float32).reshape(1, -1, 1, 1)
    scale, shift, scaled = f"{out}/scale", f"{out}/bias", f"{out}/scaled"
    return [
        _constant(scale, np.float32(given.get("scale", 1.0))),
        _constant(shift, bias),
        helper.make_node("Mul", [node.input[0], scale], [scaled], f"{node.name}/scale"),
        helper.make_node("Add", [scaled, shift], [out], node.name),
    ]


def _crop(node: NodeProto) -> list[NodeProto]:
    """`border` is left, top, right, bottom; `scale`, where given, is the height and width that stay."""
    given, out = _attributes(node), node.output[0]
    left, top, right, bottom = (int(v) for v in given["border"])
    size = given.get("scale")
    ends = [top + int(size[0]), left + int(size[1])] if size else [-bottom or 2**62, -right or 2**62]
    names = [f"{out}/starts", f"{out}/ends", f"{out}/axes"]
    return [
        _constant(names[0], np.asarray([top, left], np.int64)),
        _constant(names[1], np.asarray(ends, np.int64)),
        _constant(names[2], np.asarray([2, 3], np.int64)),
        helper.make_node("Slice", [node.input[0], *names], [out], node.name),
    ]


def _batched_scan(node: NodeProto) -> list[NodeProto]:
    """Scan before opset 9 runs over each sample of a batch on its own: a Scan over the batch of a Scan over time."""
    given, label = _attributes(node), node.output[0]
    body, moving = given["body"], int(given["num_scan_inputs"])
    states = len(node.input) - 1 - moving
    names = [f"{label}/in_{k}" for k in range(len(node.input) - 1)]
    made = [f"{label}/out_{k}" for k in range(len(node.output))]
    over_time = helper.make_node(
        "Scan", names, made, f"{node.name}/time", body=body, num_scan_inputs=moving,
        scan_input_directions=given.get("directions", [0] * moving),
    )  # fmt: skip

    def infos(names: list[str], likes: Any) -> list[onnx.ValueInfoProto]:
        """Values like those of the body; beyond the states with a time axis before the others."""
        found = []
        for k, (name, like) in enumerate(zip(names, likes, strict=True)):
            kind = like.type.tensor_type
            dims = [d.dim_value or d.dim_param or None for d in kind.shape.dim]
            shape = [None, *dims] if k >= states else dims
            found.append(helper.make_tensor_value_info(name, kind.elem_type, shape))
        return found

    graph = helper.make_graph(
        [over_time], f"{label}/sample", infos(names, body.input), infos(made, body.output)
    )
    return [
        helper.make_node(
            "Scan", node.input[1:], node.output, node.name, body=graph, num_scan_inputs=states + moving
        )
    ]


OLD_SCAN = 9  # since then Scan has no batch of its own, nor lengths
DROPPED: dict[str, Rewrite] = {"Affine": _affine, "ImageScaler": _image_scaler, "Crop": _crop}


def rewrite_dropped(model: onnx.ModelProto) -> None:
    """Replaces, in place, operators that onnxruntime still runs from early opsets by standard ones (opset 10 on)."""
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
    rewrites = [_rewrite_of(node, opset) for node in model.graph.node]
    if not any(rewrites):
        return
    nodes: list[NodeProto] = []
    for node, rewrite in zip(model.graph.node, rewrites, strict=True):
        nodes += rewrite(node) if rewrite else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, 10)


def _rewrite_of(node: NodeProto, opset: int) -> Rewrite | None:
    if node.op_type == "Scan" and opset < OLD_SCAN and not node.input[0]:
        return _batched_scan
    return DROPPED.get(node.op_type)


def resizes_of(model: onnx.ModelProto, opset: int) -> list[tuple[str, bool]]:
    """For each resampling node in order its output, and whether the converter changes it: Upsample always, Resize
    before opset 11."""
    return [
        (node.output[0], node.op_type == "Upsample" or opset < 11)
        for node in model.graph.node
        if node.op_type in ("Upsample", "Resize")
    ]


def restore_resizes(model: onnx.ModelProto, resizes: list[tuple[str, bool]]) -> None:
    """Gives converted resizes, in place, the sampling (asymmetric, rounding down) and the names they had."""
    renamed: dict[str, str] = {}
    found = [node for node in model.graph.node if node.op_type == "Resize"]
    for node, (output, changed) in zip(found, resizes, strict=True):
        if not changed:
            continue
        if node.output[0] != output:
            renamed[node.output[0]] = output
        kept = [a for a in node.attribute if a.name not in ("coordinate_transformation_mode", "nearest_mode")]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in renamed:
                    names[index] = renamed[name]
