"""Whether a model can be served, as far as its file tells without its weights and without onnxruntime reading it."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.normalise.map_inputs import behind_maps
from onnx_attribution.graph_tools.read.example_inputs import require_tensors
from onnx_attribution.graph_tools.read.load import ModelSource, load
from onnx_attribution.server.engine.models.card_file import card_of
from onnx_attribution.server.engine.models.read import said

Operator = tuple[str, str]
NEWEST = 1 << 30


def is_doubtful(source: ModelSource, card: Path | None = None) -> bool:
    """Whether only loading it will tell: it has operators that onnxruntime may not have.

    Raises:
        ModelError: it cannot be loaded, for a reason that loading would give too.
    """
    model, _ = behind_maps(load(source, Weights(kept=False)))
    require_tensors(model)
    found = card_of(source, card)
    if found.example_file:
        found.example_for(said(model))
    return any(not _is_known(operator, version) for operator, version in _operators(model))


def _operators(model: onnx.ModelProto) -> set[tuple[Operator, int]]:
    """The operators of a model but its own functions, each with the version of its domain; where that is not
    imported, onnxruntime takes its newest."""
    own = {(_plain(f.domain), f.name) for f in model.functions}
    parts = [(model.graph.node, model.opset_import), *((f.node, f.opset_import) for f in model.functions)]
    found = set()
    for nodes, imported in parts:
        versions = {_plain(entry.domain): entry.version for entry in imported}
        for node in _every(nodes):
            operator = _plain(node.domain), node.op_type
            if operator not in own:
                found.add((operator, versions.get(operator[0], NEWEST)))
    return found


def _every(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in inner_graphs(node):
            yield from _every(graph.node)


def _is_known(operator: Operator, version: int) -> bool:
    since = [one for one in _schemas().get(operator, {}) if one <= version]
    return bool(since) and not _schemas()[operator][max(since)]


@functools.cache
def _schemas() -> dict[Operator, dict[int, bool]]:
    """The operators that onnxruntime knows, each with the versions in which it changed, and whether it ended there."""
    found: dict[Operator, dict[int, bool]] = defaultdict(dict)
    for schema in getattr(runtime, "get_all_operator_schema", onnx.defs.get_all_schemas_with_history)():
        found[_plain(schema.domain), schema.name][schema.since_version] = schema.deprecated
    return found


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
