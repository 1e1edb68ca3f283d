"""Programs of DeepLIFT: the network at two points, x and x', and multipliers between them."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Value
from onnx_attribution.graph_tools.ir.reach import dependents
from onnx_attribution.graph_tools.ir.subgraphs import attributes_of, inputs_of
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.operators.huge import Known, difference
from onnx_attribution.graph_tools.operators.lost import Lost
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.walk.between import secant_of, secant_table
from onnx_attribution.graph_tools.walk.differentiate import Rules
from onnx_attribution.graph_tools.walk.halves import Parts
from onnx_attribution.graph_tools.walk.reveal_cancel import reveal
from onnx_attribution.graph_tools.walk.reveal_nodes import Where
from onnx_attribution.methods import NearZero


def deeplift_program(
    network: Network,
    choice: Choice,
    *,
    multiply: bool = True,
    rules: RuleTable = VJP,
    reveal_cancel: Where | None = None,
    near_zero: NearZero = "midpoint",
    shared: bool = False,
    given: bool = False,
) -> Program:
    """DeepLIFT at x and x' (arXiv 1704.02685): the Rescale rule, or RevealCancel after some linear operators.

    Inputs are the network's own at x, hidden sources by name, `baseline/<source>` and `target/weight`. Outputs:
    `contribution/<layer>` in the layer's own shape (multipliers if not `multiply`), `target/value`, `target/baseline`,
    and `lost/<tensor>`: how much of the target's change goes through an operator without a secant, one number a run.

    With `shared`, `baseline/<source>` holds one row, and what the network makes of it stands for every row of x. That
    row meets the rows by broadcasting: a tensor that holds several elements of a row along its batch axis ends the run.
    What the network makes of x' is `given` where it is to be taken apart (`halves`).
    """
    draft = Draft(network, choice.sources)
    op, graph, tensors = draft.op, draft.graph, draft.graph.tensors()
    references: dict[str, Value] = {
        name: draft.input(name, f"baseline/{name}", tensors[name].shape) for name in choice.sources
    }
    moving = dependents(list(graph.nodes), choice.sources)
    clone(graph, references)
    if shared:
        for name, there in references.items():
            if there.shape is not None:
                there.shape = [d if isinstance(d, int) else f"reference/{d}" for d in there.shape]
            sizes = op("Shape", tensors[name])
            sizes.shape = [len(tensors[name].shape or ())]
            references[name] = op("Expand", there, sizes)
            references[name].shape = tensors[name].shape
    weight = draft.weight(choice.target)
    draft.put_target(choice.target, weight, "target/value")
    there = references.get(choice.target, draft.tensor(choice.target))
    draft.put_target(choice.target, weight, "target/baseline", there)
    found, lost = lifted(
        draft, choice, references, moving, weight,
        multiply=multiply, rules=rules, reveal_cancel=reveal_cancel, near_zero=near_zero, given=given,
    )  # fmt: skip
    for layer, value in found.items():
        draft.put(value, f"contribution/{layer}")
    for name, value in lost.items():
        draft.put(value, f"lost/{name}")
    return draft.finish()


def lifted(
    draft: Draft,
    choice: Choice,
    references: dict[str, Value],
    moving: set[str],
    weight: Value,
    *,
    multiply: bool,
    rules: RuleTable,
    reveal_cancel: Where | None,
    near_zero: NearZero,
    given: bool = False,
) -> tuple[dict[str, Value], dict[str, Value]]:
    """The contributions of the layers, or multipliers, where `weight` is that of the target, and what is lost.

    `references` are the tensors at x', those that depend on a source (`moving`) cloned already.
    """
    op, lost = draft.op, Lost()
    between = Rules(secant_table(rules), secant_of(references, moving, near_zero, lost, given), dependents)
    found: dict[str, Value] = {}
    if reveal_cancel is None:
        huge: Known = {}
        for layer, m in draft.gradients(choice, weight, between).items():
            here, there = (op.cast(x, m.dtype) for x in (draft.tensor(layer), references[layer]))
            found[layer] = op("Mul", m, difference(op, here, there, huge)) if multiply else m
    else:
        draft.require_moving(choice)
        parts, seeds = Parts(op, references, moving), {choice.target: weight}
        pairs = reveal(op, seeds, choice.layers, parts, between, reveal_cancel)
        found = {layer: pair[0 if multiply else 1] for layer, pair in pairs.items()}
    return found, lost.found


def clone(graph: gs.Graph, references: dict[str, Value], prefix: str = "reference") -> None:
    """Adds the network at the references: a copy of every node that depends on one of them, shapes included, whose
    outputs become references too."""
    copies: list[gs.Node] = []
    for node in list(graph.nodes):
        if not any(x.name in references for x in inputs_of(node)):
            continue
        outputs = []
        for z in node.outputs:
            twin = gs.Variable.empty()
            if not z.is_empty():
                twin = gs.Variable(f"{prefix}/{z.name}", dtype=z.dtype, shape=z.shape)
                references.setdefault(z.name, twin)
            outputs.append(twin)
        inputs = [references.get(x.name, x) if not x.is_empty() else x for x in node.inputs]
        attributes = attributes_of(node, references, prefix)
        copies.append(
            gs.Node(
                node.op,
                node.name and f"{prefix}/{node.name}",
                attributes,
                inputs,
                outputs,
                domain=node.domain,
            )
        )
    graph.nodes.extend(copies)
