"""The default sources of a target: embeddings of tokens, float inputs, or the floats that integers become."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import is_float, shape_of
from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY, ancestors, dependents, reachable
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inputs_of
from onnx_attribution.graph_tools.select.cuts import is_cut

LOOKUPS = frozenset({"ArrayFeatureExtractor", "Gather", "GatherBlockQuantized", "GatherElements", "GatherND"})
"""Operators that look up rows of their first input."""
_SCATTERS = frozenset({"ScatterElements", "ScatterND"})
_WEIGHTED = frozenset(
    {"Einsum", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat"}
)
"""Products of two inputs, either of which may be the weights."""
_LAYERS = frozenset(
    {"Attention", "BiasGelu", "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeLSTM"}
    | {
        "DynamicQuantizeMatMul",
        "FusedConv",
        "GRU",
        "LSTM",
        "LinearClassifier",
        "LinearRegressor",
        "MatMulBnb4",
    }
    | {"MatMulNBits", "QAttention", "QLinearConv", "QLinearMatMul", "RNN", "SVMClassifier", "SVMRegressor"}
)
"""Operators that apply weights to their first input."""
_SUMS = frozenset({"Add", "Sum"})
_MIXING = frozenset(
    {"Add", "Div", "Max", "Mean", "Min", "Mul", "SkipLayerNormalization", "Sub", "Sum", "Where"}
)
_VIEWS = frozenset(
    {"Cast", "Dropout", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)


def default_sources(graph: gs.Graph, target: str) -> list[str]:
    """What is explained where no source is named.

    Where integers or text are looked up in tables, that is what is found there (of lookups that are added up, the
    sum), and the float inputs that go through weights as it does; a mask, a bias or a cache beside tokens does not.
    Without tables they are the float inputs, and the integers that go through weights, at the tensors in which they
    become floats; without float inputs, all of these tensors.
    """
    return _Choice(graph, target).sources()


def held(graph: gs.Graph, sources: Sequence[str], target: str) -> list[str]:
    """The inputs that reach the target by a way which crosses none of the sources."""
    nodes = list(graph.nodes)
    behind = ancestors(nodes, [target])
    return [x.name for x in graph.inputs if x.name in behind and not is_cut(nodes, [x.name], target, sources)]


def token_tensors(graph: gs.Graph, sources: Sequence[str], target: str) -> list[gs.Tensor]:
    """The inputs that lead to the target, and what is made of them before hidden sources, in order."""
    nodes = list(graph.nodes)
    hidden = [name for name in sources if all(name != x.name for x in graph.inputs)]
    behind = ancestors(nodes, [target], frozenset(sources))
    before = ancestors(nodes, hidden) & dependents(nodes, [x.name for x in graph.inputs]) - set(hidden)
    found = [x for x in graph.inputs if x.name in behind or x.name in before]
    return found + [z for node in nodes for z in node.outputs if z.name in before]


class _Choice:
    def __init__(self, graph: gs.Graph, target: str) -> None:
        self.graph, self.target = graph, target
        self.behind = ancestors(list(graph.nodes), [target])
        # in the order of the file, and only what leads to the target
        self.nodes = [node for node in graph.nodes if any(z.name in self.behind for z in node.outputs)]
        self.moved = dependents(self.nodes, [x.name for x in graph.inputs])

    def sources(self) -> list[str]:
        nodes, behind, moved = self.nodes, self.behind, self.moved
        inputs = [x.name for x in self.graph.inputs if x.name in behind]
        floats = [x.name for x in self.graph.inputs if is_float(x) and x.name in inputs]
        live = [name for name in floats if self._leads(name)]
        by_tokens = dependents(nodes, [name for name in inputs if name not in live])
        by_integers = dependents(nodes, [name for name in inputs if name not in floats])
        by_casts = dependents(nodes, _cast(nodes, [name for name in floats if name not in live]))
        tables = [
            name
            for name in _looked_up(nodes, moved, by_tokens, by_integers | by_casts)
            if name in behind and self._leads(name)
        ]
        if tables:
            main = self._main(tables, [*tables, *inputs], tables) or tables
            return [*self._main(live, [*main, *inputs], ()), *_summed(nodes, main, moved, behind)]
        entries = [
            name
            for name in _entries(nodes, moved & behind, moved)
            if name in by_integers and self._leads(name)
        ]
        entries = [e for e in entries if not ancestors(nodes, [e]) & {*entries} - {e}]  # rounded on the way
        if not live:
            return entries or floats  # every way from floats is blocked; the walk will name by what
        by_floats, tensors = dependents(nodes, live), self.graph.tensors()
        entries = [
            e for e in entries if e not in by_floats and len(shape_of(tensors[e]) or ()) >= 2
        ]  # no settings
        entries = self._main(entries, [*entries, *inputs], ())
        return [*self._main(live, [*entries, *inputs], ()), *entries] if entries else live

    def _leads(self, name: str) -> bool:
        return self.target in reachable(self.nodes, [name])

    def _main(self, names: Sequence[str], others: Sequence[str], tables: Sequence[str]) -> list[str]:
        """Those that go through weights before they meet what depends on others, as data does.

        What is only multiplied with others or added to them at fewer dimensions is a mask, a bias, an angle; what is
        joined to them along an axis that is not the last, a cache.
        """
        return [name for name in names if self._is_main(name, others, name in tables)]

    def _is_main(self, name: str, others: Sequence[str], is_table: bool) -> bool:
        own = ancestors(self.nodes, [name])
        foreign = dependents(self.nodes, [other for other in others if other not in own])
        found = {name}
        for node in self.nodes:
            mine = [k for k, x in enumerate(node.inputs) if x.name in found]
            if node.op in SHAPE_ONLY or not (mine or any(x.name in found for x in inputs_of(node))):
                continue
            if graphs_of(node):
                if node.op != "If" or mine != [0]:
                    return True
                continue
            if _applies_weights(node, mine, self.moved):
                return True
            meets = any(is_float(x) and x.name in foreign and x.name not in found for x in node.inputs)
            if not meets or _carries(node, mine, is_table, foreign - found):
                found.update(z.name for z in node.outputs if not z.is_empty())
        return False


def _applies_weights(node: gs.Node, mine: Sequence[int], moved: set[str]) -> bool:
    if node.op in _LAYERS:
        return 0 in mine
    return node.op in _WEIGHTED and any(
        k < 2 and len(node.inputs) > 1 and node.inputs[1 - k].name not in moved for k in mine
    )


def _carries(node: gs.Node, mine: Sequence[int], is_table: bool, foreign: set[str]) -> bool:
    """Whether what a node makes of ours and of others still is ours: as many elements of it, or its own places."""
    if node.op == "Concat":
        rank = len(shape_of(node.outputs[0]) or ())
        return is_table or int(node.attrs.get("axis", 0)) in (-1, rank - 1)
    if node.op not in _MIXING or not any(_is_full(node.inputs[k], node.outputs[0]) for k in mine):
        return False
    scaled = node.op in ("Div", "Mul") and not is_table
    return not (scaled and any(x.name in foreign and _is_full(x, node.outputs[0]) for x in node.inputs))


def _is_full(value: gs.Tensor, result: gs.Tensor) -> bool:
    """Whether a value has as many elements as the result, as far as is known: it is not broadcast."""
    shape, full = shape_of(value), shape_of(result)
    if shape is None or full is None:
        return True
    return len(shape) == len(full) and not any(a == 1 != b for a, b in zip(shape, full, strict=True))


def _looked_up(nodes: Sequence[gs.Node], moved: set[str], tokens: set[str], integers: set[str]) -> list[str]:
    """The float tensors that are looked up in tables by tokens: embeddings and one-hot vectors.

    What a network makes of floats by counting is no one-hot vector; `integers` do not depend on that.
    """
    found = []
    for node in nodes:
        first = node.inputs[0] if node.inputs else None
        if first is None or not node.outputs:
            continue
        if node.op in LOOKUPS or node.op in _SCATTERS:
            at = node.inputs[1].name if len(node.inputs) > 1 else ""
            by = tokens if node.op in ("Gather", "GatherBlockQuantized") else integers
            is_one = first.name not in moved and at in by and _is_table(node, first)
        elif node.op == "Equal":
            other = [x for x in node.inputs if x.name not in integers]
            is_one = len(other) == 1 and other[0].name not in moved and _is_range(other[0])
        else:
            is_one = (
                node.op in ("EmbedLayerNormalization", "OneHot", "OneHotEncoder") and first.name in integers
            )
        made = _as_float(node.outputs[0]) if is_one else None
        if made is not None and made.name not in found:
            found.append(made.name)
    return found


def _cast(nodes: Sequence[gs.Node], floats: Sequence[str]) -> list[str]:
    """The integers that float inputs are cast to as they are given: tokens that a file declares as floats."""
    found, made = set(floats), []
    for node in nodes:
        if node.op in _VIEWS and node.inputs[0].name in found:
            if is_float(node.outputs[0]):
                found.add(node.outputs[0].name)
            elif np.issubdtype(node.outputs[0].dtype, np.integer):
                made.append(node.outputs[0].name)
    return made


def _is_table(node: gs.Node, data: gs.Tensor) -> bool:
    """Whether rows are looked up in the data, not numbers of a list; what is scattered to is taken."""
    shape = shape_of(data)
    return node.op in _SCATTERS or (shape is not None and len(shape) >= 2)


def _is_range(value: gs.Tensor) -> bool:
    """Whether a constant lists numbers, as a one-hot vector is made by comparing with all of them."""
    if not isinstance(value, gs.Constant):
        return False
    return value.shape is not None and max(value.shape, default=1) > 1


def _as_float(value: gs.Tensor) -> gs.Tensor | None:
    """The value, or the float tensor that it is cast or dequantised to."""
    while not is_float(value):
        makers = [
            n for n in value.outputs if n.op in ("Cast", "DequantizeLinear", *_VIEWS) and n.inputs[0] is value
        ]
        if len(value.outputs) != 1 or not makers:
            return None
        value = makers[0].outputs[0]
    return value


def _entries(nodes: Sequence[gs.Node], wanted: set[str], moved: set[str]) -> list[str]:
    """The float tensors that are made of what moves, but of no floats that do."""
    return [
        z.name
        for node in nodes
        if node.op not in SHAPE_ONLY and not any(is_float(x) and x.name in moved for x in inputs_of(node))
        for z in node.outputs
        if z.name in wanted and is_float(z)
    ]


def _summed(nodes: Sequence[gs.Node], tables: Sequence[str], moved: set[str], behind: set[str]) -> list[str]:
    """The tables, those in one which are added up with nothing else that moves: words, their kinds and places."""
    readers: dict[str, list[gs.Node]] = {}
    combined, chains = set(tables), {name: [name] for name in tables}
    for node in nodes:
        if node.op in SHAPE_ONLY or not any(z.name in behind for z in node.outputs):
            continue
        given = [x.name for x in inputs_of(node) if x.name in moved]
        for name in dict.fromkeys(given):
            readers.setdefault(name, []).append(node)
        adds = node.op in _SUMS or (len(given) == 1 and node.op in (*_VIEWS, "Div", "Mul"))
        if adds and given and all(name in combined for name in given):
            combined.update(z.name for z in node.outputs)
    for chain in chains.values():
        while len(readers.get(chain[-1], ())) == 1 and readers[chain[-1]][0].outputs[0].name in combined:
            chain.append(readers[chain[-1]][0].outputs[0].name)
    groups: list[list[str]] = []
    for name in tables:
        same = [g for g in groups if any(set(chains[name]) & set(chains[other]) for other in g)]
        groups = [g for g in groups if g not in same] + [[name, *(n for g in same for n in g)]]
    first = {
        min(g, key=tables.index): next(
            t for t in chains[g[0]] if all(t in chains[other] for other in g)
        ) if len(g) > 1 else g[0]
        for g in groups
    }  # fmt: skip
    return [first[name] for name in tables if name in first]


def words(names: Iterable[str]) -> str:
    """The names in quotes."""
    return ", ".join(map(repr, names))
