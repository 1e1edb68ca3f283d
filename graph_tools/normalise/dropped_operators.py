"""Rewrites of operators that the standard has dropped, or that its version converter gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnx_attribution.graph_tools.ir.edit import set_nodes
from onnx_attribution.graph_tools.ir.nodes import opset_of

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
            shape = None if not kind.HasField("shape") else [None, *dims] if k >= states else dims
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


def _crop_of_old(node: NodeProto) -> list[NodeProto]:
    """`_crop` where Slice has its numbers as attributes."""
    *numbers, cut = _crop(node)
    starts, ends, axes = (numpy_helper.to_array(c.attribute[0].t).tolist() for c in numbers)
    return [
        helper.make_node("Slice", cut.input[:1], cut.output, cut.name, starts=starts, ends=ends, axes=axes)
    ]


def _norm_of_elements(node: NodeProto) -> list[NodeProto]:
    """BatchNormalization with statistics of each element: z = (x - mean) / sqrt(var + epsilon) scale + bias."""
    out, epsilon = node.output[0], _attributes(node).get("epsilon", 1e-5)
    x, scale, bias, mean, var = node.input
    names = [f"{out}/{word}" for word in ("epsilon", "shifted", "root", "centred", "hat", "scaled")]
    small, shifted, root, centred, hat, scaled = names
    return [
        _constant(small, np.float32(epsilon)),
        helper.make_node("Add", [var, small], [shifted], shifted),
        helper.make_node("Sqrt", [shifted], [root], root),
        helper.make_node("Sub", [x, mean], [centred], centred),
        helper.make_node("Div", [centred, root], [hat], hat),
        helper.make_node("Mul", [hat, scale], [scaled], scaled),
        helper.make_node("Add", [scaled, bias], [out], node.name),
    ]


def _mean_variance(node: NodeProto) -> list[NodeProto]:
    """MeanVarianceNormalization before opset 9, of `[N, C, H, W]`: less the mean, over the deviation."""
    given, out, x = _attributes(node), node.output[0], node.input[0]
    axes = [0, 1, 2, 3] if given.get("across_channels", 0) else [0, 2, 3]
    names = [f"{out}/{word}" for word in ("mean", "centred", "square", "var", "root")]
    mean, centred, square, var, root = names
    nodes = [helper.make_node("ReduceMean", [x], [mean], mean, axes=axes, keepdims=1)]
    if not given.get("normalize_variance", 1):
        return [*nodes, helper.make_node("Sub", [x, mean], [out], node.name)]
    return [
        *nodes,
        helper.make_node("Sub", [x, mean], [centred], centred),
        helper.make_node("Mul", [centred, centred], [square], square),
        helper.make_node("ReduceMean", [square], [var], var, axes=axes, keepdims=1),
        helper.make_node("Sqrt", [var], [root], root),
        helper.make_node("Div", [centred, root], [out], node.name),
    ]


def _raise_for_scan(model: onnx.ModelProto) -> None:
    """Brings, in place, a model of opset 8 to 9, which Scan needs: an Upsample reads its scales from then on."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Upsample":
            scales = f"{node.output[0]}/scales"
            nodes.append(_constant(scales, np.asarray(_attributes(node)["scales"], np.float32)))
            node.input.append(scales)
        if node.op_type in ("BatchNormalization", "Upsample"):
            kept = [a for a in node.attribute if a.name not in ("scales", "spatial")]
            del node.attribute[:]
            node.attribute.extend(kept)
        nodes.append(node)
    set_nodes(model.graph, nodes)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = OLD_SCAN


