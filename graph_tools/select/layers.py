"""The tensors that can be attributed to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import element_type, is_float, shape_of
from onnx_attribution.graph_tools.ir.reach import ancestors, reachable
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of, key_of
from onnx_attribution.graph_tools.operators import OPERATORS
from onnx_attribution.graph_tools.select.cuts import cut_tensors
from onnx_attribution.values import EVERY_KIND, EVERY_TENSOR, LayerInfo

FUNCTIONS = frozenset({"Abs", "Atan", "Erf"})
"""Operators of the kind of activations that are a part of one rather than one by themselves."""
ACTIVATIONS = frozenset(
    key for key, rule in OPERATORS.items() if "activation" in rule.kinds and key[1] not in FUNCTIONS
) | {
    *(("", operator) for operator in ("LogSoftmax", "Softmax")),
    *(
        ("com.microsoft", operator)
        for operator in (
            "BiasGelu", "BiasSplitGelu", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMulActivation", "GemmFastGelu",
            "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax",
        )
    ),
}  # fmt: skip
POOLS = frozenset(key for key in OPERATORS if "Pool" in key[1] and "Unpool" not in key[1])
NORMS = frozenset(
    key for key in OPERATORS if key[1] == "LRN" or key[1].endswith(("Normalization", "GroupNorm"))
)
SKIPS = frozenset({"SkipGroupNorm", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
"""Normalisations of a residual addition, which is another output, the last one."""
ADDITIONS = frozenset(
    {("", "Add"), ("", "Sum"), ("com.microsoft", "BiasAdd"), ("com.microsoft", "QLinearAdd")}
)
"""Residual additions, where two or more of the tensors move."""
CONVOLUTIONS = frozenset(("", operator) for operator in ("Conv", "ConvTranspose", "QLinearConv"))
GATES = frozenset({"HardSigmoid", "Sigmoid"})
"""Operators whose product with their own input is an activation: SiLU and HardSwish, as files spell them."""


def every_layer(graph: gs.Graph, sources: Sequence[str], targets: Sequence[str], pattern: str) -> list[str]:
    """The float tensors between the sources and all of the targets, in order: for `**` all, both ends included, for `*`
    the outputs of activations, pooling, normalisation and residual additions."""
    nodes, given = list(graph.nodes), frozenset(sources)
    moving = reachable(nodes, sources)
    between = set(moving)
    for target in targets:
        between &= ancestors(nodes, [target], given)
    makers = {z.name: node for node in nodes for z in node.outputs}
    found = [z for node in nodes for z in _chosen(node, moving, makers, pattern)]
    ends = [name for name in sources if pattern == EVERY_TENSOR and name in between]
    return list(dict.fromkeys([*ends, *(z.name for z in found if z.name in between and is_float(z))]))


def _chosen(
    node: gs.Node, moving: Collection[str], makers: dict[str, gs.Node], pattern: str
) -> Sequence[gs.Tensor]:
    if pattern == EVERY_TENSOR:
        return list(node.outputs)
    assert pattern == EVERY_KIND
    key = key_of(node)
    if key in NORMS and key[1] in SKIPS:
        return [node.outputs[0], *node.outputs[-1:]]
    if key in ACTIVATIONS | POOLS | NORMS:
        return list(node.outputs[:1])
    moved = {x.name for x in inputs_of(node) if x.name in moving}
    if key in ADDITIONS and len(moved) > 1:
        return list(node.outputs)
    if key == ("", "Mul") and len(moved) > 1 and any(_gates(makers.get(x), moved) for x in moved):
        return list(node.outputs)
    return []


def _gates(maker: gs.Node | None, moved: Collection[str]) -> bool:
    """Whether a node makes what its own input, one of these, is multiplied by."""
    return maker is not None and maker.op in GATES and inputs_of(maker)[0].name in moved


def last_with_positions(graph: gs.Graph, sources: Sequence[str], targets: Sequence[str]) -> str | None:
    """The last tensor between the sources and all of the targets that has positions behind axes of samples and
    channels: of those that a convolution, an activation but for a Softmax, a pool, a normalisation, a residual addition
    or a Concat makes, and that every way crosses, if there is one. None: there is none."""
    nodes = list(graph.nodes)
    joined = {node.outputs[0].name for node in nodes if key_of(node) in CONVOLUTIONS | {("", "Concat")}}
    shares = {node.outputs[0].name for node in nodes if node.op in ("LogSoftmax", "Softmax")}
    kinds = {*every_layer(graph, sources, targets, EVERY_KIND), *joined} - {*sources, *targets, *shares}
    between, tensors = every_layer(graph, sources, targets, EVERY_TENSOR), graph.tensors()
    found = [name for name in between if name in kinds and _has_positions(tensors[name])]
    cuts = set(found).intersection(*(cut_tensors(nodes, sources, target) for target in targets))
    return next((name for name in reversed(found) if not cuts or name in cuts), None)


def _has_positions(value: gs.Tensor) -> bool:
    """Whether there are axes behind the first two, and not all of one element."""
    shape = shape_of(value)
    return shape is not None and any(size != 1 for size in shape[2:])


def layers_between(graph: gs.Graph, sources: Sequence[str], target: str) -> list[LayerInfo]:
    """The float tensors between the sources and the target, in order, both ends included."""
    nodes = list(graph.nodes)
    between = reachable(nodes, sources) & ancestors(nodes, [target], frozenset(sources))
    cuts = cut_tensors(nodes, sources, target)
    ordered = [name for name in sources if name in between]
    made = [z for node in nodes for z in node.outputs if z.name in between and is_float(z)]
    return described(graph, [*ordered, *(z.name for z in made if z.name not in sources)], cuts)


def described(graph: gs.Graph, names: Sequence[str], cuts: Collection[str]) -> list[LayerInfo]:
    """What is known of the tensors of these names."""
    tensors = graph.tensors()
    made_by = {z.name: node for node in graph.nodes for z in node.outputs}
    return [
        LayerInfo(
            name=name,
            node=made_by[name].name if name in made_by else "",
            operator=made_by[name].op if name in made_by else "input",
            dtype="string" if element_type(tensors[name]).kind in "OUS" else element_type(tensors[name]).name,
            shape=shape_of(tensors[name]),
            cut=name in cuts,
        )
        for name in names
    ]
