"""Shapes as inference and runs find them: what a file declares inside of itself is not believed.

Exporters fix a batch of 1, editors leave old shapes behind, and nothing in the way of such a file complains. A rule
that took such a number for the truth would be wrong without a word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir.nodes import inner_graphs
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.ir.shapes import (
    APART,
    Dim,
    Dims,
    dims_of,
    grown,
    growths,
    set_dims,
    sizes_of,
)
from onnx_attribution.values import Array

Place = tuple[str, str]  # the place of a graph, and a name in it
PLACEHOLDERS = frozenset({"", "?", "*", "-", "-1", "any", "dyn", "dynamic", "none", "null", "unk", "unknown"})
"""What exporters call every size that they do not know."""
ROUNDS = 8  # in which the shapes that a Loop carries have to settle
OWN = 2  # inputs of the body of a Loop that the Loop makes itself, in the form that the body declares
WIDTH = 12  # numbers that hold a shape and its rank
SLICED_BY_INPUTS = 10  # the opset from which on Slice reads numbers
LISTED = 3  # false declarations that a note names


# --- what is declared


def name_dims(model: onnx.ModelProto, *, labels: bool = True) -> None:
    """Names, in place, the input dimensions that the file leaves open: those without a name or a size of 1 at least.

    Names that say nothing count as none; without `labels` all do.
    """
    for value in model.graph.input:
        dims = dims_of(value)
        if dims is not None:
            set_dims(
                value, [d if _says_something(d, labels) else f"{value.name}.{k}" for k, d in enumerate(dims)]
            )


def _says_something(dim: Dim, labels: bool) -> bool:
    if isinstance(dim, int):
        return dim >= 1
    return labels and dim is not None and dim.strip().lower() not in PLACEHOLDERS


def repeated_labels(model: onnx.ModelProto) -> set[str]:
    """The names that several dimensions of the inputs have."""
    named = [d for value in model.graph.input for d in dims_of(value) or () if isinstance(d, str)]
    return {d for d in named if named.count(d) > 1}


def forget(model: onnx.ModelProto) -> None:
    """Drops, in place, every shape but those of the inputs, and every type that is not an output's or a body's own."""
    _forget(model.graph)
    for value in model.graph.output:
        _drop_shape(value.type)
    for function in model.functions:
        del function.value_info[:]
        for node in function.node:
            _forget_inside(node)


def believe_scans(model: onnx.ModelProto, ranks: Mapping[str, int]) -> None:
    """Declares, in place, the ranks of what bodies of Scan give out: onnxruntime asks for them."""
    for _, graph in _graphs(model.graph, ""):
        for node in graph.node:
            for body in inner_graphs(node) if node.op_type == "Scan" else ():
                for value in body.output:
                    if value.type.HasField("tensor_type") and dims_of(value) is None and value.name in ranks:
                        set_dims(value, [None] * ranks[value.name])


def _forget(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for node in graph.node:
        _forget_inside(node)


def _forget_inside(node: onnx.NodeProto) -> None:
    if node.op_type not in ("If", "Loop", "Scan", "SequenceMap"):
        return  # a search reads from its decoder's declarations how it has to be fed
    for graph in inner_graphs(node):
        _forget(graph)
        own = OWN if node.op_type == "Loop" else 0
        for value in (*graph.input[own:], *graph.output):
            _drop_shape(value.type)
        for value in graph.input[:own]:
            if dims_of(value) is None:
                set_dims(value, [])


def _drop_shape(kind: onnx.TypeProto) -> None:
    held = kind.WhichOneof("value")
    if held in ("tensor_type", "sparse_tensor_type"):
        getattr(kind, held).ClearField("shape")
    elif held in ("sequence_type", "optional_type"):
        _drop_shape(getattr(kind, held).elem_type)


# --- what inference knows


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the shapes that ONNX's inference derives from those of the inputs alone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
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


@dataclass(frozen=True)
class _Seen:
    """One run: the size of each symbol (None where the inputs disagree), and by place and name what was seen."""

    sizes: Mapping[str, int | None]
    shapes: Mapping[Place, Sequence[tuple[int, ...]]]
    types: Mapping[Place, np.dtype[Any]]


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
    runs = [seen for seen in _runs(found, run, sample) if seen]
    alone = bool(runs) and not symbols
    if runs and list(symbols.values()) == [1] and any(_is_open(v) for v in found.graph.value_info):
        more = _seen(found, run, grown(found, sample, dict.fromkeys(symbols, 7)))
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
    runs = [seen for seen in _runs(found, run, sample) if seen]
    told: dict[Place, tuple[Size, ...]] = {}
    for place, graph in _graphs(found.graph, ""):
        declared = {v.name: dims_of(v) for v in (*graph.input, *graph.value_info, *graph.output)}
        for name in dict.fromkeys([*declared, *_made(graph)]):
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
    for place, graph in _graphs(model.graph, ""):
        for value in (*graph.value_info, *graph.output) if place else ():
            if value.type.HasField("tensor_type") and dims_of(value) is None and value.name in ranks:
                set_dims(value, [None] * ranks[value.name])
                told = True
    return told


def _is_open(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and None in (dims_of(value) or (None,))


def _graphs(graph: onnx.GraphProto, place: str) -> Iterator[tuple[str, onnx.GraphProto]]:
    """A graph and those inside of it, each with its place: "" for the outermost."""
    yield place, graph
    for index, node in enumerate(graph.node):
        for number, inner in enumerate(inner_graphs(node)):
            yield from _graphs(inner, f"{place}/{index}.{number}")


def _declare(model: onnx.ModelProto, runs: Sequence[_Seen], decided: frozenset[str]) -> None:
    """Makes, in place, what is inferred agree with the runs, in bodies too."""
    for place, graph in _graphs(model.graph, ""):
        known = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        outputs = {z.name for z in graph.output}
        infos: list[onnx.ValueInfoProto] = []
        for name in _made(graph):
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


def _made(graph: onnx.GraphProto) -> list[str]:
    return [z for node in graph.node for z in node.output if z]


def _settle(value: onnx.ValueInfoProto, place: str, runs: Sequence[_Seen], decided: bool) -> None:
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


def _runs(model: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]) -> Iterator[_Seen | None]:
    """The sample, and samples of other sizes: all symbols grown together, or where that does not run each alone."""
    yield _seen(model, run, sample)
    for larger, enough in growths(model, sample):
        found = _seen(model, run, larger)
        yield found
        if found is not None and enough:
            break
    if any(node.op_type == "If" for _, graph in _graphs(model.graph, "") for node in graph.node):
        for switched in _switched(sample):
            found = _seen(model, run, switched)
            yield found
            if found is None:
                yield from (_seen(model, run, other) for other in _halved(model, switched))


def _switched(sample: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The sample with one of the numbers and truth values changed that may choose a branch."""
    switches = [name for name, array in sample.items() if array.size == 1 and array.dtype.kind in "biu"]
    for name in switches[:APART]:
        array = sample[name]
        other = np.logical_not(array) if array.dtype.kind == "b" else np.add(array, 1)
        yield {**sample, name: other.astype(array.dtype).reshape(array.shape)}