def _batch_statistics(node: NodeProto, opset: int) -> list[NodeProto]:
    """BatchNormalization in training by its definition; onnxruntime's own changes with every run."""
    given, out = _attributes(node), node.output[0]
    x, scale, bias, mean_before, var_before = node.input
    names = ("shape", "flat", "mean", "centred", "square", "var", "shifted", "root", "hat", "scaled", "moved")
    shape, flat, mean, centred, square, var, shifted, root, hat, scaled, moved = (f"{out}/{n}" for n in names)
    sizes, epsilon, column, axes = (f"{out}/{n}" for n in ("sizes", "epsilon", "column", "axes"))
    over: dict[str, Any] = {"axes": [0, 2]} if opset < AXES_AS_INPUT else {}
    more = [] if over else [axes]

    def made(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        if operator == "CastLike" and opset < CAST_LIKE:  # in those days all had one type
            operator, inputs = "Identity", inputs[:1]
        return helper.make_node(operator, inputs, [output], output, **attributes)

    nodes = [
        made("Shape", [x], shape),
        _constant(sizes, np.asarray([0, 0, -1], np.int64)),
        _constant(column, np.asarray([1, -1, 1], np.int64)),
        _constant(axes, np.asarray([0, 2], np.int64)),
        made("Reshape", [x, sizes], flat),
        made("ReduceMean", [flat, *more], mean, keepdims=1, **over),
        made("Sub", [flat, mean], centred),
        made("Mul", [centred, centred], square),
        made("ReduceMean", [square, *more], var, keepdims=1, **over),
        _constant(f"{epsilon}/float", np.float32(given.get("epsilon", 1e-5))),
        made("CastLike", [f"{epsilon}/float", x], epsilon),
        made("Add", [var, epsilon], shifted),
        made("Sqrt", [shifted], root),
        made("Div", [centred, root], hat),
        made("Reshape", [scale, column], f"{out}/scale"),
        made("Reshape", [bias, column], f"{out}/bias"),
        made("CastLike", [f"{out}/scale", x], f"{out}/scale/like"),
        made("CastLike", [f"{out}/bias", x], f"{out}/bias/like"),
        made("Mul", [hat, f"{out}/scale/like"], scaled),
        made("Add", [scaled, f"{out}/bias/like"], moved),
        helper.make_node("Reshape", [moved, shape], [out], node.name),
    ]
    share = float(given.get("momentum", 0.9))
    for z, before, now in zip(node.output[1:], (mean_before, var_before), (mean, var), strict=False):
        if z:
            nodes += [
                _constant(f"{z}/old", np.float32(share)),
                _constant(f"{z}/new", np.float32(1 - share)),
                made("CastLike", [f"{z}/old", before], f"{z}/old/like"),
                made("CastLike", [f"{z}/new", before], f"{z}/new/like"),
                _constant(f"{z}/row", np.asarray([-1], np.int64)),
                made("Reshape", [now, f"{z}/row"], f"{z}/now"),
                made("CastLike", [f"{z}/now", before], f"{z}/now/like"),
                made("Mul", [before, f"{z}/old/like"], f"{z}/kept"),
                made("Mul", [f"{z}/now/like", f"{z}/new/like"], f"{z}/added"),
                made("Add", [f"{z}/kept", f"{z}/added"], z),
            ]
    return nodes


OLD_SCAN = 9  # since then Scan has no batch of its own, nor lengths
SLICED_BY_INPUTS = 10  # since then Slice reads numbers
TRAINED_BY_ATTRIBUTE = 14  # since then BatchNormalization says whether it trains
AXES_OF_MEAN = 9  # since then MeanVarianceNormalization says over which axes
CAST_LIKE = 15  # the opset of CastLike
AXES_AS_INPUT = 18  # of ReduceMean
DROPPED: dict[str, Rewrite] = {"Affine": _affine, "ImageScaler": _image_scaler, "Crop": _crop}


def rewrite_dropped(model: onnx.ModelProto) -> None:
    """Replaces, in place, operators that the standard has dropped, or that onnxruntime runs wrongly, by others of the
    same opset: what else the file holds keeps its meaning."""
    opset = opset_of(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += _rewritten(node, opset) or [node]
    scanning = any(node.op_type == "Scan" and opset < OLD_SCAN for node in model.graph.node)
    set_nodes(model.graph, nodes)
    if scanning:
        _raise_for_scan(model)


def _rewritten(node: NodeProto, opset: int) -> list[NodeProto] | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Scan" and opset < OLD_SCAN and not node.input[0]:
        return _batched_scan(node)
    is_norm = node.op_type == "BatchNormalization"
    if is_norm and opset >= TRAINED_BY_ATTRIBUTE and _attributes(node).get("training_mode"):
        return _batch_statistics(node, opset)
    if is_norm and _attributes(node).get("spatial", 1) == 0:
        return _norm_of_elements(node)
    if node.op_type == "MeanVarianceNormalization" and opset < AXES_OF_MEAN:
        return _mean_variance(node)
    if node.op_type == "Crop" and opset < SLICED_BY_INPUTS:
        return _crop_of_old(node)
    rewrite = DROPPED.get(node.op_type)
    return rewrite(node) if rewrite else None


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
