"""Shapes as inference and runs find them: what a file declares inside of itself is not believed.

Exporters fix a batch of 1, editors leave old shapes behind, and nothing in the way of such a file complains. A rule
that took such a number for the truth would be wrong without a word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, made_in, placed_graphs
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.ir.shapes import (
    Dim,
    Dims,
    dims_of,
    grown,
    set_dims,
    sizes_of,
)
from onnx_attribution.graph_tools.normalise.counts import counted
from onnx_attribution.graph_tools.normalise.declarations import OWN, believe_scans, forget
from onnx_attribution.graph_tools.normalise.observed import Place, Seen, runs_at_sizes, seen_in
from onnx_attribution.values import Array

ROUNDS = 8  # in which the shapes that a Loop carries have to settle


# --- what is declared


# --- what inference knows


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the shapes that ONNX's inference derives from those of the inputs alone."""
    copy = copied(model)
    forget(copy)
    found = _inferred(copy)
    carried = _Carried()
    for _ in range(ROUNDS):
        if not carried.weaken(found):
            break
        carried.declare(copy)
        found = _inferred(copy)
    else:
        carried.give_up(copy)
        found = _inferred(copy)
    for _ in range(ROUNDS):
        if not counted(found):
            break
        found = _inferred(found)
    return found


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    for data_prop in (True, False):
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            return onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
    return model


