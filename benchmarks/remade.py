"""Real files as torch modules with the same weights, since Captum needs modules: each node becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

Attributes = Mapping[str, Any]


def _padded(
    a: Attributes, x: Tensor, kernel: Sequence[int], strides: Sequence[int], fill: float
) -> tuple[Tensor, tuple[int, ...]]:
    """The values and what torch pads itself; it does so on both sides alike, what is not is padded here."""
    if a.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = zip(x.shape[2:], strides, kernel, strict=True)
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in sizes]
        first = [(t + (a["auto_pad"] == b"SAME_LOWER")) // 2 for t in totals]
        last = [t - f for t, f in zip(totals, first, strict=True)]
    else:
        given = a.get("pads") or [0] * (2 * len(kernel))
        first, last = given[: len(kernel)], given[len(kernel) :]
    if first == last:
        return x, tuple(first)
    pairs = [n for pair in reversed(list(zip(first, last, strict=True))) for n in pair]
    return functional.pad(x, pairs, value=fill), (0,) * len(kernel)


def _conv(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    strides = a.get("strides") or [1, 1]
    x, pads = _padded(a, x, w.shape[2:], strides, 0.0)
    return functional.conv2d(x, w, b, strides, pads, a.get("dilations") or 1, a.get("group", 1))


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, strides = tuple(a["kernel_shape"]), a.get("strides") or [1, 1]
    x, pads = _padded(a, x, kernel, strides, -np.inf)
    return functional.max_pool2d(x, kernel, tuple(strides), pads)


def _gemm(a: Attributes, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return functional.linear(x, w if a.get("transB") else w.T, b.reshape(-1))


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """The first axis stays that of the samples; weights are reshaped as they are."""
    sizes = [int(n) for n in shape]
    return x.reshape(sizes if isinstance(x, nn.Parameter) else [x.shape[0], *sizes[1:]])


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return functional.layer_norm(x, scale.shape, scale, shift, a["epsilon"])


OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "Conv": _conv,
    "Flatten": lambda a, x: x.flatten(1),
    "Gelu": lambda a, x: functional.gelu(x),
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda a, x: functional.leaky_relu(x, a["alpha"]),
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "Relu": lambda a, x: functional.relu(x),
    "Reshape": _reshape,
    "Softmax": lambda a, x: functional.softmax(x, a["axis"]),
    "Squeeze": lambda a, x: x.squeeze(tuple(a["axes"])),
    "Transpose": lambda a, x: x.permute(a["perm"]),
}


class _Node(nn.Module):
    def __init__(self, node: onnx.NodeProto) -> None:
        super().__init__()
        self.function = OPERATORS[node.op_type]
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self.attributes, *inputs)


class Remade(nn.Module):
    """A file with one input and one output, and the operators of `OPERATORS`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(str(path)).graph
        held = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
        computed = [node for node in graph.node if node.op_type != "Constant"]
        for node in graph.node:
            if node.op_type == "Constant":
                held[node.output[0]] = numpy_helper.to_array(helper.get_attribute_value(node.attribute[0]))
        self.weights = {
            n: nn.Parameter(torch.from_numpy(w.copy()), requires_grad=False) for n, w in held.items()
        }
        self.source = next(x.name for x in graph.input if x.name not in held)
        self.result = graph.output[0].name
        self.steps = [(tuple(node.input), node.output[0], f"step{k}") for k, node in enumerate(computed)]
        for (_, _, step), node in zip(self.steps, computed, strict=True):
            self.add_module(step, _Node(node))

    def forward(self, x: Tensor) -> Tensor:
        values = {**self.weights, self.source: x}
        for inputs, output, step in self.steps:
            values[output] = self.get_submodule(step)(*(values[n] for n in inputs))
        return values[self.result]

    def maker(self, tensor: str) -> str:
        """The name of the module that puts a tensor out."""
        return next(step for _, output, step in self.steps if output == tensor)
