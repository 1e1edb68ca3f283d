"""Networks of published shapes with random weights, written as torch's exporter writes them.

Speed and memory depend on shapes and operators, not on what was learned, so nothing has to be fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str]


class _Writer:
    """Collects nodes and weights; calling it appends a node and returns the name of its output."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}_output_0"], name, **attributes))
        return f"{name}_output_0"

    def keep(self, array: NDArray[Any]) -> str:
        """The name of a new weight of these values."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, gain: float = 1.0) -> str:
        """The name of a new weight: normal, scaled by its fan-in, the product of all sizes but the first."""
        values = self.rng.standard_normal(shape, dtype=np.float32)
        return self.keep(values * np.float32(gain / np.sqrt(np.prod(shape[1:]) or 1)))

    def ints(self, *values: int) -> str:
        """The output of a Constant node, as the exporter writes sizes and axes."""
        return self("Constant", value=numpy_helper.from_array(np.asarray(values, dtype=np.int64)))

    def scalar(self, value: float) -> str:
        return self("Constant", value=numpy_helper.from_array(np.asarray(value, dtype=np.float32)))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """A dense layer on the last axis of a tensor of any rank."""
        values = self.rng.standard_normal((inputs, outputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
        return self("Add", self.keep(np.zeros(outputs, np.float32)), self("MatMul", x, self.keep(values)))

    def size(self, x: str, axis: int) -> str:
        """A dimension as a vector of one."""
        return self("Unsqueeze", self("Gather", self("Shape", x), self.index(axis), axis=0), self.ints(0))

    def index(self, value: int) -> str:
        return self("Constant", value=numpy_helper.from_array(np.asarray(value, dtype=np.int64)))

    def layer_norm(self, x: str, width: int) -> str:
        scale, shift = self.keep(np.ones(width, np.float32)), self.keep(np.zeros(width, np.float32))
        return self("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-12)

    def gelu(self, x: str) -> str:
        error = self("Add", self("Erf", self("Div", x, self.scalar(2**0.5))), self.scalar(1))
        return self("Mul", self("Mul", x, error), self.scalar(0.5))

    def attention(self, x: str, width: int, heads: int, mask: str | None = None) -> str:
        """Self-attention of `[batch, tokens, width]`; `mask` is added to the scores."""
        parts = [self.linear(x, width, width) for _ in range(3)]
        sizes = [self.size(parts[0], 0), self.size(parts[0], 1), self.ints(heads), self.ints(width // heads)]
        split = [self("Reshape", part, self("Concat", *sizes, axis=0), allowzero=0) for part in parts]
        query, value = (self("Transpose", split[k], perm=[0, 2, 1, 3]) for k in (0, 2))
        key = self("Transpose", split[1], perm=[0, 2, 3, 1])
        scores = self("Div", self("MatMul", query, key), self.scalar((width // heads) ** 0.5))
        if mask is not None:
            scores = self("Add", scores, mask)
        mixed = self("Transpose", self("MatMul", self("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
        sizes = [self.size(mixed, 0), self.size(mixed, 1), self.ints(width)]
        return self.linear(self("Reshape", mixed, self("Concat", *sizes, axis=0), allowzero=0), width, width)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, gain: float = 1.4) -> str:
        """A convolution with its batch normalisation folded in."""
        names = [self.weight(outputs, inputs, kernel, kernel, gain=gain)]
        names.append(self.keep(np.zeros(outputs, np.float32)))
        return self(
            "Conv", x, *names, dilations=[1, 1], group=1, kernel_shape=[kernel] * 2,
            pads=[kernel // 2 if stride != kernel else 0] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def model(
        self, inputs: Sequence[tuple[str, int, Dims]], output: str, name: str, shape: Dims
    ) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], [name], name))
        graph = helper.make_graph(
            self.nodes,
            "main_graph",
            [helper.make_tensor_value_info(*each) for each in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet(blocks: Sequence[int], bottleneck: bool, batch: int | str = "batch") -> onnx.ModelProto:
    """A residual network (arXiv 1512.03385) on `[batch, 3, 224, 224]`; `blocks` are those of its four stages.

    ResNet-18 is `resnet((2, 2, 2, 2), False)`, ResNet-50 `resnet((3, 4, 6, 3), True)`.
    """
    op = _Writer()
    x = op("Relu", op.conv("image", 3, 64, 7, 2))
    x = op("MaxPool", x, ceil_mode=0, dilations=[1, 1], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    inputs = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        outputs = 4 * width if bottleneck else width
        for block in range(count):
            stride = 2 if stage and not block else 1
            if bottleneck:
                inner = op("Relu", op.conv(x, inputs, width, 1))
                inner = op("Relu", op.conv(inner, width, width, 3, stride))
                inner = op.conv(inner, width, outputs, 1, gain=0.5)
            else:
                inner = op("Relu", op.conv(x, inputs, width, 3, stride))
                inner = op.conv(inner, width, width, 3, gain=0.5)
            skip = op.conv(x, inputs, outputs, 1, stride) if inputs != outputs or stride != 1 else x
            x = op("Relu", op("Add", inner, skip))
            inputs = outputs
    x = op("Flatten", op("GlobalAveragePool", x), axis=1)
    x = op("Gemm", x, op.weight(1000, inputs), op.keep(np.zeros(1000, np.float32)), transB=1)
    return op.model([("image", TensorProto.FLOAT, [batch, 3, 224, 224])], x, "logits", [batch, 1000])


def vit(layers: int = 12, width: int = 768, heads: int = 12, batch: int | str = "batch") -> onnx.ModelProto:
    """A vision transformer (arXiv 2010.11929) of 16 x 16 patches on `[batch, 3, 224, 224]`; ViT-B/16 as it stands."""
    op = _Writer()
    patches = op.conv("image", 3, width, 16, 16)
    sizes = [op.size("image", 0), op.ints(width), op.ints(196)]
    x = op("Transpose", op("Reshape", patches, op("Concat", *sizes, axis=0), allowzero=0), perm=[0, 2, 1])
    token = op(
        "Expand", op.weight(1, 1, width), op("Concat", op.size(x, 0), op.ints(1), op.ints(width), axis=0)
    )
    x = op("Add", op("Concat", token, x, axis=1), op.weight(1, 197, width))
    for _ in range(layers):
        x = op("Add", op.attention(op.layer_norm(x, width), width, heads), x)
        inner = op.gelu(op.linear(op.layer_norm(x, width), width, 4 * width))
        x = op("Add", op.linear(inner, 4 * width, width), x)
    first = op("Gather", op.layer_norm(x, width), op.index(0), axis=1)
    x = op("Gemm", first, op.weight(1000, width), op.keep(np.zeros(1000, np.float32)), transB=1)
    return op.model([("image", TensorProto.FLOAT, [batch, 3, 224, 224])], x, "logits", [batch, 1000])


def bert(
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    vocabulary: int = 30522,
    batch: int | str = "batch",
    tokens: int | str = "tokens",
) -> onnx.ModelProto:
    """An encoder of tokens (arXiv 1810.04805) with two classes; BERT-base as it stands.

    Inputs are `input_ids` and `attention_mask`, int64 `[batch, tokens]`.
    """
    op = _Writer()
    length = op.size("input_ids", 1)
    places = op(
        "Slice", op.keep(np.arange(512, dtype=np.int64)[None]), op.ints(0), length, op.ints(1), op.ints(1)
    )
    embedded = op("Gather", op.weight(vocabulary, width), "input_ids", axis=0)
    embedded = op("Add", embedded, op.weight(1, 1, width))  # the only segment
    x = op.layer_norm(op("Add", embedded, op("Gather", op.weight(512, width), places, axis=0)), width)
    kept = op("Cast", op("Unsqueeze", "attention_mask", op.ints(1, 2)), to=TensorProto.FLOAT)
    mask = op("Mul", op("Sub", op.scalar(1), kept), op.scalar(float(np.finfo(np.float32).min)))
    for _ in range(layers):
        x = op.layer_norm(op("Add", op.attention(x, width, heads, mask), x), width)
        inner = op.gelu(op.linear(x, width, 4 * width))
        x = op.layer_norm(op("Add", op.linear(inner, 4 * width, width), x), width)
    first = op("Gather", x, op.index(0), axis=1)
    pooled = op(
        "Tanh", op("Gemm", first, op.weight(width, width), op.keep(np.zeros(width, np.float32)), transB=1)
    )
    x = op("Gemm", pooled, op.weight(2, width), op.keep(np.zeros(2, np.float32)), transB=1)
    shape = [batch, tokens]
    inputs = [("input_ids", TensorProto.INT64, shape), ("attention_mask", TensorProto.INT64, shape)]
    return op.model(inputs, x, "logits", [batch, 2])
