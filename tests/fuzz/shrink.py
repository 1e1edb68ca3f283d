"""Makes a failing case smaller, step by step, as long as the same check fails."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import onnx

from tests.fuzz.compare import examine
from tests.fuzz.generate import Case, taken
from tests.fuzz.questions import Ask
from tests.fuzz.reference import NotRunnable
from tests.fuzz.tally import Fault, Tally


def shrunk(case: Case, kind: str, ask: Ask) -> Case:
    """The smallest case found of which this kind of fault remains."""
    going = True
    while going:
        going = False
        for smaller in _smaller(case):
            if _fails(smaller, kind, ask):
                case, going = smaller, True
                break
    return case


def _fails(case: Case, kind: str, ask: Ask) -> bool:
    try:
        found: list[Fault] = examine(case, Tally(), only=ask)
    except (NotRunnable, RuntimeError, KeyError, ValueError):
        return False
    return any(fault.kind == kind for fault in found)


def _smaller(case: Case) -> Iterator[Case]:
    """Cases with a sample less, a declaration less, or a node less."""
    for k in range(len(case.rows)):
        if len(case.rows) > 1 and k != case.outside:
            outside = None if case.outside is None else case.outside - (k < case.outside)
            yield replace(case, rows=case.rows[:k] + case.rows[k + 1 :], outside=outside)
    if case.model.graph.value_info:
        model = copy.deepcopy(case.model)
        del model.graph.value_info[:]
        yield replace(case, model=model)
    for k in reversed(range(len(case.model.graph.value_info))):
        model = copy.deepcopy(case.model)
        del model.graph.value_info[k]
        yield replace(case, model=model)
    for k, node in enumerate(case.model.graph.node):
        out = node.output[0]
        if out == case.target or out not in case.dims:
            continue
        for name in taken(node):
            if case.dims.get(name) == case.dims[out]:
                yield replace(case, model=_cleaned(_bypassed(case.model, k, name), case))


def _bypassed(model: onnx.ModelProto, place: int, name: str) -> onnx.ModelProto:
    """The model in which one of its inputs stands for what a node makes."""
    found = copy.deepcopy(model)
    out = found.graph.node[place].output[0]
    del found.graph.node[place]
    _renamed(found.graph, out, name)
    return found


def _renamed(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _renamed(attribute.g, old, new)


def _cleaned(model: onnx.ModelProto, case: Case) -> onnx.ModelProto:
    """The model without nodes and constants that its target does not need, and without other outputs."""
    kept: list[onnx.NodeProto] = []
    needed = {case.target}
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.insert(0, node)
            needed.update(taken(node))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    constants = [x for x in model.graph.initializer if x.name in needed]
    outputs = [x for x in model.graph.output if x.name == case.target]
    del model.graph.initializer[:], model.graph.output[:]
    model.graph.initializer.extend(constants)
    model.graph.output.extend(outputs)
    return model
