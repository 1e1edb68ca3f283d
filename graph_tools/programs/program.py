"""Programs: ONNX models that compute attributions, each with a typed signature.

Every builder takes a proven network and names of sources, layers and a target, and returns a model whose inputs and
outputs are named by role: `sample/<input>`, `baseline/<source>`, `target/weight`, `sum/<layer>` and so on. The target
is a linear functional of one tensor: `target/weight` has that tensor's shape and holds 1 at the explained element, -1
at one that is subtracted, 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.convert import detach, graph_of, input_like, model_of, require_own_names
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.ir.reach import dependents
from onnx_attribution.graph_tools.ir.subgraphs import attributes_of, inputs_of
from onnx_attribution.graph_tools.network import Network, RowAxis
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.operators.huge import Known, difference
from onnx_attribution.graph_tools.operators.lost import Lost
from onnx_attribution.graph_tools.operators.secant import STEPS, UNFOLLOWED, secant_of
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.walk.differentiate import (
    Choose,
    Reach,
    differentiate,
    gradient_of,
    no_way,
    reachable,
)
from onnx_attribution.graph_tools.walk.reveal_cancel import reveal
from onnx_attribution.graph_tools.walk.reveal_nodes import Where
from onnx_attribution.methods import NearZero


def forward_program(network: Network, tensors: Sequence[str], sources: Sequence[str] = ()) -> Program:
    """The network as it is with `tensors` exposed; hidden `sources` become inputs."""
    graph = graph_of(network.model)
    given = {x.name for x in graph.inputs}
    for name in sources:
        if name not in given:
            value = detach(graph, name)  # first: it replaces the list of inputs
            graph.inputs.append(value)
    outputs = [_exposed(graph, name) for name in tensors]
    return _finish(graph, outputs)


def rows_program(network: Network, choice: Choice, *, rules: RuleTable = VJP) -> Program:
    """Gradient rows: one run of the network at the rows that are given.

    Inputs are the network's own, hidden sources by name, and `target/weight`. Outputs are `activation/<layer>` and
    `gradient/<layer>` in the layer's own shape, and `target/value`: `[rows]`, or `[1]` where rows are not separable.
    """
    graph = graph_of(network.model)
    op = Emitter(graph)
    given = {x.name for x in graph.inputs}
    for name in choice.sources:
        if name not in given:
            value = detach(graph, name)  # first: it replaces the list of inputs
            graph.inputs.append(value)
    graph.toposort()
    weight = _target_weight(graph, choice.target)
    gradients = _gradients(op, choice, weight, rules)
    outputs = [_target_value(op, network, choice.target, weight, "target/value")]
    for layer in choice.layers:
        outputs.append(_named(op, graph.tensors()[layer], f"activation/{layer}"))
        outputs.append(_named(op, gradients[layer], f"gradient/{layer}"))
    return _finish(graph, outputs)


def path_program(network: Network, choice: Choice, *, delta: bool = True, rules: RuleTable = VJP) -> Program:
    """Path sums over many rows in one run: rows and terms are data.

    Inputs: `sample/<input>` for every model input, `sample/<source>` for hidden sources, and `baseline/<source>`, each
    `[samples, ...]` along its batch axis; `path/row_sample` and `path/row_alpha` `[rows]` say where each row lies;
    `path/gradient_row`, `path/left_row`, `path/right_row`, `path/weight`, `path/slot` `[terms]` are the summands
    `sum[slot] += weight * g[gradient_row] * (h[right_row] - h[left_row])`, without the difference if `delta` is False
    (alphas and weights are float64 and cast to the model's type); `path/slots` is a vector `[slots]` of any numbers;
    `target/weight` is `[samples, ...]`.
    Outputs: `sum/<layer>` `[slots, *unit shape]`, in float32 at least, and `target/value` `[rows]`.
    """
    graph = graph_of(network.model)
    op = Emitter(graph)
    row_sample = gs.Variable("path/row_sample", dtype=np.dtype(np.int64), shape=["path/rows"])
    row_alpha = gs.Variable("path/row_alpha", dtype=np.dtype(np.float64), shape=["path/rows"])
    graph.inputs += [row_sample, row_alpha]
    _interpolate(op, network, choice.sources, row_sample, row_alpha)
    graph.toposort()
    sample_weight = input_like(graph.tensors()[choice.target], "target/weight")
    graph.inputs.append(sample_weight)
    weight = _gather(op, sample_weight, _rows_of(network, choice.target), row_sample)
    weight.shape = graph.tensors()[choice.target].shape
    gradients = _gradients(op, choice, weight, rules)
    outputs = [_target_value(op, network, choice.target, weight, "target/value")]
    sums = _PathSums(op, delta, op("Shape", row_sample))
    for layer in choice.layers:
        h = graph.tensors()[layer]
        outputs.append(sums(h, gradients[layer], _rows_of(network, layer), f"sum/{layer}"))
    graph.inputs += sums.inputs
    return _finish(graph, outputs)


def deeplift_program(
    network: Network,
    choice: Choice,
    *,
    multiply: bool = True,
    rules: RuleTable = VJP,
    reveal_cancel: Where | None = None,
    near_zero: NearZero = "midpoint",
    shared: bool = False,
) -> Program:
    """DeepLIFT at x and x' (arXiv 1704.02685): the Rescale rule, or RevealCancel after some linear operators.

    Inputs are the network's own at x, hidden sources by name, `baseline/<source>` and `target/weight`. Outputs:
    `contribution/<layer>` in the layer's own shape (multipliers if not `multiply`), `target/value`, `target/baseline`,
    and `lost/<tensor>`: how much of the target's change goes through an operator without a secant, one number a run.

    With `shared`, `baseline/<source>` holds one row, and what the network makes of it stands for every row of x. That
    row meets the rows by broadcasting: a tensor that holds several elements of a row along its batch axis ends the run.
    """
    graph = graph_of(network.model)
    op = Emitter(graph)
    tensors = graph.tensors()
    references: dict[str, Value] = {}
    given = {x.name for x in graph.inputs}
    for name in choice.sources:
        value = tensors[name] if name in given else detach(graph, name)
        if name not in given:
            graph.inputs.append(value)
        references[name] = input_like(value, f"baseline/{name}", value.shape)
        graph.inputs.append(references[name])
    graph.toposort()
    moving = dependents(list(graph.nodes), choice.sources)
    clone(graph, references)
    if shared:
        tensors = graph.tensors()
        for name, there in references.items():
            if there.shape is not None:
                there.shape = [d if isinstance(d, int) else f"reference/{d}" for d in there.shape]
            sizes = op("Shape", tensors[name])
            sizes.shape = [len(tensors[name].shape or ())]
            references[name] = op("Expand", there, sizes)
            references[name].shape = tensors[name].shape
    weight = _target_weight(graph, choice.target)
    reference = references.get(choice.target, graph.tensors()[choice.target])
    lost = Lost()
    choose, table = secant_of(references, moving, near_zero, lost), {**STEPS, **UNFOLLOWED, **rules}
    outputs = [
        _target_value(op, network, choice.target, weight, "target/value"),
        _target_value(op, network, choice.target, weight, "target/baseline", reference),
    ]
    if reveal_cancel is None:
        multipliers = _gradients(op, choice, weight, table, choose, dependents)
        huge: Known = {}
        for layer, m in multipliers.items():
            h = graph.tensors()[layer]
            here, there = (op.cast(x, m.dtype) for x in (h, references[layer]))
            result = op("Mul", m, difference(op, here, there, huge)) if multiply else m
            outputs.append(_named(op, result, f"contribution/{layer}"))
        return _finish(graph, outputs + _losses(op, lost.found))
    _check_moving(op, choice)
    seeds = {choice.target: weight}
    found = reveal(op, seeds, choice.layers, references, moving, table, choose, dependents, reveal_cancel)
    for layer in choice.layers:
        if layer not in found:
            raise no_way(list(graph.nodes), layer, seeds)
        outputs.append(_named(op, found[layer][0 if multiply else 1], f"contribution/{layer}"))
    return _finish(graph, outputs + _losses(op, lost.found))


def _losses(op: Emitter, lost: dict[str, Value]) -> list[gs.Variable]:
    """What goes through tensors without a secant."""
    return [_named(op, v, f"lost/{name}") for name, v in lost.items()]


def clone(graph: gs.Graph, references: dict[str, Value]) -> None:
    """Adds the network at the reference: a copy of every node that depends on a source, shapes included."""
    copies: list[gs.Node] = []
    for node in list(graph.nodes):
        if not any(x.name in references for x in inputs_of(node)):
            continue
        outputs = []
        for z in node.outputs:
            twin = gs.Variable.empty()
            if not z.is_empty():
                twin = gs.Variable(f"reference/{z.name}", dtype=z.dtype, shape=z.shape)
                references.setdefault(z.name, twin)
            outputs.append(twin)
        inputs = [references.get(x.name, x) if not x.is_empty() else x for x in node.inputs]
        attributes = attributes_of(node, references, "reference")
        copies.append(
            gs.Node(
                node.op,
                node.name and f"reference/{node.name}",
                attributes,
                inputs,
                outputs,
                domain=node.domain,
            )
        )
    graph.nodes.extend(copies)


def _gradients(
    op: Emitter,
    choice: Choice,
    weight: Value,
    rules: RuleTable,
    choose: Choose = gradient_of,
    reach: Reach = reachable,
) -> dict[str, Value]:
    _check_moving(op, choice)
    return differentiate(op, {choice.target: weight}, choice.layers, rules=rules, choose=choose, reach=reach)


def _check_moving(op: Emitter, choice: Choice) -> None:
    """Refuses a layer that does not depend on a source."""
    moving = dependents(list(op.graph.nodes), choice.sources)
    for layer in choice.layers:
        if layer not in moving:
            raise NotDifferentiable(
                f"layer {layer!r} does not depend on the source {', '.join(map(repr, choice.sources))}",
                reason=Reason.NO_PATH, layer=layer,
            )  # fmt: skip


def _rows_of(network: Network, tensor: str) -> RowAxis:
    rows = network.rows.get(tensor)
    if rows is None:
        raise NotSeparable(f"the rows of {tensor!r} are not separable")
    return rows


class NotSeparable(Exception):
    """The rows of a tensor cannot share a run; use rows one by one."""


def _interpolate(
    op: Emitter, network: Network, sources: Sequence[str], row_sample: Value, row_alpha: Value
) -> None:
    """Replaces the inputs by rows: sources on the line from baseline to sample, the others at the sample."""
    graph = op.graph
    tensors = graph.tensors()
    for name in [*dict.fromkeys([*(x.name for x in graph.inputs), *sources])]:
        if name.startswith("path/row_"):
            continue
        if name in network.input_axes:
            axis = network.input_axes[name]
            if axis is None and name not in sources:
                continue  # shared by all rows
            if axis is None:
                raise NotSeparable(f"the rows of {name!r} are not separable")
            place = RowAxis(axis)
        else:
            place = _rows_of(network, name)
        value = detach(graph, name) if name in tensors else tensors[name]
        sample = input_like(value, f"sample/{name}")
        graph.inputs.append(sample)
        rows = _gather(op, sample, place, row_sample)
        if name in sources:
            baseline = input_like(value, f"baseline/{name}")
            graph.inputs.append(baseline)
            rank = len(shape_of(value) or ())
            alpha = op.cast(row_alpha, value.dtype)
            if place.factor != 1:
                each = np.ones((1, place.factor), dtype=value.dtype)
                alpha = op("Mul", op("Reshape", alpha, op.ints([-1, 1])), op.constant(each))
            alpha = op("Reshape", alpha, op.ints([-1] + [1] * (rank - place.axis - 1)))
            rest = op("Sub", op.like(value, 1), alpha)
            low = _gather(op, baseline, place, row_sample)
            rows = op("Add", op("Mul", alpha, rows), op("Mul", rest, low))
        rows.dtype, rows.shape = value.dtype, value.shape
        graph.nodes.append(gs.Node("Identity", f"rows/{name}", inputs=[rows], outputs=[value]))


def _gather(op: Emitter, samples: Value, place: RowAxis, row_sample: Value) -> Value:
    """The samples of the rows, `factor` neighbouring elements each."""
    if place.factor != 1:
        first = op("Mul", op("Reshape", row_sample, op.ints([-1, 1])), op.ints([place.factor]))
        offsets = op.constant(np.arange(place.factor, dtype=np.int64).reshape(1, -1))
        row_sample = op("Reshape", op("Add", first, offsets), op.ints([-1]))
    return op("Gather", samples, row_sample, axis=place.axis)


class _PathSums:
    """The sums over terms, with the small matrix that all layers share.

    Rows are picked rather than multiplied by 0 and 1, so that NaN in one of them is not in all differences. The sum by
    slot is a product, which is fast: NaN in one slot of an element is in all slots of that element.
    """

    def __init__(self, op: Emitter, delta: bool, rows: Value) -> None:
        self.op, self.delta, self.rows = op, delta, rows
        names = ["gradient_row", "weight", "slot", "slots"] + (["left_row", "right_row"] if delta else [])
        kinds = {"weight": np.float64, "slots": np.float32}
        by_name = {
            n: gs.Variable(
                f"path/{n}",
                dtype=np.dtype(kinds.get(n, np.int64)),
                shape=["path/slots" if n == "slots" else "path/terms"],
            )
            for n in names
        }
        self.inputs = list(by_name.values())
        self.gradient_row = by_name["gradient_row"]
        self.ends = [by_name[n] for n in ("right_row", "left_row") if n in by_name]
        bits = op.constant(np.asarray([0, 1], dtype=np.float32))
        hot = op("OneHot", by_name["slot"], op("Shape", by_name["slots"]), bits, axis=0)
        hot.dtype = np.dtype(np.float32)
        self.hot, self.weight = hot, by_name["weight"]
        self.slots = op("Shape", by_name["slots"])

    def __call__(self, h: Value, g: Value, rows: RowAxis, name: str) -> gs.Variable:
        op = self.op
        wide = np.float64 if np.dtype(h.dtype) == np.float64 else np.float32
        front = self._front(g, rows)
        unit = op("Shape", front, start=1)
        if rows.factor != 1:
            unit = op("Concat", op.ints([rows.factor]), unit, axis=0)
        flat_g = op("Gather", op.cast(self._flat(front), wide), self.gradient_row, axis=0)
        if self.delta:
            flat_h = op.cast(self._flat(self._front(h, rows)), wide)
            flat_g = op("Mul", flat_g, op("Sub", *(op("Gather", flat_h, end, axis=0) for end in self.ends)))
        by_slot = op("Mul", op.cast(self.hot, wide), op.cast(self.weight, wide))
        summed = op("MatMul", by_slot, flat_g)
        return _named(op, op("Reshape", summed, op("Concat", self.slots, unit, axis=0), allowzero=1), name)

    def _front(self, value: Value, rows: RowAxis) -> Value:
        """The value with its rows in front."""
        rank = len(shape_of(value) or ())
        if rows.axis == 0:
            return value
        return self.op("Transpose", value, perm=[rows.axis, *(k for k in range(rank) if k != rows.axis)])

    def _flat(self, front: Value) -> Value:
        return self.op("Reshape", front, self.op("Concat", self.rows, self.op.ints([-1]), axis=0))


def _target_weight(graph: gs.Graph, target: str) -> gs.Variable:
    value = graph.tensors()[target]
    weight = input_like(value, "target/weight", value.shape)
    graph.inputs.append(weight)
    return weight


def _target_value(
    op: Emitter, network: Network, target: str, weight: Value, name: str, value: Value | None = None
) -> gs.Variable:
    """The weighted sum of the target tensor per row; elements of weight 0 may hold anything, infinities too."""
    tensor = op.graph.tensors()[target] if value is None else value
    rank = len(shape_of(tensor) or ())
    zero = op.like(tensor, 0)
    chosen = op("Where", op("Equal", weight, zero), zero, op("Mul", tensor, weight))
    rows = network.rows.get(target)
    if network.batch == "single" or rows is None:
        total = op("ReduceSum", chosen, op.ints(range(rank)), keepdims=0) if rank else chosen
        return _named(op, op("Reshape", total, op.ints([1])), name)
    others = [k for k in range(rank) if k != rows.axis]
    summed = op("ReduceSum", chosen, op.ints(others), keepdims=0) if others else chosen
    if rows.factor != 1:
        summed = op("ReduceSum", op("Reshape", summed, op.ints([-1, rows.factor])), op.ints([1]), keepdims=0)
    return _named(op, summed, name)


def _named(op: Emitter, value: Value, name: str) -> gs.Variable:
    out = gs.Variable(name, dtype=value.dtype)
    op.graph.nodes.append(gs.Node("Identity", f"output/{name}", inputs=[value], outputs=[out]))
    return out


def _exposed(graph: gs.Graph, name: str) -> gs.Variable:
    value: gs.Variable = graph.tensors()[name]
    if any(x is value for x in graph.inputs):
        out = gs.Variable(f"output/{name}", dtype=value.dtype)
        graph.nodes.append(gs.Node("Identity", f"output/{name}", inputs=[value], outputs=[out]))
        return out
    return value


def _finish(graph: gs.Graph, outputs: Sequence[gs.Variable]) -> Program:
    """The program with these outputs, without the inputs that nothing reads any more."""
    graph.outputs = list(outputs)
    require_own_names(graph)
    graph.cleanup(remove_unused_graph_inputs=True, recurse_subgraphs=False)  # inner inputs are positional
    model = model_of(graph)
    return Program(model, tuple(x.name for x in model.graph.input), tuple(o.name for o in model.graph.output))
