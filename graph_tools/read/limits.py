"""What a file may ask for: found by counting, before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.nodes import graphs_in, inner_graphs

__all__ = ["MAX_NODES", "require_bounded"]

MAX_NODES = 100_000  # with those of inner graphs, and of functions at each place where they are called
MAX_CALLS = 100  # functions that call each other
MAX_NAME = 10_000
MAX_RANK = 64
MAX_MADE = 1 << 29  # elements of a tensor that an operator makes of a constant shape: 2 GiB of float32

_Function = tuple[str, str, str]


def require_bounded(model: onnx.ModelProto) -> None:
    """Refuses a model that is small as a file and large when it is run.

    Raises:
        ModelError: too many nodes, once functions are in the place of their calls; a function that calls itself; a
            tensor that is made larger than memory; a name that is no text.
    """
    _require_few(len(model.graph.node))
    _require_text(model)
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    _require_few(_Count(functions).of(model.graph.node, ()))
    _require_small(model.graph.node, _shapes_in(model.graph.initializer))
    for function in model.functions:
        _require_small(function.node, {})


def _require_few(nodes: int) -> None:
    if nodes > MAX_NODES:
        raise ModelError(
            f"the model has {nodes} nodes, functions counted where they are called; at most {MAX_NODES} can be read",
            reason=Reason.MODEL_INVALID, nodes=nodes,
        )  # fmt: skip


class _Count:
    """Nodes of a model whose functions are in the place of their calls."""

    def __init__(self, functions: dict[_Function, onnx.FunctionProto]) -> None:
        self._functions = functions
        self._known: dict[_Function, int] = {}

    def of(self, nodes: Iterable[onnx.NodeProto], callers: tuple[_Function, ...]) -> int:
        return sum(self._node(node, callers) for node in nodes)

    def _node(self, node: onnx.NodeProto, callers: tuple[_Function, ...]) -> int:
        inner = sum(self.of(graph.node, callers) for graph in inner_graphs(node))
        called = (node.domain, node.op_type, node.overload)
        return 1 + inner if called not in self._functions else inner + self._function(called, callers)

    def _function(self, called: _Function, callers: tuple[_Function, ...]) -> int:
        if called in callers or len(callers) >= MAX_CALLS:
            name = f"{called[0]}.{called[1]}"
            how = "calls itself" if called in callers else f"is called through more than {MAX_CALLS} others"
            raise ModelError(f"the function {name!r} {how}", reason=Reason.MODEL_INVALID, function=name)
        if called not in self._known:
            self._known[called] = self.of(self._functions[called].node, (*callers, called))
        return self._known[called]


def _require_text(model: onnx.ModelProto) -> None:
    """Refuses names that are not UTF-8, which protobuf reads and which break where they are used; and endless ones."""
    try:
        for graph in graphs_in(model.graph):
            for values in (graph.input, graph.output, graph.value_info):
                _require_short(value.name for value in values)
            _require_short(tensor.name for tensor in graph.initializer)
            _require_text_in(graph.node)
        for function in model.functions:
            _require_short((function.domain, function.name, *function.input, *function.output))
            _require_text_in(function.node)
    except (UnicodeError, TypeError):
        raise ModelError(
            "a name in the file is not UTF-8; export the model again", reason=Reason.MODEL_INVALID
        ) from None


def _require_text_in(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        _require_short((node.domain, node.op_type, node.name, *node.input, *node.output))


def _require_short(names: Iterable[str]) -> None:
    """Raises: ModelError, for a long name; TypeError, where protobuf gives bytes, or UnicodeError, for other text."""
    longest = max((len("" + name) for name in names), default=0)
    if longest > MAX_NAME:
        raise ModelError(
            f"a name in the file has {longest} characters; at most {MAX_NAME} can be read",
            reason=Reason.MODEL_INVALID,
        )


def _require_small(nodes: Iterable[onnx.NodeProto], outer: Mapping[str, Sequence[int]]) -> None:
    """Refuses operators that make huge tensors of a shape that the file holds. Others fail where they run."""
    shapes = dict(outer)
    for node in nodes:
        for graph in inner_graphs(node):
            _require_small(graph.node, {**shapes, **_shapes_in(graph.initializer)})
        attributes = {a.name: a for a in node.attribute}
        if node.op_type == "Constant" and node.output:
            if "value" in attributes:
                shapes |= dict.fromkeys(
                    node.output, next(iter(_shapes_in([attributes["value"].t]).values()), ())
                )
            elif "value_ints" in attributes:
                shapes[node.output[0]] = attributes["value_ints"].ints[:MAX_RANK]
        elif node.op_type in ("RandomNormal", "RandomUniform") and "shape" in attributes:
            _require_size(node, attributes["shape"].ints)
        elif node.op_type in ("ConstantOfShape", "Expand") and node.input and node.input[-1] in shapes:
            _require_size(node, shapes[node.input[-1]])


def _require_size(node: onnx.NodeProto, shape: Sequence[int]) -> None:
    size, name = math.prod(shape), node.name or next(iter(node.output), "")
    if size > MAX_MADE:
        raise ModelError(
            f"{node.op_type} (node {name!r}) makes a tensor of the shape {list(shape)}: {size} elements, and at most "
            f"{MAX_MADE} can be made of a constant",
            reason=Reason.MODEL_INVALID, node=name, tensor=next(iter(node.output), ""),
        )  # fmt: skip


def _shapes_in(tensors: Iterable[TensorProto]) -> dict[str, list[int]]:
    """By name, the tensors that may be shapes: a few integers, held in the file."""
    found: dict[str, list[int]] = {}
    for tensor in tensors:
        if tensor.data_type != TensorProto.INT64 or len(tensor.dims) > 1 or math.prod(tensor.dims) > MAX_RANK:
            continue
        raw = tensor.raw_data
        found[tensor.name] = [*tensor.int64_data, *np.frombuffer(raw[: len(raw) // 8 * 8], "<i8").tolist()]
    return found
