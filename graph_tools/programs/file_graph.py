"""A file's own graph, by names: what makes and reads a tensor, shapes, and what is constant."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnx_attribution.graph_tools.ir.nodes import reads
from onnx_attribution.graph_tools.ir.shapes import Dims, dims_of
from onnx_attribution.graph_tools.ir.weights import value_of

DEEPEST = 32
"""Nodes one after the other that a constant may be computed by."""


def of_onnx(node: onnx.NodeProto) -> bool:
    """Whether an operator is of ONNX itself."""
    return node.domain in ("", "ai.onnx")


class FileGraph:
    """A model without functions: what makes and reads a tensor, shapes, constants."""

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, Dims] | None = None) -> None:
        self.model = model
        graph = model.graph
        self.makers = {z: node for node in graph.node for z in node.output if z}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for x in dict.fromkeys(reads(node)):
                self.readers.setdefault(x, []).append(node)
        self.outputs = {z.name for z in graph.output}
        self.initializers = {one.name: one for one in graph.initializer}
        self.inputs = {x.name for x in graph.input}
        self._taken = {*self.makers, *self.initializers, *self.inputs}
        self._taken |= {node.name for node in graph.node}
        self._constants: dict[str, NDArray[Any] | None] = {}
        self._depth = 0
        told = model
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            told = onnx.shape_inference.infer_shapes(model, data_prop=True)
        values = (*told.graph.input, *told.graph.value_info, *told.graph.output)
        self.shapes: dict[str, Dims] = dict(shapes or {})
        self.shapes |= {v.name: dims for v in values if (dims := dims_of(v)) is not None}
        self.shapes |= {one.name: tuple(one.dims) for one in graph.initializer}

    def free(self, name: str) -> str:
        """A name that nothing has, which is then taken."""
        found, k = name, 1
        while found in self._taken:
            found, k = f"{name}.{k}", k + 1
        self._taken.add(found)
        return found

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a tensor that does not depend on the inputs; None for all others."""
        if name not in self._constants and self._depth < DEEPEST:
            self._constants[name] = None  # a ring of nodes has none
            self._depth += 1
            self._constants[name] = self._constant(name)
            self._depth -= 1
        return self._constants.get(name)

    def _constant(self, name: str) -> NDArray[Any] | None:
        if name in self.initializers:
            return value_of(self.initializers[name])
        node = self.makers.get(name)
        if node is None or not of_onnx(node) or len(node.output) != 1 or node.op_type.startswith("Random"):
            return None
        outer = [x for x in reads(node) if x in self.makers or x in self.initializers or x in self.inputs]
        given = {x: self.constant(x) for x in outer}
        if any(value is None for value in given.values()):
            return None
        graph = helper.make_graph(
            [node],
            "constant",
            [onnx.ValueInfoProto(name=x) for x in given],
            [onnx.ValueInfoProto(name=name)],
        )
        for imports in (
            self.model.opset_import,
            [helper.make_opsetid("", 21)],
        ):  # it has not all of the old ones
            try:
                (value,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(
                    None, given
                )
                return np.asarray(value)
            except Exception:  # what the evaluator has not, is no constant here
                continue
        return None
