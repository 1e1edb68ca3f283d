"""Programs that need nobody: from a network's own inputs, a baseline and a target to attributions, in one run.

The inputs are those of the network that the target depends on, by their names, and where they are used
`baseline/<input>` (one row for all samples, or one for each), `target` or `target/weight`, and `steps`. Outputs are
`attribution/<layer>` in the layer's own shape, and one number a sample `target/value`, `target/baseline`,
`residual/<layer>`, `residual` of all layers together where only these are a cut, and `error_estimate/<layer>`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Value
from onnx_attribution.graph_tools.ir.reach import dependents
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.export import name_rows
from onnx_attribution.graph_tools.programs.pairs import clone, lifted
from onnx_attribution.graph_tools.programs.question import Along, Asked, AtInput, Between, Found, Work
from onnx_attribution.graph_tools.programs.signature import Program
from onnx_attribution.graph_tools.programs.standalone_path import along
from onnx_attribution.graph_tools.walk.differentiate import Rules


def standalone_program(network: Network, asked: Asked) -> Program:
    """The program of a question.

    Raises:
        NotDifferentiable: as `differentiate`.
    """
    draft = Draft(network)
    rows = name_rows(draft, [asked.target.tensor, *asked.choice.layers], asked.alone)
    work = Work(draft, asked, rows)
    match asked.at:
        case AtInput():
            found = _at_input(work, asked.at)
        case Between():
            found = _between(work, asked.at)
        case Along():
            found = along(work, asked.at)
    _answer(work, found)
    work.rename()
    own = list(network.input_axes)
    draft.graph.inputs.sort(key=lambda x: own.index(x.name) if x.name in own else len(own))
    return draft.finish()


def _at_input(work: Work, at: AtInput) -> Found:
    op, draft, choice = work.op, work.draft, work.asked.choice
    value = work.value(draft.tensor(choice.target), work.rows, work.given)
    found = draft.gradients(
        choice, work.weight(value), Rules(work.asked.rules, relevance=work.asked.relevance)
    )
    if at.multiply:
        found = {n: op("Mul", g, op.cast(draft.tensor(n), g.dtype)) for n, g in found.items()}
    return Found(found, value)


def _between(work: Work, at: Between) -> Found:
    op, draft, choice = work.op, work.draft, work.asked.choice
    graph, tensors = draft.graph, draft.graph.tensors()
    moving = dependents(list(graph.nodes), choice.sources)
    references = work.lows({x.name: x for x in graph.inputs} | {s: tensors[s] for s in choice.sources})
    clone(graph, references)
    graph.toposort()
    value = work.value(tensors[choice.target], work.rows, work.given)
    baseline = work.value(references.get(choice.target, tensors[choice.target]), work.rows, work.given)
    found, lost = lifted(
        draft, choice, references, moving, work.weight(value),
        multiply=at.multiply, rules=work.asked.rules, reveal_cancel=at.reveal_cancel, near_zero=at.near_zero,
    )  # fmt: skip
    if lost:  # nobody is there to refuse it
        total = op("Sum", *(op.cast(one, np.float32) for one in lost.values()))
        zero = op.like(total, 0)
        poison = op("Where", op("Greater", total, zero), op.like(total, np.nan), zero)
        found = {layer: op("Add", one, op.cast(poison, one.dtype)) for layer, one in found.items()}
    return Found(found, value, baseline)


def _answer(work: Work, found: Found) -> None:
    """Makes what was found outputs."""
    op, asked = work.op, work.asked
    totals: list[Value] = []
    errors, residuals = dict[str, Value](), dict[str, Value]()
    change = None if found.baseline is None else op("Sub", found.value, found.baseline)
    for layer, attribution in found.attributions.items():
        _put(work, attribution, f"attribution/{layer}", work.shapes[layer])
    for layer, attribution in found.attributions.items() if change is not None else ():
        total = work.by_row(layer, attribution)
        totals.append(total)
        if asked.complete:
            residuals[layer] = op("Sub", total, op.cast(change, total.dtype))
        if found.coarse is not None:
            apart = op("Abs", op("Sub", attribution, found.coarse[layer]))
            error = work.by_row(layer, apart)
            if asked.complete and layer in asked.cuts:  # no L1 error is less than what the sum misses
                error = op("Max", error, op("Abs", residuals[layer]))
            if found.no_estimate is not None:
                error = op("Where", found.no_estimate, op.like(error, np.nan), error)
            errors[layer] = error
    ends = {"target/value": found.value, "target/baseline": found.baseline}
    joint = {}
    if asked.complete and asked.joint and change is not None:
        kind = max((total.dtype for total in totals), key=lambda one: np.dtype(one).itemsize)
        whole = op("Sum", *(op.cast(total, kind) for total in totals))
        joint = {"residual": op("Sub", whole, op.cast(change, kind))}
    told = {
        **{f"residual/{name}": value for name, value in residuals.items()},
        **joint,
        **{f"error_estimate/{name}": value for name, value in errors.items()},
        **{name: value for name, value in ends.items() if value is not None},
    }
    for name, value in told.items():
        _put(work, value, name, [work.rows])


def _put(work: Work, value: Value, name: str, shape: Sequence[int | str | None]) -> None:
    work.draft.put(value, name)
    work.draft.outputs[-1].shape = list(shape)