def _halved(model: onnx.ModelProto, sample: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The sample with one symbol of its inputs at half its size: what another branch may take, as of half the rate."""
    sizes = {name: size for name, size in sizes_of(model, sample).items() if size and size > 1}
    yield from (cut_to(model, sample, name, size // 2) for name, size in list(sizes.items())[:APART])


def cut_to(model: onnx.ModelProto, sample: Mapping[str, Array], symbol: str, size: int) -> dict[str, Array]:
    """The sample with the first of what lies along the input dimensions of this name."""
    smaller = dict(sample)
    for value in model.graph.input:
        for axis, dim in enumerate(dims_of(value) or ()):
            if dim == symbol:
                smaller[value.name] = np.take(smaller[value.name], range(size), axis=axis)
    return smaller


def _seen(model: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]) -> _Seen | None:
    """What a run shows; None where the model does not run on the sample."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
    unknown = _untyped(probe.graph)  # nobody knows what it is: it is looked at whole
    watched = _watch(probe.graph, "", opset)
    typed_only = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in probe.graph.output]
    for value in typed_only:  # the runtime asks for types of operators that it does not infer
        _drop_shape(value.type)
    del probe.graph.output[:], probe.graph.value_info[:]
    probe.graph.value_info.extend(v for v in typed_only if v.name not in unknown)
    probe.graph.output.extend(onnx.ValueInfoProto(name=z) for z in (*watched.values(), *unknown))
    try:
        found = run(probe, dict(sample), [z.name for z in probe.graph.output], as_written=True)
    except ModelError:
        return None
    whole = {("", n): found[n] for n in unknown if isinstance(found[n], np.ndarray)}
    shapes = {key: _decoded(found[z]) for key, z in watched.items()}
    return _Seen(
        _all_sizes(model.graph, sizes_of(model, sample), shapes),
        {**shapes, **{key: [a.shape] for key, a in whole.items()}},
        {key: a.dtype for key, a in whole.items()},
    )


def _all_sizes(
    graph: onnx.GraphProto, sizes: Mapping[str, int | None], shapes: Mapping[Place, Sequence[tuple[int, ...]]]
) -> dict[str, int | None]:
    """The sizes of the symbols of the inputs, and of those that inference makes up."""
    found = dict(sizes)
    for value in (*graph.value_info, *graph.output):
        for shape in shapes.get(("", value.name), ()):
            for dim, size in zip(dims_of(value) or (), shape, strict=False):
                if isinstance(dim, str) and dim not in sizes:
                    found[dim] = size if found.get(dim, size) == size else None
    return found


def _decoded(rows: Array) -> list[tuple[int, ...]]:
    """The shapes that a watched value says, each once."""
    found = [tuple(row[1 : 1 + row[0]]) for row in rows.reshape(-1, WIDTH).tolist() if row[0] >= 0]
    return list(dict.fromkeys(found))


