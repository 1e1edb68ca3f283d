"""Finds the batch: which axis of each input holds the samples, and whether many of them can share a run.

A declaration proves nothing: a dynamic first axis is often the sequence, and a freed reshape may mix samples. So what
the file says gives candidates only, and `prove` decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnx_attribution.errors import InvalidArgument, ModelError, Reason
from onnx_attribution.graph_tools.batch.freeing import CannotFree
from onnx_attribution.graph_tools.batch.prove import prove, prove_shared
from onnx_attribution.graph_tools.batch.rewrite import free
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.network import Axes, Network, dims
from onnx_attribution.graph_tools.normalise.types import typed
from onnx_attribution.graph_tools.read.example_inputs import FLOATS
from onnx_attribution.values import Array, BatchMode

_BATCH = re.compile(r"n|b|bs|.*batch.*", re.IGNORECASE)
_LENGTH = re.compile(
    r"(?!.*batch)(t|l|s|h|w|k|.*(seq|len|time|frame|token|step|word|char|width|height|size|past|point|node).*)",
    re.IGNORECASE,
)


def prepare(
    model: onnx.ModelProto,
    run: Runner,
    example: Mapping[str, Array],
    axes: Axes | None = None,
    notes: Sequence[str] = (),
) -> Network:
    """The network with a batch as the proof decides: `dynamic` as it is, `freed` after rewriting, else `single`.

    A batch is taken that is proven for every float output, else the one that is for most of them. `axes` states the
    batch axis of inputs that the file leaves in doubt. Of a `single` network `input_axes` hold the axes of samples
    that are stated, or that the file declares and an output has too: they are run one by one.

    Raises:
        InvalidArgument: a stated axis is no axis of that input.
    """
    stated = dict(axes or {})
    _check_stated(model, stated)
    outputs = [o.name for o in model.graph.output]
    chosen = [o.name for o in model.graph.output if o.type.tensor_type.elem_type in FLOATS] or outputs
    best: tuple[int, Network] | None = None
    evident: Axes | None = None
    refused = ""
    for candidate in _assignments(model, stated):
        fixed = _fixed(model, candidate)
        mode: BatchMode = "freed" if fixed else "dynamic"
        one = {n: _first(a, candidate.get(n)) for n, a in example.items()}
        try:
            changed = typed(free(model, candidate), run, one) if fixed else model
            network = Network(changed, mode, candidate, one, notes=tuple(notes))
            prove(network, run, outputs)
            wrong = prove_shared(network, run, outputs)
        except CannotFree as error:
            refused = refused or f"the batch is not freed: {error}"
            continue
        except ModelError as error:
            refused = refused or f"the batch is not {mode}: {str(error)[:160]}"
            named = stated or _called(model, candidate, _BATCH)
            if evident is None and not fixed and named and _runs(model, run, one, outputs):
                evident = candidate
            continue
        proven = [name for name in outputs if network.rows[name] is not None]
        broken = [name for name in outputs if name not in proven and name not in network.shared]
        if wrong:
            refused = refused or f"the batch is not {mode}: the rows do not share {wrong!r}"
            continue
        if proven and not set(broken) & set(chosen):
            return network
        if broken:
            refused = refused or (
                f"the batch is not {mode}: output {broken[0]!r} of rows that share a run differs from rows run alone"
            )
        score = len(set(proven) & set(chosen))
        if score and (best is None or score > best[0]):
            best = score, network
        grown = any(network.places[name] is not None for name in chosen)
        if evident is None and not fixed and grown and (stated or _may_hold_samples(model, candidate)):
            evident = candidate
    if best is not None:
        return best[1]
    if evident is None and any(axis is not None for axis in stated.values()):
        wanted = {x.name: stated.get(x.name) for x in model.graph.input}
        if not _holds_several(model, wanted):
            evident = wanted
    return _single(model, example, evident, [*notes, *([refused] if refused else [])])


def _single(
    model: onnx.ModelProto, example: Mapping[str, Array], axes: Axes | None, notes: Sequence[str]
) -> Network:
    """The network whose samples are run one by one; where none of its axes is known to hold samples, `axes` is None."""
    if axes is None:
        shared = dict.fromkeys((x.name for x in model.graph.input), None)
        return Network(model, "single", shared, example, notes=tuple(notes))
    words = " and ".join(f"axis {axis} of {name!r}" for name, axis in axes.items() if axis is not None)
    note = f"the samples lie along {words} and are run one by one; where they do not, state batch_axes"
    return Network(
        model, "single", axes, {n: _first(a, axes.get(n)) for n, a in example.items()}, notes=(*notes, note)
    )


def _runs(model: onnx.ModelProto, run: Runner, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bool:
    """Whether one sample is an input at all: an axis of frames, cut to one of them, may not be."""
    try:
        run(model, dict(inputs), list(outputs))
    except ModelError:
        return False
    return True


def _first(array: Array, axis: int | None) -> Array:
    """The first row: an example may hold several along an axis that turns out to be the batch."""
    return (
        array
        if axis is None or axis >= array.ndim
        else np.take(array, range(min(1, array.shape[axis])), axis)
    )


def _fixed(model: onnx.ModelProto, axes: Axes) -> bool:
    """Whether some batch axis is a number in the file."""
    return any(
        isinstance(dims(value)[axis], int)
        for value in model.graph.input
        if (axis := axes.get(value.name)) is not None
    )


def _holds_several(model: onnx.ModelProto, axes: Axes) -> bool:
    """Whether the file takes a fixed number of samples above 1 only, so that none can be run alone."""
    sizes = [dims(x)[axis] for x in model.graph.input if (axis := axes.get(x.name)) is not None]
    return any(isinstance(size, int) and size > 1 for size in sizes)


def _called(model: onnx.ModelProto, axes: Axes, names: re.Pattern[str]) -> bool:
    """Whether the file calls a batch axis by one of the names; an input's own name may stand before its own."""
    found = [
        str(dims(value)[axis]).removeprefix(value.name)
        for value in model.graph.input
        if (axis := axes.get(value.name)) is not None
    ]
    return any(names.fullmatch(word) for word in found)