class _Carried:
    """The shapes of what Loops carry: that of the start, weakened until an iteration keeps it."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[Dims | None]] = {}  # by the place of the node

    def weaken(self, model: onnx.ModelProto) -> bool:
        """Takes in what inference found; False if nothing has changed."""
        before = dict(self.shapes)
        for place, node, body, known in _loops(model.graph, "", {}):
            current = self.shapes.get(place, [known.get(x) for x in node.input[OWN:]])
            if place in self.shapes:
                ends = [dims_of(z) for z in body.output[1 : 1 + len(current)]]
                current = [_joined(a, b) for a, b in zip(current, ends, strict=True)]
            self.shapes[place] = current
        return self.shapes != before

    def declare(self, model: onnx.ModelProto) -> None:
        """Declares, in place, the inputs of the bodies."""
        for place, _, body, _ in _loops(model.graph, "", {}):
            for x, dims in zip(body.input[OWN:], self.shapes.get(place, []), strict=False):
                if x.type.HasField("tensor_type") or not x.type.WhichOneof("value"):
                    set_dims(x, dims)

    def give_up(self, model: onnx.ModelProto) -> None:
        """Declares, in place, that nothing is known of them."""
        self.shapes = {place: [None] * len(shapes) for place, shapes in self.shapes.items()}
        self.declare(model)


def _joined(left: Dims | None, right: Dims | None) -> Dims | None:
    """What two shapes have in common."""
    if left is None or right is None or len(left) != len(right):
        return None
    return tuple(a if a == b else None for a, b in zip(left, right, strict=True))


_Known = Mapping[str, Dims | None]


def _loops(
    graph: onnx.GraphProto, place: str, outer: _Known
) -> Iterator[tuple[str, onnx.NodeProto, onnx.GraphProto, _Known]]:
    """Each Loop with its place, its body, and the shapes of the values around it."""
    held = {t.name: tuple(t.dims) for t in graph.initializer}
    infos: Iterable[onnx.ValueInfoProto] = (*graph.input, *graph.value_info, *graph.output)
    known = {**outer, **held, **{v.name: dims_of(v) for v in infos}}
    for index, node in enumerate(graph.node):
        for number, inner in enumerate(inner_graphs(node)):
            here = f"{place}/{index}.{number}"
            if node.op_type == "Loop":
                yield here, node, inner, known
            yield from _loops(inner, here, known)


# --- what runs show


def typed(
    model: onnx.ModelProto,
    run: Runner,
    sample: Mapping[str, Array],
    ranks: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """The model with the type and rank of every tensor declared: inferred, and compared with runs at several sizes.

    A number or a symbol that a run contradicts is unknown from then on; a rank that inference does not know is that
    of the runs. A number that only runs know is taken where the sizes of the inputs decide it and are fixed, but for
    one that is 1, the batch. `ranks` are believed of what no run has reached: branches that the sample does not take.
    """
    believed = {**(ranks or {}), **ranks_told(model)}
    found = inferred(model)
    believe_scans(found, believed)
    symbols = sizes_of(found, sample)
    runs = [seen for seen in runs_at_sizes(found, run, sample) if seen]
    alone = bool(runs) and not symbols
    if runs and list(symbols.values()) == [1] and any(_is_open(v) for v in found.graph.value_info):
        more = seen_in(found, run, grown(found, sample, dict.fromkeys(symbols, 7)))
        alone, runs = more is not None and len(runs) > 1, [*runs, *([more] if more else [])]
    _declare(found, runs, decided_by_sizes(found.graph) if alone else frozenset())
    if _believe(found, believed):
        found = _inferred(found)
        believe_scans(found, believed)
        _declare(found, runs, frozenset())
    return found


@dataclass(frozen=True)
class Size:
    """The size of an axis: in the first run, and in all of them or None; whether inference knows it as a number."""

    first: int | None
    always: int | None
    fixed: bool


def sizes_seen(
    model: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]
) -> dict[Place, tuple[Size, ...]]:
    """By tensor, the sizes of the axes at several sizes of the inputs; tensors whose rank differs are left out.

    That what no inference knows is always the same is believed of several runs only.
    """
    found = inferred(model)
    symbols = sizes_of(found, sample)
    runs = [seen for seen in runs_at_sizes(found, run, sample) if seen]
    told: dict[Place, tuple[Size, ...]] = {}
    for place, graph in placed_graphs(found.graph, ""):
        declared = {v.name: dims_of(v) for v in (*graph.input, *graph.value_info, *graph.output)}
        for name in dict.fromkeys([*declared, *made_in(graph)]):
            shapes = [s for r in runs for s in r.shapes.get((place, name), ())]
            if not place and name in sample:
                shapes = [np.shape(sample[name])]
            dims, ranks = declared.get(name), {len(s) for s in shapes}
            if len(ranks) > 1 or (dims is None and not ranks):
                continue
            if dims is None or (ranks and len(dims) not in ranks):
                dims = (None,) * ranks.pop()
            told[place, name] = tuple(
                _size(d, [s[k] for s in shapes], len(runs) > 1 and d not in symbols)
                for k, d in enumerate(dims)
            )
    return told


def _size(dim: Dim, seen: Sequence[int], varied: bool) -> Size:
    """An axis of a size that inference knows, or not, with what the runs have; `varied`: they would show more sizes."""
    first = seen[0] if seen else dim if isinstance(dim, int) else None
    if isinstance(dim, int) and all(size == dim for size in seen):
        return Size(first, dim, fixed=True)
    same = varied and not isinstance(dim, int) and len(set(seen)) == 1
    return Size(first, first if same else None, fixed=False)


def ranks_told(model: onnx.ModelProto) -> dict[str, int]:
    """The ranks that a file declares inside of itself, by name; those that differ between places are left out."""
    found: dict[str, set[int]] = {}
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        graphs += [inner for node in graph.node for inner in inner_graphs(node)]
        for value in (*graph.value_info, *graph.input, *graph.output):
            if (dims := dims_of(value)) is not None:
                found.setdefault(value.name, set()).add(len(dims))
    return {name: ranks.pop() for name, ranks in found.items() if len(ranks) == 1}


def _believe(model: onnx.ModelProto, ranks: Mapping[str, int]) -> bool:
    """Declares, in place, the ranks inside of bodies that nothing else tells; False if there are none."""
    told = False
    for place, graph in placed_graphs(model.graph, ""):
        for value in (*graph.value_info, *graph.output) if place else ():
            if value.type.HasField("tensor_type") and dims_of(value) is None and value.name in ranks:
                set_dims(value, [None] * ranks[value.name])
                told = True
    return told


def _is_open(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and None in (dims_of(value) or (None,))


def _declare(model: onnx.ModelProto, runs: Sequence[Seen], decided: frozenset[str]) -> None:
    """Makes, in place, what is inferred agree with the runs, in bodies too."""
    for place, graph in placed_graphs(model.graph, ""):
        known = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        outputs = {z.name for z in graph.output}
        infos: list[onnx.ValueInfoProto] = []
        for name in made_in(graph):
            value = known.get(name, onnx.ValueInfoProto(name=name))
            if value.type.WhichOneof("value") in (None, "tensor_type"):
                _settle(value, place, runs, not place and name in decided)
            if name not in outputs and value.type.WhichOneof("value"):
                infos.append(onnx.ValueInfoProto.FromString(value.SerializeToString()))
        del graph.value_info[:]
        graph.value_info.extend(infos)
        for x in graph.input if place else ():
            if x.type.HasField("tensor_type"):
                _settle(x, place, runs, False)


def _settle(value: onnx.ValueInfoProto, place: str, runs: Sequence[Seen], decided: bool) -> None:
    """Makes, in place, what is inferred of a tensor agree with the runs."""
    key = (place, value.name)
    seen = [(shape, r.sizes) for r in runs for shape in r.shapes.get(key, ())]
    kinds = [r.types[key] for r in runs if key in r.types]
    if not value.type.tensor_type.elem_type and kinds:
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(kinds[0])
    if not seen:
        return
    dims, ranks = dims_of(value), {len(shape) for shape, _ in seen}
    if len(ranks) > 1:
        set_dims(value, None)
        return
    if dims is None or len(dims) not in ranks:
        dims = tuple(None if place else f"{value.name}.{axis}" for axis in range(*ranks))
        agreed: list[Dim] = list(dims)
    else:
        agreed = [
            d if all(_fits(d, shape[k], sizes) for shape, sizes in seen) else None for k, d in enumerate(dims)
        ]
    if decided:
        numbers = [{shape[k] for shape, _ in seen} for k in range(len(agreed))]
        agreed = [
            next(iter(n)) if len(n) == 1 and not _is_size(d, seen) else d
            for d, n in zip(agreed, numbers, strict=True)
        ]
    set_dims(value, agreed)


def _fits(dim: Dim, size: int, sizes: Mapping[str, int | None]) -> bool:
    return dim is not None and size == (dim if isinstance(dim, int) else sizes.get(dim))


def _is_size(dim: Dim, seen: Sequence[tuple[tuple[int, ...], Mapping[str, int | None]]]) -> bool:
    return isinstance(dim, int) or any(dim in sizes for _, sizes in seen)


# --- which shapes do not depend on values


_BY_CONTENT = frozenset(
    {"Compress", "If", "ImageDecoder", "Loop", "NonMaxSuppression", "NonZero", "Scan", "StringNormalizer"}
    | {"StringSplit", "Unique"}
)
"""Operators whose outputs are as long as the values of their inputs say."""
_BY_NUMBERS = frozenset(
    {
        "AffineGrid",
        "BlackmanWindow",
        "CenterCropPad",
        "Col2Im",
        "ConstantOfShape",
        "DFT",
        "Expand",
        "HammingWindow",
    }
    | {
        "HannWindow",
        "MaxUnpool",
        "MelWeightMatrix",
        "OneHot",
        "Pad",
        "Range",
        "Reshape",
        "Resize",
        "STFT",
        "Slice",
    }
    | {"Split", "Squeeze", "Tile", "TopK", "Unsqueeze", "Upsample"}
)
"""Operators that read numbers beside the tensor they work on, which say how long their outputs are; Reduce* too."""
_OF_ALL = frozenset(
    {"BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range"}
)
"""Those of them that read nothing but such numbers."""


def decided_by_sizes(graph: onnx.GraphProto) -> frozenset[str]:
    """The tensors whose shapes the sizes of the inputs decide, whatever the inputs hold."""
    content = {t.name for t in graph.initializer} | {""}  # values that the sizes decide
    shapes = {x.name for x in graph.input if x.type.HasField("tensor_type")} | content
    for node in graph.node:
        standard = node.domain in ("", "ai.onnx")
        if not all(x in shapes for x in node.input) or any(True for _ in inner_graphs(node)):
            continue
        if not standard and node.domain != "com.microsoft":
            continue
        if node.op_type in _BY_CONTENT or "Sequence" in node.op_type or "Optional" in node.op_type:
            continue
        numbered = node.op_type in _BY_NUMBERS or node.op_type.startswith("Reduce") or not standard
        numbers = node.input if node.op_type in _OF_ALL else node.input[1:]
        if numbered and not all(x in content for x in numbers):
            continue
        shapes.update(node.output)
        if node.op_type in ("Shape", "Size") or (
            all(x in content for x in node.input) and not node.op_type.startswith("Random")
        ):
            content.update(node.output)
    return frozenset(shapes)


# --- what a file declares and what is so