def _untyped(graph: onnx.GraphProto) -> list[str]:
    kinds = {v.name: v.type for v in (*graph.value_info, *graph.output)}
    return [z for z in _made(graph) if z not in kinds or not _is_known(kinds[z])]


def _is_known(kind: onnx.TypeProto) -> bool:
    held = kind.WhichOneof("value")
    return held is not None and (held != "tensor_type" or bool(kind.tensor_type.elem_type))


def _watch(graph: onnx.GraphProto, place: str, opset: int) -> dict[Place, str]:
    """Adds, in place, values that hold the shapes of all tensors, those of bodies included; their names by tensor.

    Such a value is as long as all others, so that a Loop can stack it: the rank, the sizes, and -1 for the rest.
    """
    infos = (*graph.value_info, *graph.output, *(graph.input if place else ()))
    tensors = [v.name for v in infos if v.type.HasField("tensor_type") and v.type.tensor_type.elem_type]
    prefix = f"shapes{place}"
    watched: dict[Place, str] = {}
    for index, node in enumerate(graph.node):
        watched |= _watch_inside(node, f"{place}/{index}", opset)
    made = {*_made(graph), *(x.name for x in graph.input if place)}
    numbers = {"rest": [-1] * WIDTH, "begin": [0], "end": [WIDTH]}
    rest, *ends = [_constant(graph, f"{prefix}:{word}", values) for word, values in numbers.items()]
    for number, name in enumerate(dict.fromkeys(tensors)):
        if name not in made:
            continue
        names = [f"{prefix}:{number}.{k}" for k in range(4)]
        graph.node.add().CopyFrom(helper.make_node("Shape", [name], [names[0]]))
        graph.node.add().CopyFrom(helper.make_node("Shape", [names[0]], [names[1]]))
        graph.node.add().CopyFrom(helper.make_node("Concat", [names[1], names[0], rest], [names[2]], axis=0))
        if opset < SLICED_BY_INPUTS:
            cut = helper.make_node("Slice", [names[2]], [names[3]], starts=[0], ends=[WIDTH])
        else:
            cut = helper.make_node("Slice", [names[2], *ends], [names[3]])
        graph.node.add().CopyFrom(cut)
        watched[place, name] = names[3]
    return watched


def _watch_inside(node: onnx.NodeProto, place: str, opset: int) -> dict[Place, str]:
    """Adds, in place, outputs to a node that hold the shapes of the tensors of its graphs."""
    if node.op_type not in ("If", "Loop", "Scan"):
        return {}
    bodies = list(inner_graphs(node))
    inside = [_watch(body, f"{place}.{k}", opset) for k, body in enumerate(bodies)]
    for k, body in enumerate(bodies):
        for j, held in enumerate(inside):
            for z in held.values():
                name = z if k == j else _constant(body, f"{z}/none", [-1] * WIDTH)
                body.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    for attribute in node.attribute:
        if attribute.name in ("scan_output_axes", "scan_output_directions"):
            attribute.ints.extend([0] * sum(map(len, inside)))
    outputs = {key: f"{z}/out" for held in inside for key, z in held.items()}
    node.output.extend(outputs.values())
    return outputs


def _constant(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    tensor = numpy_helper.from_array(np.asarray(values, np.int64), name)
    graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
    return name


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


def contradicted(model: onnx.ModelProto, settled: onnx.ModelProto) -> str:
    """In words, the declarations of a file that are false; "" where there are none."""
    found = {v.name: dims_of(v) for v in [*settled.graph.value_info, *settled.graph.output]}
    symbols = {d for x in settled.graph.input for d in dims_of(x) or () if isinstance(d, str)}
    told = [*model.graph.value_info, *model.graph.output]
    false = [
        f"{v.name!r} is declared {_shown(said)} and is {_shown(real, symbols)}"
        for v in told
        if (said := dims_of(v)) is not None
        and (real := found.get(v.name)) is not None
        and _differ(said, real, symbols)
    ]
    if not false:
        return ""
    more = f", and {len(false) - LISTED} more" if len(false) > LISTED else ""
    return f"the file declares shapes that are false; they are not used: {', '.join(false[:LISTED])}{more}"


def _differ(said: Dims, real: Dims, symbols: Collection[str]) -> bool:
    """Whether a declared shape is another one; names are labels, and sizes below 1 say nothing.

    What is found is known where it is a number or a symbol of the inputs.
    """
    if len(said) != len(real):
        return True
    return any(
        isinstance(a, int) and a >= 1 and a != b and (isinstance(b, int) or b in symbols)
        for a, b in zip(said, real, strict=True)
    )


def _shown(dims: Dims, symbols: Collection[str] | None = None) -> str:
    known = [isinstance(d, int) or (d is not None and (symbols is None or d in symbols)) for d in dims]
    return f"[{', '.join(str(d) if told else '?' for d, told in zip(dims, known, strict=True))}]"
