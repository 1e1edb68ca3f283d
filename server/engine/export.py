"""Files that run without this package: a model with hidden tensors as outputs, or with its gradient appended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, ModelError, NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import shape_of
from onnx_attribution.graph_tools.ir.nodes import placed_graphs
from onnx_attribution.graph_tools.ir.shapes import dims_of, set_dims
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.normalise.comparison import same_values
from onnx_attribution.graph_tools.programs.export import exposed, gradient_program
from onnx_attribution.graph_tools.programs.portable import portable
from onnx_attribution.graph_tools.programs.scalar import Part, Scalar, row_axis
from onnx_attribution.graph_tools.read.load import ModelSource, load
from onnx_attribution.graph_tools.select.targets import require_float
from onnx_attribution.server.engine.backend import DISABLED, Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import AtInput, Recipe
from onnx_attribution.server.engine.request.selectors import put, selectors_of
from onnx_attribution.server.engine.request.targets import Chosen, chosen
from onnx_attribution.values import Array, Selection, Target


@dataclass(frozen=True)
class Exported:
    """A model to be written, the tensors that were asked for, and what to say of it; `weights` holds its large ones."""

    model: onnx.ModelProto
    tensors: tuple[str, ...]
    weights: Weights
    notes: tuple[str, ...] = ()


def exposed_model(source: ModelSource, layers: Sequence[str], backend: Backend) -> Exported:
    """The file with these layers as outputs.

    Raises:
        NotFound, InvalidArgument: a name means none, several, a constant, or no tensor. ModelError: the file cannot be
            read, or nothing tells the type of a layer.
    """
    weights = Weights()
    model = load(source, weights)
    changed, tensors = exposed(model, layers)
    added = [z for z in changed.graph.output if not z.HasField("type")]
    told = changed
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        told = onnx.shape_inference.infer_shapes(changed)
    known = {v.name: v for v in told.graph.output if v.type.HasField("tensor_type")}
    try:
        session = backend.session(changed, optimise=False)
        for z in added:
            z.CopyFrom(session.described(z.name))
            if z.name in known and dims_of(z) is None:  # onnxruntime does not tell a scalar from any shape
                set_dims(z, dims_of(known[z.name]))
    except ModelError:  # operators that somebody registers; ONNX may know the types all the same
        if any(z.name not in known for z in added):
            raise
        for z in added:
            z.CopyFrom(known[z.name])
    inlined = bool(model.functions) and not changed.functions
    notes = ("the file's functions are inlined: a layer lies in one of them",) if inlined else ()
    return Exported(changed, tuple(tensors), weights, notes)


def gradient_model(model: LoadedModel, layers: Sequence[str], target: Target) -> Exported:
    """The model in its normal form with the gradient of the target at the layers, or at the default sources.

    The target is as in a request. Its index holds for every sample; without one, the weights of the elements are an
    input, unless there is one element for each sample.

    Raises:
        InvalidArgument, NotFound, NotDifferentiable: the message names what stands in the way.
    """
    model.require_computed([target.tensor, *layers])
    found = chosen(model, target, Recipe(AtInput()))
    require_own_places(found)
    names = tuple(dict.fromkeys(map(model.tensor, layers))) or model.sources((), found.tensor)
    for name in names:
        require_float(model.graph, name, "layer", Reason.LAYER_INVALID)
    notes = [*model.network.notes, *found.notes]
    try:
        sources = model.sources((), found.tensor)
    except NotDifferentiable:
        sources = names
    shared = together(model, sources, names, found.tensor, notes)
    scalar = scalar_of(model, found, target)
    program = gradient_program(model.network, names, scalar, alone=not shared)
    portable(program.model)
    left_out = [z.name for z in model.graph.outputs if z.name not in program.outputs]
    if left_out:
        notes.append(f"{', '.join(map(repr, left_out))} is no tensor and left out")
    if rounding := model.rounding(names, found.tensor):
        notes.append(rounding)
    if random := model.randomness(found.tensor, {}):
        notes.append(random)
    notes += foreign_operators(program.model)
    return Exported(program.model, names, model.weights, tuple(notes))


def require_own_places(found: Chosen) -> None:
    """Refuses a logit that has not the places of what is made of it."""
    if found.made:
        raise InvalidArgument(
            f"the logit {found.tensor!r} has other places than {found.indexed!r}; name it as the target",
            reason=Reason.TARGET_INVALID, tensor=found.tensor,
        )  # fmt: skip


def foreign_operators(model: onnx.ModelProto) -> list[str]:
    """A note where a model has operators that are not ONNX's."""
    found = {node.domain for _, graph in placed_graphs(model.graph, "") for node in graph.node} - {
        "",
        "ai.onnx",
    }
    return [f"beside standard operators it holds those of {', '.join(sorted(found))}"] if found else []


