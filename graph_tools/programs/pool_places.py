"""Where the maxima of a MaxPool come from, without its second output, which WebGPU lacks: by comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

LARGEST = 64
"""Elements of a window that are compared one by one."""


@dataclass
class Writer:
    """Nodes and constants that are written, under names that the model does not have."""

    name: Callable[[], str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        made = self.name()
        self.nodes.append(helper.make_node(operator, list(inputs), [made], **attributes))
        return made

    def held(self, value: ArrayLike, kind: Any = np.int64) -> str:
        made = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), made))
        return made


def places(node: onnx.NodeProto, sizes: Sequence[int], made: Sequence[int], write: Writer) -> bool:
    """Writes a MaxPool over axes of these sizes and what makes its second output; whether that can be done.

    Each element of a window is compared with those before it, so that the first of equal ones is taken.
    """
    told: Mapping[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    kernel, rank = told["kernel_shape"], len(sizes)
    if told.get("storage_order", 0) or math.prod(kernel) > LARGEST:
        return False
    strides, dilations = (told.get(name) or [1] * rank for name in ("strides", "dilations"))
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    lacking = [max((m - 1) * s + e - n, 0) for m, s, e, n in zip(made, strides, extent, sizes, strict=True)]
    match told.get("auto_pad", b"NOTSET"):
        case b"SAME_UPPER":
            begin = [one // 2 for one in lacking]
        case b"SAME_LOWER":
            begin = [one - one // 2 for one in lacking]
        case b"VALID":
            begin = [0] * rank
        case _:
            begin = list(told.get("pads") or [0] * rank)[:rank]
    end = [max(one - b, 0) for one, b in zip(lacking, begin, strict=True)]
    x, index = node.input[0], node.output[1]
    z = node.output[0] or write.name()
    kept = helper.make_node("MaxPool", [x], [z], name=node.name)
    kept.attribute.extend(node.attribute)
    write.nodes.append(kept)
    padded = x
    if any(begin) or any(end):
        pads = write.held([0, 0, *begin, 0, 0, *end])
        padded = write("Pad", x, pads, write.held(-np.inf, np.float32))
    axes, steps = write.held(range(2, 2 + rank)), write.held(strides)
    best = chosen = ""
    for number, at in enumerate(np.ndindex(*kernel)):
        start = [a * d for a, d in zip(at, dilations, strict=True)]
        stop = [a + (m - 1) * s + 1 for a, m, s in zip(start, made, strides, strict=True)]
        element = write("Slice", padded, write.held(start), write.held(stop), axes, steps)
        if not best:
            best, chosen = element, write("Expand", write.held(0, np.float32), write("Shape", element))
            continue
        larger = write("Greater", element, best)
        chosen = write("Where", larger, write.held(number, np.float32), chosen)
        best = write("Max", best, element)
    rest = write("Cast", chosen, to=TensorProto.INT64)
    place = ""
    for axis in range(rank):
        block = write.held(math.prod(kernel[axis + 1 :]))
        step = write("Div", rest, block)
        rest = write("Sub", rest, write("Mul", step, block))
        shape = [made[axis] if k == axis else 1 for k in range(rank)]
        first = write.held((np.arange(made[axis]) * strides[axis] - begin[axis]).reshape(shape))
        own = write("Add", first, write("Mul", step, write.held(dilations[axis])))
        own = write(
            "Min", write("Max", own, write.held(0)), write.held(sizes[axis] - 1)
        )  # of windows of -inf
        own = write("Mul", own, write.held(math.prod(sizes[axis + 1 :])))
        place = write("Add", place, own) if place else own
    outer = write("Slice", write("Shape", z), write.held([0]), write.held([2]))
    count = write("ReduceProd", outer, keepdims=0)
    planes = write("Range", write.held(0), count, write.held(1))
    planes = write("Reshape", planes, write("Concat", outer, write.held([1] * rank), axis=0))
    planes = write("Mul", planes, write.held(math.prod(sizes)))
    write.nodes.append(helper.make_node("Add", [place, planes], [index]))
    return True
