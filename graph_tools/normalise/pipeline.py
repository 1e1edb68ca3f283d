"""Brings a model to one form: sorted, functions inlined, opset 21 where possible, constants folded, types known.

Every step keeps the names of the tensors that stay. The result is run against the original before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir
from onnx import helper, inliner, numpy_helper, version_converter
from onnxscript import optimizer

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.convert import IR_VERSION
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, reads
from onnx_attribution.graph_tools.ir.outer_constants import hoist
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.ir.shapes import sizes_of
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.normalise import dropped_operators
from onnx_attribution.graph_tools.normalise.declarations import believe_scans, forget, name_dims
from onnx_attribution.graph_tools.normalise.function_bodies import expanded
from onnx_attribution.graph_tools.normalise.noise import show_masks, stilled
from onnx_attribution.graph_tools.normalise.observed import cut_to
from onnx_attribution.graph_tools.normalise.open_optionals import opened
from onnx_attribution.graph_tools.normalise.squeezes import settled, settled_for_one
from onnx_attribution.graph_tools.normalise.types import ranks_told, typed
from onnx_attribution.graph_tools.normalise.unroll_sequences import unrolled, with_elements
from onnx_attribution.graph_tools.read.load import tensors_of
from onnx_attribution.values import Array

OPSET = 21
MESSAGE = (1 << 31) - (1 << 24)  # bytes of weights in inner graphs; a message ends at 2 GiB
FOLD_LIMIT = 1 << 16  # elements; larger constants stay computed, so that files do not grow
TOLERANCE = 1e-4  # relative to the largest magnitude; kernels chosen differently differ by 1e-6 or so


@dataclass(frozen=True)
class Normalised:
    """The model in one form, and what could not be done to it, in words."""

    model: onnx.ModelProto
    notes: tuple[str, ...] = ()


def normalise(
    model: onnx.ModelProto,
    run: Runner,
    samples: Sequence[Mapping[str, Array]],
    weights: Weights | None = None,
    ranks: Mapping[str, int] | None = None,
) -> Normalised:
    """The model in one form, with the same outputs on every sample; large weights of inner graphs go to `weights`.

    `ranks` are what the file says of tensors that no sample reaches.

    A step after which the outputs differ is undone, with a note.

    Raises:
        ModelError: the runner cannot run the model at all.
    """
    outputs = [o.name for o in model.graph.output]
    calm = stilled(model)
    expected = [run(calm, dict(sample), outputs) for sample in samples]
    flat = _flattened(declared(model))
    if weights is not None:
        weights.take(flat.graph)

    loose = False  # about axes of size 1

    def right(changed: onnx.ModelProto) -> bool:
        return not _difference(stilled(changed), run, samples, expected, loose)

    current, notes = _through_steps(flat, lambda _: True)
    if not right(current):  # some step is wrong for this file; find out which
        restless = _restless(calm, run, samples, expected)
        expected = [{n: a for n, a in found.items() if n not in restless} for found in expected]
        if wrong := _difference(stilled(flat), run, samples, expected):
            raise ModelError(
                f"without its functions and old operators the model differs from the file: {wrong}",
                reason=Reason.MODEL_INVALID,
            )
        current, notes = _through_steps(flat, right)
        if restless:
            listed = ", ".join(map(repr, restless))
            notes.append(f"the file itself gives other numbers in every run: {listed} could not be compared")
    current = with_elements(current)
    squeezed = settled(current, run, samples[0])
    if squeezed is not current:
        loose = not _difference(stilled(squeezed), run, samples, expected, loose=True)
        if not loose:  # what follows counts axes as they are at one sample
            samples, expected = samples[:1], expected[:1]
            squeezed = settled_for_one(current, run, samples[0])
        if right(squeezed):
            current = squeezed
            notes += _at_one(calm, current, run, samples[0])
    known = typed(current, run, samples[0], ranks)
    plain = _decided(known)
    if plain is not known and right(plain):
        known = typed(plain, run, samples[0], ranks)
    return Normalised(known, tuple(notes))


def _decided(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with graphs inside of nodes, after what the shapes in these decide: lists and branches."""
    if not any(True for node in model.graph.node for _ in inner_graphs(node)):
        return model
    try:
        return _lifted(_folded(unrolled(model)))
    except Exception:  # as before: the step is optional
        return model


