"""Programs in two: the network at the reference of DeepLIFT and the rest; what comes before the target and the rest."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper

from onnx_attribution.graph_tools.programs.footprint import names_read
from onnx_attribution.graph_tools.programs.signature import Program


def halves(program: Program) -> tuple[Program, Program] | None:
    """The part of a program that needs no more than baselines and what all rows share, and the rest.

    What the first makes for the second has the names `reference/<tensor>`, and is kept as it is; None where nothing can
    be taken apart.
    """
    graph = program.model.graph
    ready = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    ready |= {z for node in graph.node if not names_read(node) for z in node.output}  # constants
    inputs = {x.name for x in graph.input if x.name.startswith("baseline/")}
    first: list[onnx.NodeProto] = []
    made: set[str] = set()
    for node in graph.node:
        outputs = [z for z in node.output if z]
        if all(z.startswith("reference/") for z in outputs) and names_read(node) <= ready | inputs | made:
            first.append(node)
            made.update(outputs)
    taken = {id(node) for node in first}
    rest = [node for node in graph.node if id(node) not in taken]
    needed = {name for node in rest for name in names_read(node)} | {z.name for z in graph.output}
    types = {v.name: v.type for v in graph.value_info}
    border = [name for node in first for name in node.output if name in needed]
    if not border or not all(name in types for name in border):
        return None
    loose = [_loose(name, types[name]) for name in border]
    return (
        _program(program.model, first, [x for x in graph.input if x.name in inputs], loose),
        _program(program.model, rest, [*graph.input, *loose], list(graph.output)),
    )


def before_target(program: Program, late: str = "target/weight") -> tuple[Program, Program] | None:
    """The part of a program that depends on its inputs and not on `late`, and the rest, which may run several times.

    What the first makes for the second keeps its name. None where nothing can be taken apart.
    """
    graph = program.model.graph
    early = {x.name for x in graph.input if x.name != late}
    behind = {late}
    for node in graph.node:
        read = names_read(node)
        if read & behind:
            behind.update(z for z in node.output if z)
        elif read & early:
            early.update(z for z in node.output if z)
    first = [node for node in graph.node if any(z in early for z in node.output)]
    rest = [node for node in graph.node if not any(z in early for z in node.output)]
    made = {z for node in first for z in node.output if z}
    needed = {name for node in rest for name in names_read(node)}
    types = {v.name: v.type for v in graph.value_info}
    border = [z for node in first for z in node.output if z in needed]
    known = all(name in types and types[name].tensor_type.elem_type for name in border)
    if not border or not known or not any(z.name in behind for z in graph.output):
        return None
    loose = [_loose(name, types[name]) for name in border]
    own = [z for z in graph.output if z.name in made]
    alone = [node for node in rest if not any(z in behind for z in node.output)]  # of constants, for both
    return (
        _program(program.model, [*alone, *first], [x for x in graph.input if x.name != late], [*own, *loose]),
        _program(
            program.model, rest, [*graph.input, *loose], [z for z in graph.output if z.name not in made]
        ),
    )


def _loose(name: str, kind: onnx.TypeProto) -> onnx.ValueInfoProto:
    """A tensor of this type and rank: the names of its dimensions are those of the rows, of which it has one."""
    tensor = kind.tensor_type
    rank = [None] * len(tensor.shape.dim) if tensor.HasField("shape") else None
    return helper.make_tensor_value_info(name, tensor.elem_type, rank)


def _program(
    model: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> Program:
    made = onnx.ModelProto()
    made.ir_version, made.producer_name = model.ir_version, model.producer_name
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    graph = made.graph
    graph.name = model.graph.name
    graph.node.extend(nodes)
    read = {name for node in graph.node for name in names_read(node)} | {z.name for z in outputs}
    produced = {z for node in graph.node for z in node.output}
    constants = [n for n in model.graph.node if not names_read(n) and not produced.issuperset(n.output)]
    extra = [node for node in constants if any(z in read for z in node.output)]
    if extra:
        ordered = [*extra, *graph.node]
        del graph.node[:]
        graph.node.extend(ordered)
    graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in read)
    graph.input.extend(x for x in inputs if x.name in read)
    graph.output.extend(outputs)
    given = {x.name for x in inputs}
    graph.value_info.extend(v for v in model.graph.value_info if v.name in produced and v.name not in given)
    return Program(made, tuple(x.name for x in graph.input), tuple(z.name for z in graph.output))