def _may_hold_samples(model: onnx.ModelProto, axes: Axes) -> bool:
    """Whether axes whose rows depend on each other are taken for samples all the same.

    Not those that are called after a length, nor a first one before an axis of size 1, as recurrent networks have it.
    """
    if _called(model, axes, _BATCH):
        return True
    recurrent = any(
        axes.get(value.name) == 0 and len(dims(value)) == 3 and dims(value)[1] == 1
        for value in model.graph.input
    )
    return not recurrent and not _called(model, axes, _LENGTH)


def _assignments(model: onnx.ModelProto, stated: Axes) -> Iterator[dict[str, int | None]]:
    """Batch axes worth trying.

    First the dimensions with a name, one called after the batch before the others; those that stand first before those
    that do not, which are tried only where none of the first is called after the batch. Each is tried with axes of all
    other inputs, whatever they are called, since an axis of size 1 that broadcasts would seem to be shared; then alone.
    Then axes of size 1, and a first axis that all inputs have alike.
    """
    shapes = {value.name: dims(value) for value in model.graph.input if value.type.HasField("tensor_type")}
    if len(shapes) < len(model.graph.input):
        return
    first = [shape[0] for shape in shapes.values() if shape and isinstance(shape[0], str)]
    others = [
        d
        for shape in shapes.values()
        for d in shape
        if isinstance(d, str) and not any(map(_BATCH.fullmatch, first))
    ]
    symbols = sorted(dict.fromkeys([*first, *others]), key=lambda d: not _BATCH.fullmatch(d))
    tried: list[dict[str, int | None]] = []
    for symbol in symbols:
        by_name = {
            name: next((k for k, d in enumerate(shape) if d == symbol), None)
            for name, shape in shapes.items()
        }
        tried += [
            _joined(by_name, shapes, lambda d: isinstance(d, str)),
            by_name,
            _joined(by_name, shapes, lambda d: isinstance(d, str) or d == 1),
        ]
    tried.append({name: 0 if shape and shape[0] == 1 else None for name, shape in shapes.items()})
    tried.append(
        {name: next((k for k, d in enumerate(shape) if d == 1), None) for name, shape in shapes.items()}
    )
    firsts = {shape[0] for shape in shapes.values() if shape}
    ends = {dims(value)[0] for value in model.graph.output if dims(value)}
    if len(firsts) == 1 and firsts == ends and all(len(shape) > 1 for shape in shapes.values()):
        tried.append(dict.fromkeys(shapes, 0))
    seen: list[dict[str, int | None]] = []
    for assignment in tried:
        changed = {**assignment, **stated}
        if changed not in seen and any(axis is not None for axis in changed.values()):
            seen.append(changed)
            yield changed


def _joined(
    axes: Mapping[str, int | None],
    shapes: Mapping[str, Sequence[int | str]],
    fits: Callable[[int | str], bool],
) -> dict[str, int | None]:
    """The axes with one of every other input that fits: at the same place, else the first one, else the only one."""
    place = next((axis for axis in axes.values() if axis is not None), 0)

    def of(shape: Sequence[int | str]) -> int | None:
        fitting = [k for k, d in enumerate(shape) if fits(d)]
        return next((k for k in (place, 0) if k in fitting), fitting[0] if len(fitting) == 1 else None)

    return {name: of(shape) if axes[name] is None else axes[name] for name, shape in shapes.items()}


def _check_stated(model: onnx.ModelProto, axes: Axes) -> None:
    known = {
        value.name: len(dims(value)) for value in model.graph.input if value.type.HasField("tensor_type")
    }
    for name, axis in axes.items():
        if name not in known:
            raise InvalidArgument(
                f"no input {name!r}; the inputs are: {', '.join(known)}", reason=Reason.INPUT_UNKNOWN
            )
        if axis is not None and not 0 <= axis < known[name]:
            raise InvalidArgument(f"input {name!r} has no axis {axis}; its rank is {known[name]}", input=name)