def _through_steps(
    model: onnx.ModelProto, right: Callable[[onnx.ModelProto], bool]
) -> tuple[onnx.ModelProto, list[str]]:
    """The model after every step that is possible and `right`, and notes on the others."""
    notes: list[str] = []
    for name, step in (
        ("conversion to opset 21", _converted),
        ("opening of optionals", opened),
        ("unrolling of sequences", unrolled),
        ("folding", _folded),
        ("expansion", _expanded),
        ("lifting of constants", _lifted),
    ):
        try:
            changed = step(model)
        except Exception as error:  # converters and optimisers raise whatever they like; the step is optional
            notes.append(f"{name} is not possible: {_first_line(error)}")
            continue
        if changed is model or right(changed):
            model = changed
        else:
            notes.append(f"{name} changes the outputs and was undone")
    return model, notes


def _first_line(error: BaseException) -> str:
    """What the innermost error says, in a line, without a library's advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(" Please ")[0][:200]


def _difference(
    model: onnx.ModelProto,
    run: Runner,
    samples: Sequence[Mapping[str, Array]],
    expected: Sequence[dict[str, Array]],
    loose: bool = False,
) -> str:
    """Which output is not as expected on a sample, and by how much; "" where all are.

    With `loose` an output may have more or fewer axes of size 1.
    """
    for sample, wanted in zip(samples, expected, strict=True):
        try:
            found = run(model, dict(sample), list(wanted))
        except ModelError as error:
            return error.message
        for name, values in wanted.items():
            same = _alike(found[name], values) if loose else found[name]
            if not same_values(same, values):
                return f"output {name!r} {_by_how_much(same, values)}"
    return ""


def _alike(found: Array, wanted: Array) -> Array:
    """An array in the shape of another one, where they differ by axes of size 1."""
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return found
    same = [d for d in found.shape if d != 1] == [d for d in wanted.shape if d != 1]
    return found.reshape(wanted.shape) if same else found


def _at_one(
    model: onnx.ModelProto, squeezed: onnx.ModelProto, run: Runner, sample: Mapping[str, Array]
) -> list[str]:
    """A note on each size of the inputs at which, where it is 1, the file has other numbers: it squeezes that too."""
    notes = []
    for symbol, size in sizes_of(model, sample).items():
        if not size or size == 1:
            continue
        least = cut_to(model, sample, symbol, 1)
        try:
            wanted = run(model, least, [o.name for o in model.graph.output])
        except ModelError:
            continue
        if wrong := _difference(squeezed, run, [least], [wanted], loose=True):
            notes.append(
                f"a Squeeze without axes removes {symbol!r} too where it is 1, and the file goes on with other axes "
                f"there; what is explained keeps it: {wrong}"
            )
    return notes


def _restless(
    model: onnx.ModelProto,
    run: Runner,
    samples: Sequence[Mapping[str, Array]],
    expected: Sequence[dict[str, Array]],
) -> list[str]:
    """The outputs that are something else when the model is run again."""
    found: dict[str, None] = {}
    for sample, wanted in zip(samples, expected, strict=True):
        again = run(model, {name: np.copy(array) for name, array in sample.items()}, list(wanted))
        found |= {name: None for name, values in wanted.items() if not same_values(again[name], values)}
    return list(found)


def _by_how_much(found: Array, wanted: Array) -> str:
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return "holds other entries"
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"is {found.dtype.name} {list(found.shape)}, not {wanted.dtype.name} {list(wanted.shape)}"
    if wanted.dtype.kind not in "fV":
        return f"has {int(np.count_nonzero(found != wanted))} other elements of {wanted.size}"
    left, right = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    far, size = np.abs(left - right)[finite].max(initial=0), np.abs(right[finite]).max(initial=0)
    return f"by {far:.3g}, where its largest element is {size:.3g}"


def same_values(found: Array, wanted: Array, tolerance: float = TOLERANCE, floor: float = 0.0) -> bool:
    """Whether two outputs agree: shape, NaNs, and numbers relative to the largest magnitude, or to `floor`."""
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return str(found) == str(wanted)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if wanted.dtype.kind not in "fV" or wanted.size == 0:
        return bool(np.array_equal(found, wanted))
    left, right = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(finite, np.isfinite(left)) or not np.array_equal(
        left[~finite], right[~finite], equal_nan=True
    ):
        return False
    if wanted.dtype.itemsize < 4:
        tolerance = max(tolerance, 2e-2)  # half precision: eleven bits, summed in any order
    scale = max(float(np.abs(right[finite]).max(initial=0)), floor, 1e-6)
    return bool(np.abs(left[finite] - right[finite]).max(initial=0) <= tolerance * scale)


def declared(model: onnx.ModelProto, *, labels: bool = True) -> onnx.ModelProto:
    """A copy with every operator set declared once, nodes named and sorted, and open input dimensions named.

    All other shapes are dropped, and without `labels` the names that the file gives to dimensions. It is what the
    normal form is compared with, so no more is done to it; only where the constants of inner graphs are too many to be
    run in a message are they moved out.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    versions: dict[str, int] = {}
    for entry in copy.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(versions.get(domain, 0), entry.version)
    versions.setdefault("", 8)
    for domain in {node.domain for node in copy.graph.node} - {"", "ai.onnx"}:
        versions.setdefault(domain, 1)
    del copy.opset_import[:]
    copy.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    copy.ir_version = max(copy.ir_version, 8) if copy.ir_version <= IR_VERSION else copy.ir_version
    ranks = ranks_told(copy)
    forget(copy)
    believe_scans(copy, ranks)
    given = {x.name for x in copy.graph.input}
    for index, initializer in enumerate(copy.graph.initializer):
        if not initializer.name:
            initializer.name = f"initializer_{index}"
    overridable = given & {i.name for i in copy.graph.initializer}
    if overridable:  # initializers listed as inputs, as before IR 4: constants, not inputs
        kept = [x for x in copy.graph.input if x.name not in overridable]
        del copy.graph.input[:]
        copy.graph.input.extend(kept)
    name_dims(copy, labels=labels)
    for node in copy.graph.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
        if node.op_type == "STFT" and not any(a.name == "onesided" for a in node.attribute):
            node.attribute.append(helper.make_attribute("onesided", 1))  # onnx infers shapes as if it were 0
    _drop_repeated(copy.graph)
    if sum(tensor.ByteSize() for tensor in tensors_of(copy.graph.node)) > MESSAGE:
        hoist(copy.graph)
    _name_nodes(copy)
    _sort(copy.graph)
    return copy