def plain_told(
    model: LoadedModel, found: Exported, path: Path, original: Path, given: Mapping[str, Array] | None = None
) -> tuple[str, str]:
    """In words, what is wrong with a gradient file in a session with onnxruntime's default settings, and where that
    makes other numbers of the original; "" for nothing.

    Both are run there on one row, each in a process of its own: a fault of the optimiser may end it. `given` are inputs
    that the original has not.
    """
    session = model.backend.session(found.model)
    feeds = {name: array for name, array in model.network.example.items() if name in session.inputs}
    own = dict(feeds)
    feeds |= given or {}
    for value in found.model.graph.input:
        if value.name == "target/weight":
            sizes = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feeds[value.name] = np.ones(sizes, kind)
    try:
        wanted, again = session.run(feeds), session.run(feeds)
    except ModelError:  # the weights do not fit the shape at these inputs
        return "", ""
    steady = {name: array for name, array in wanted.items() if same_values(again[name], array)}
    way = f"give onnxruntime.InferenceSession disabled_optimizers={list(DISABLED)}"
    default, plain = "a session with onnxruntime's default settings", _in_plain_session(path, feeds)
    if isinstance(plain, str):
        return f"{default} cannot run the file ({plain}); {way}", ""
    if wrong := [name for name, array in steady.items() if not same_values(plain[name], array)]:
        return f"{default} gives other numbers for {', '.join(wrong)}; {way}", ""
    if given is not None:  # none of the outputs is one of the original
        return "", ""
    plain = _in_plain_session(original, own)
    if isinstance(plain, str):
        return "", ""
    shared = {name: (plain[name], array) for name, array in steady.items() if name in plain}
    apart = [
        f"{name!r} by up to {np.abs(one.astype(float) - two).max():.2g} of {np.abs(two).max():.2g}"
        for name, (one, two) in shared.items()
        if one.dtype.kind == "f" and one.shape == two.shape and not same_values(one, two)
    ]
    if not apart:
        return "", ""
    weights = Weights()
    bare = model.backend.session(load(original, weights), optimise=False).run(own, list(shared))
    kept = all(same_values(bare[name], array) for name, (_, array) in shared.items())
    why = "; without optimisation (ORT_DISABLE_ALL) it is what this file computes" if kept else ""
    return (
        "",
        f"the original in {default}, which fuse its operators, differs from this file in {', '.join(apart)}{why}",
    )


