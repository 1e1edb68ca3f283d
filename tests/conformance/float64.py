"""A network in float64, evaluated by the onnx reference implementation: the oracle for gradients of real models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnx_attribution.graph_tools.ir.weights import value_of
from tests.checks import NARROW, to_double
from tests.conformance.operators import OPERATORS
from tests.conformance.straight_through import Rounding, straight_through

Array = NDArray[Any]
Values = Mapping[str, Array]


class Float64Network:
    """Some tensors of a network at some inputs, and what becomes of a target when one of them is moved.

    `rounded` holds what the quantising operators of the file make of these inputs; see `straight_through.Rounding`.
    """

    def __init__(
        self, model: onnx.ModelProto, inputs: Values, keep: Sequence[str], rounded: Values | None = None
    ) -> None:
        nodes = _behind(model.graph.node, keep)
        self._evaluator = _Evaluator(model, nodes, rounded)
        reads = [reads_of(node) for node in nodes]
        needed = _needed_from(nodes, reads, keep)
        self.values = self._evaluator.run(range(len(nodes)), inputs, needed)
        self._nodes, self._reads = nodes, reads

    def moved(self, tensor: str, target: str, value: Array) -> Array:
        """The target when `tensor` holds `value` and everything that does not depend on it stays."""
        reached, found = {tensor}, []
        for k, node in enumerate(self._nodes):
            if not reached.isdisjoint(self._reads[k]) and tensor not in node.output:
                reached.update(node.output)
                found.append(k)
        wanted, between = {target}, []
        for k in reversed(found):
            if not wanted.isdisjoint(self._nodes[k].output):
                wanted.update(self._reads[k])
                between.append(k)
        return self._evaluator.run(between[::-1], {**self.values, tensor: value}, [target])[target]


def run_double(model: onnx.ModelProto, inputs: Values, rounded: Values | None = None) -> dict[str, Array]:
    """The outputs of a model in float64."""
    wanted = [z.name for z in model.graph.output]
    nodes = _behind(model.graph.node, wanted)
    found = _Evaluator(model, nodes, rounded).run(range(len(nodes)), inputs, wanted)
    return {name: found[name] for name in wanted}


class _Evaluator:
    """The reference implementation of some nodes of a model, in float64."""

    def __init__(
        self, model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], rounded: Values | None
    ) -> None:
        part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
        part.graph.node.extend(nodes)
        part.graph.input.extend(model.graph.input)  # for their types
        read = {x for node in nodes for x in reads_of(node)}
        weights = {t.name: (t.data_type, value_of(t)) for t in model.graph.initializer if t.name in read}
        self._weights = {n: a.astype(np.float64) if kind in NARROW else a for n, (kind, a) in weights.items()}
        operators: list[type[OpRun]] = [] if rounded is None else straight_through(Rounding(rounded))
        self._evaluator = ReferenceEvaluator(to_double(part), new_ops=operators + OPERATORS)
        self._reads = [reads_of(node) for node in nodes]

    def run(self, indices: Sequence[int], inputs: Values, wanted: Iterable[str]) -> dict[str, Array]:
        """The wanted tensors, inputs among them; others are dropped after their last use."""
        kept, last = set(wanted), {}
        for k in indices:
            last.update(dict.fromkeys(self._reads[k], k))
        values: dict[str, Any] = {"": None, **self._weights}
        values |= {
            n: a.astype(np.float64, copy=False) if a.dtype.kind == "f" else a for n, a in inputs.items()
        }
        kept.update(values)
        for k in indices:
            node = self._evaluator.rt_nodes_[k]
            context = {"context": values} if node.need_context() else {}
            with np.errstate(all="ignore"):  # as in what a Where leaves out
                made = node.run(*(values[x] for x in node.input), **context)
            values.update(zip(node.output, made, strict=False))
            for name in self._reads[k] | set(node.output):
                if last.get(name, k) == k and name not in kept:
                    values.pop(name, None)
        return {n: a for n, a in values.items() if n in kept and n not in self._weights and n}


def reads_of(node: onnx.NodeProto) -> set[str]:
    """The names a node reads, those of its graphs included."""
    names = {x for x in node.input if x}
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            names.update(*(reads_of(inner) for inner in graph.node), (z.name for z in graph.output))
    return names


def _behind(nodes: Sequence[onnx.NodeProto], targets: Sequence[str]) -> list[onnx.NodeProto]:
    wanted, kept = set(targets), []
    for node in reversed(nodes):
        if any(z in wanted for z in node.output):
            wanted.update(reads_of(node))
            kept.append(node)
    return kept[::-1]


def _needed_from(
    nodes: Sequence[onnx.NodeProto], reads: Sequence[set[str]], tensors: Sequence[str]
) -> list[str]:
    """The tensors themselves, and every tensor that a node behind one of them reads besides."""
    needed = dict.fromkeys(tensors)
    for tensor in tensors:
        reached = {tensor}
        for node, read in zip(nodes, reads, strict=True):
            if not reached.isdisjoint(read):
                reached.update(node.output)
                needed.update(dict.fromkeys(read - reached))
    return list(needed)