def _sort(graph: onnx.GraphProto) -> None:
    """Orders nodes, in place, so that values are made before they are used."""
    made_by = {out: index for index, node in enumerate(graph.node) for out in node.output if out}
    if all(made_by.get(x, -1) < index for index, node in enumerate(graph.node) for x in reads(node)):
        return
    nodes, order, state = list(graph.node), [], [0] * len(graph.node)
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            top = stack[-1]
            if state[top] == 0:
                state[top] = 1
                stack += [made_by[x] for x in reads(nodes[top]) if x in made_by and state[made_by[x]] == 0]
            else:
                stack.pop()
                if state[top] == 1:
                    state[top] = 2
                    order.append(nodes[top])
    del graph.node[:]
    graph.node.extend(order)


def _flattened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions, sparse constants and operators that the standard has dropped, and with the
    constants of inner graphs outside of them.
    """
    flat = inliner.inline_local_functions(model) if model.functions else model
    if flat is model:
        flat = onnx.ModelProto()
        flat.CopyFrom(model)
    _fill_sparse(flat.graph)
    dropped_operators.rewrite_dropped(flat)
    hoist(flat.graph)
    return flat


def _fill_sparse(graph: onnx.GraphProto) -> None:
    """Makes, in place, sparse constants dense, in inner graphs too; graphsurgeon does not read them."""
    graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                attribute.CopyFrom(helper.make_attribute("value", _dense(attribute.sparse_tensor)))
        for inner in inner_graphs(node):
            _fill_sparse(inner)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The tensor that holds the zeros too; an index counts elements, or has a number per axis."""
    values, indices = (numpy_helper.to_array(t) for t in (sparse.values, sparse.indices))
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    at = np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)
    dense[at] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at opset 21; one that is newer keeps its own."""
    opset = opset_of(model)
    if opset >= OPSET:
        return model
    staged = onnx.ModelProto()
    staged.CopyFrom(model)
    foreign = _hide_unknown(staged.graph, opset)
    if foreign:
        staged.opset_import.append(helper.make_opsetid(_HIDDEN, 1))
    resizes = dropped_operators.resizes_of(staged, opset)
    converted = version_converter.convert_version(staged, OPSET)
    for node in converted.graph.node:
        if node.domain == _HIDDEN:
            node.domain = foreign[node.op_type]
    dropped_operators.restore_resizes(converted, resizes)
    kept = [e for e in converted.opset_import if e.domain != _HIDDEN]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    converted.ir_version = max(converted.ir_version, IR_VERSION)
    _name_nodes(converted)
    return converted


_HIDDEN = "onnx_attribution.hidden"


def _hide_unknown(graph: onnx.GraphProto, opset: int) -> dict[str, str]:
    """Moves operators that are onnxruntime's own at this opset out of the converter's sight."""
    hidden: dict[str, str] = {}
    for node in graph.node:
        known = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, "")
        if known:
            try:
                onnx.defs.get_schema(node.op_type, opset, "")
            except onnx.defs.SchemaError:
                known = False
        if not known and node.domain in ("", "ai.onnx"):
            hidden[node.op_type] = node.domain
            node.domain = _HIDDEN
    return hidden


def _name_nodes(model: onnx.ModelProto) -> None:
    """Names, in place, the nodes that have no name or that of an earlier node."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def _drop_repeated(graph: onnx.GraphProto) -> None:
    """Drops, in place, constants that a later one of the same name replaces, as onnxruntime reads such files."""
    constants = [node for node in graph.node if node.op_type == "Constant"]
    last = {tuple(node.output): node for node in constants}
    if len(last) == len(constants):
        return
    others = [node for node in graph.node if node.op_type != "Constant"]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in [*last.values(), *others]]
    del graph.node[:]
    graph.node.extend(kept)


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with constants and shape arithmetic folded, and decided branches taken."""
    graph = onnx_ir.from_proto(model)
    logger = logging.getLogger("onnxscript.optimizer")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every operator that it leaves alone
    try:
        for _ in range(2):
            optimizer.fold_constants(
                graph,
                onnx_shape_inference=True,
                output_size_limit=FOLD_LIMIT,
                should_fold=_is_small_filling,
            )
            optimizer.remove_unused_nodes(graph)
    finally:
        logger.setLevel(level)
    folded = onnx_ir.to_proto(graph)
    _name_nodes(folded)
    return folded


def _is_small_filling(node: onnx_ir.Node) -> bool | None:
    """True for a small ConstantOfShape, of which exporters make shapes and which is kept by default; None: as usual."""
    if (node.domain, node.op_type) != ("", "ConstantOfShape"):
        return None
    shape = node.inputs[0]
    sizes = None if shape is None else shape.const_value
    return True if sizes is not None and np.prod(sizes.numpy(), dtype=np.float64) <= FOLD_LIMIT else None


def _expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators that have no rule, but a function body, replaced by the body, and folded again."""
    grown = expanded(model)
    if grown is model:
        return model
    _name_nodes(grown)
    return _folded(grown)


def _lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its Constant nodes as initializers."""
    lifted = onnx.ModelProto()
    lifted.CopyFrom(model)
    outputs = {o.name for o in lifted.graph.output}
    kept = []
    for node in lifted.graph.node:
        tensor = (
            _constant_value(node) if node.op_type == "Constant" and node.output[0] not in outputs else None
        )
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            lifted.graph.initializer.append(tensor)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del lifted.graph.node[:]
    lifted.graph.node.extend(nodes)
    show_masks(lifted.graph)
    return lifted


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    value = node.attribute[0]
    if value.name == "value":
        copy = onnx.TensorProto()
        copy.CopyFrom(value.t)
        return copy
    types = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if value.name not in types:
        return None
    return numpy_helper.from_array(np.asarray(helper.get_attribute_value(value), dtype=types[value.name]))