def _in_plain_session(path: Path, feeds: Mapping[str, Array]) -> dict[str, Array] | str:
    """The outputs of a file, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, *feeds.values())
        done = subprocess.run(
            [sys.executable, "-c", _PLAIN, str(path), str(given), str(made), *feeds],
            capture_output=True,
            text=True,
        )
        if done.returncode or not made.exists():
            return (done.stderr.strip().splitlines() or ["it ended the process"])[-1]
        with np.load(made, allow_pickle=True) as arrays:
            names, *found = (arrays[key] for key in arrays.files)
    return dict(zip(names.tolist(), found, strict=True))


_PLAIN = """
import sys, numpy, onnxruntime
model, given, made, *names = sys.argv[1:]
arrays = numpy.load(given, allow_pickle=True)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
made_of = [z.name for z in session.get_outputs() if z.type.startswith("tensor")]
numpy.savez(made, numpy.array(made_of), *session.run(made_of, dict(zip(names, (arrays[key] for key in arrays.files)))))
"""


def together(
    model: LoadedModel, sources: tuple[str, ...], layers: tuple[str, ...], target: str, notes: list[str]
) -> bool:
    """Whether samples can share a run; if not, a note says why."""
    tensors = [target, *layers, *sources]
    shown = [z.name for z in model.graph.outputs if getattr(z, "type", "tensor_type") == "tensor_type"]
    places = model.rows_of([*tensors, *shown])  # of the outputs too: the program names their sizes
    apart = [name for name in dict.fromkeys(tensors) if places[name] is None]
    if not apart and model.gradients_apart(sources, target):
        return True
    why = f"those of {', '.join(map(repr, apart))} are not separable" if apart else "their gradients mix"
    notes.append(f"one sample a run: samples cannot share one, {why}")
    return False


def scalar_of(model: LoadedModel, found: Chosen, target: Target, *, by_index: bool = False) -> Scalar:
    """What is explained of each sample; without an index each has its own: weights, or `by_index` an index."""
    own = shape_of(model.tensors[found.tensor]) or ()
    place = row_axis(model.network, found.tensor, own)
    unit: list[int | None] = [d if isinstance(d, int) else None for d in own]
    if place is not None:
        del unit[place.axis]
        unit = unit if place.factor == 1 else [place.factor, *unit]
    plus = _picked(target.index, unit, "index")
    if plus is None and all(size == 1 for size in unit):
        plus = np.ones([1 for _ in unit])
    if plus is None and target.minus is not None:
        raise InvalidArgument("minus needs an index of the target too", reason=Reason.TARGET_INVALID)
    axis = None
    if target.mean_centred:
        wide = [k for k, size in enumerate(unit, 1) if size != 1]
        axis = wide[0] if found.axis is None and len(wide) == 1 else found.axis
        if axis is None and len(unit) != 1:
            raise InvalidArgument(
                f"the target has shape {unit} for each sample; mean_centred needs one axis of classes",
                reason=Reason.TARGET_INVALID,
            )
        axis = -1 if axis is None else axis
    return Scalar(found.tensor, plus, _picked(target.minus, unit, "minus"), found.sign, axis, by_index)


def _picked(
    index: Selection, unit: Sequence[int | None], role: str
) -> tuple[Part, ...] | NDArray[Any] | None:
    """The elements as weights, or where the shape of a sample is open as an index or slice for each of its axes."""
    if index is None:
        return None
    if isinstance(index, list) or (isinstance(index, np.ndarray) and index.dtype.kind in "iu"):
        raise InvalidArgument(
            f"the target has {len(index)} entries in {role}; a file has one for all samples: leave the index out, and "
            "`target/weight` becomes an input",
            reason=Reason.TARGET_INVALID,
        )
    (selector,) = selectors_of(index, 1, len(unit), role)
    sizes = [size for size in unit if size is not None]
    if len(sizes) == len(unit):
        weights = np.zeros(sizes)
        put(weights, selector, np.zeros(sizes))
        return weights
    parts = selector if isinstance(selector, tuple) else (selector,)
    found: list[Part] = [
        p if isinstance(p, slice) else int(p) for p in parts if isinstance(p, int | np.integer | slice)
    ]
    if len(found) < len(parts) or len(found) != len(unit):
        raise InvalidArgument(
            f"the target has shape {['?' if d is None else d for d in unit]} for each sample: an index needs "
            f"{len(unit)} parts, each a number or a slice; masks and weights need fixed sizes, or leave the index out",
            reason=Reason.TARGET_INVALID, rank=len(unit),
        )  # fmt: skip
    for part, size in zip(found, unit, strict=True):
        if size is not None:
            line = np.zeros(size)
            put(line, part, line)  # refuses what is not there
    return tuple(found)
