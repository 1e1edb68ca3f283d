"""The target as weights: 1 at the explained element of each sample, -1 at one that is subtracted, 0 elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.emit import element_type, holds_numbers
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.select.targets import what_it_is
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Recipe
from onnx_attribution.server.engine.request.samples import Samples
from onnx_attribution.server.engine.request.selectors import put, refused, selectors_of
from onnx_attribution.values import Array, Selection, Target

FEW = 3
"""Classes that are named together."""


@dataclass(frozen=True)
class Chosen:
    """The target: its tensor, the tensor that its index is about, and what to say of it.

    These are two where a logit has not the places of what is made of it: `made` is then the tensor between them that
    has those of the logit. `axis` is that of the classes where it is known, counted from the end; `sign` is -1 where
    the target is the tensor's negative. `whole`: it is the sum of the tensor. `classes` is the tensor that was asked
    for, which a card may have names of classes for.
    """

    tensor: str
    indexed: str
    notes: tuple[str, ...] = ()
    axis: int | None = None
    made: str = ""
    sign: int = 1
    whole: bool = False
    classes: str = ""

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors whose values at x are needed."""
        return tuple(dict.fromkeys((self.tensor, self.indexed)))


def chosen(model: LoadedModel, given: Target, recipe: Recipe) -> Chosen:
    """The tensor of a target.

    Raises:
        InvalidArgument, NotFound, NotDifferentiable: there is none, several could be, or it has no logit.
    """
    wanted, notes = given.tensor, list[str]()
    if wanted is None and (scores := model.default_target()) is not None:
        wanted = scores
        notes = [f"no output holds floats; the target is {scores!r}"]
    if recipe.needs_derivatives:
        target = model.target_of(None if wanted is None else model.tensor(wanted))
    else:
        target = _number_tensor(model, wanted)
    found = model.logit_of(target)
    if given.logit:
        if found is None:
            raise refused(
                f"the target {target!r} is not made by a Softmax, LogSoftmax or Sigmoid, so that it has no logit",
                target=target,
            )
        if found.made:
            notes.append(f"the logit of {target!r} is {found.tensor!r}; indices are those of {target!r}")
        if found.sign < 0:
            notes.append(f"the logit of {target!r} is the negative of {found.tensor!r}")
        indexed = target if found.made else found.tensor
        return Chosen(found.tensor, indexed, tuple(notes), found.axis, found.made, found.sign, classes=target)
    if found is None or all(target != out.name for out in model.graph.outputs):
        return Chosen(target, target, tuple(notes), classes=target)
    saturates = f"the target {target!r} is made by {found.operator}, which saturates"
    advice = f"{saturates}; recommended is its logit {found.tensor!r}, by `logit` of the target or --logit"
    axis = None if found.made else found.axis
    return Chosen(target, target, (*notes, advice), axis, classes=target)


def _number_tensor(model: LoadedModel, name: str | None) -> str:
    """A target of which no derivative is taken: the named tensor, or the float output, or the floats before outputs.

    Raises:
        InvalidArgument: several float outputs and no name, or the tensor is a constant or holds no numbers.
    """
    if name is None:
        return model.target_of(None)
    found = model.tensor(name)
    value = model.tensors[found]
    if isinstance(value, gs.Variable) and value.type != "tensor_type":
        raise refused(f"the target {what_it_is(value)}", target=found)
    if isinstance(value, gs.Constant) or not holds_numbers(value):
        listed = ", ".join(x.name for x in model.outputs if x.shape is not None and x.dtype != "string")
        raise refused(
            f"the target {found!r} is no tensor of numbers that depends on the inputs; the outputs that are tensors: "
            f"{listed or 'none'}",
            target=found,
        )
    return found


def units(array: Array, rows: RowAxis | None) -> NDArray[np.float64]:
    """The target tensor as `[samples, *unit]`."""
    wide = array.astype(np.float64)
    if rows is not None:
        return rows.first(wide)
    return wide if wide.ndim > 1 and wide.shape[0] == 1 else wide[None]


def stacked(found: Sequence[Array], rows: RowAxis | None) -> NDArray[np.float64]:
    """The target tensor of several runs as `[samples, *unit]`.

    Raises:
        InvalidArgument: its shape differs between samples.
    """
    parts = [units(array, rows) for array in found]
    _check_unit({part.shape[1:] for part in parts})
    return np.concatenate(parts)


def values(found: Sequence[Array], rows: RowAxis | None, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The target per sample: the elements of several runs, weighted by `[samples, *unit]`.

    Raises:
        InvalidArgument: the tensor has not the shape that it has at x.
    """
    parts = stacked(found, rows)
    _check_unit({parts.shape[1:], weights.shape[1:]})
    return dot(parts, weights)


def _check_unit(shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        listed = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise refused(
            f"the target's shape depends on the values of the inputs: {listed}"
            "; name a tensor of one shape, such as the scores before a selection"
        )


def dot(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    chosen = (
        np.where(weights == 0, 0, values * weights) if np.isfinite(values).all() else _masked(values, weights)
    )
    return per_sample(chosen)


def per_sample(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum over the elements of each sample."""
    return np.asarray(values.reshape(len(values), -1).sum(axis=1, dtype=np.float64))


def _masked(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.multiply(values, weights, out=np.zeros_like(values), where=weights != 0)


class Selected(NamedTuple):
    """The target's weights `[samples, *unit]`, the selection in words, what the card calls its classes, as
    `ResolvedTarget.labels`, and what is to be said of that."""

    weights: NDArray[np.float64]
    words: tuple[str, ...]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def selection(
    model: LoadedModel,
    choice: Chosen,
    target: Target,
    samples: Samples,
    at_x: Sequence[Mapping[str, Array]],
) -> Selected:
    """What a target selects.

    Raises:
        InvalidArgument: what is selected is not there.
    """
    indexed = [found[choice.indexed] for found in at_x]
    stack = stacked(indexed, samples.place(choice.indexed))
    if choice.whole:
        return Selected(np.ones_like(stack), ("sum",) * len(stack))
    if not choice.made:
        stack = choice.sign * stack
    plus, said = weights(stack, target.index, "index", samples.references)
    names = model.classes_of(choice.classes)
    labels = class_labels(plus, names)
    if target.minus is not None:
        minus, less = weights(stack, target.minus, "minus", samples.references)
        labels = _subtracted(labels, class_labels(minus, names))
        plus, said = plus - minus, tuple(f"{a} - {b}" for a, b in zip(said, less, strict=True))
    if choice.made:
        parts = samples.split(choice.indexed, plus, [array.shape for array in indexed])
        carried = [
            _carried(model, choice, run.x, found[choice.tensor].shape, part)
            for run, found, part in zip(samples.runs, at_x, parts, strict=True)
        ]
        plus = stacked(carried, samples.place(choice.tensor))
        said = tuple(f"{choice.indexed}[{one}]" for one in said)
    if choice.sign < 0:
        plus, said = -plus, tuple(f"-({one})" for one in said)
    if target.mean_centred:
        plus, said = centred(plus, choice.axis), tuple(f"{word} - mean" for word in said)
        labels = _subtracted(labels, ("mean",) * len(labels))
    notes = () if labels or not names else (
        f"the {len(names)} names of classes of {choice.classes!r} are left out: of its shape {list(stack.shape[1:])} "
        "for each sample not one axis alone has that size",
    )  # fmt: skip
    return Selected(plus, said, labels if any(labels) else (), notes)


def class_labels(weights: NDArray[np.float64], names: Sequence[str]) -> tuple[str, ...]:
    """Per sample the names of the classes that weights `[samples, *unit]` select, "" for more than `FEW`; empty where
    no axis, or several, have a size for each name."""
    axes = [axis for axis, size in enumerate(weights.shape) if axis and size == len(names)]
    if len(axes) != 1:
        return ()
    chosen = (weights != 0).any(axis=tuple(k for k in range(1, weights.ndim) if k != axes[0]))
    found = [np.flatnonzero(each) for each in chosen]
    return tuple(", ".join(names[int(k)] for k in each) if len(each) <= FEW else "" for each in found)


def _subtracted(plus: Sequence[str], minus: Sequence[str]) -> tuple[str, ...]:
    """The names of a difference, where both sides have some."""
    return tuple(f"{a} - {b}" if a and b else "" for a, b in zip(plus, minus, strict=True))


def _carried(
    model: LoadedModel,
    choice: Chosen,
    sample: Mapping[str, Array],
    shape: tuple[int, ...],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The weights of what is made of a logit, at the places of the logit from which it is taken.

    A run says which these are: in place of what the activation makes stand the numbers of the places, digit by digit,
    as large as the type can hold; where the target takes one less them, they come out negative.
    """
    kind = element_type(model.tensors[choice.made])
    base = 1 << {"float16": 10, "bfloat16": 7}.get(kind.name, 20)
    numbers = np.arange(1, int(np.prod(shape)) + 1).reshape(shape)

    def seen(values: NDArray[np.int64]) -> NDArray[np.float64]:
        given = {**sample, choice.made: values.astype(kind)}
        return forward(model, given, [choice.indexed], [choice.made])[choice.indexed].astype(np.float64)

    zero, found, scale = seen(np.zeros_like(numbers)), np.zeros(weights.shape), 1
    while scale <= numbers.size:
        found += scale * (seen(numbers // scale % base) - zero)
        scale *= base
    places = np.abs(found).astype(np.int64) - 1
    used = weights != 0
    if (places[used] < 0).any():
        raise refused(
            f"an element of {choice.indexed!r} is none of {choice.made!r}, so that it has no logit",
            target=choice.indexed,
        )
    result = np.zeros(int(np.prod(shape)))
    np.add.at(result, places[used], (weights * np.sign(found))[used])
    return result.reshape(shape)


def weights(
    values: NDArray[np.float64], index: Selection, role: str, references: int = 1
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """1 at the selected elements of each sample, 0 elsewhere, or the weights given; and the selection in words.

    `values` holds each sample once for each of its `references`.
    """
    unit = values.shape[1:]
    selectors = selectors_of(index, len(values) // references, len(unit), role)
    found = np.zeros_like(values)
    said = [
        put(found[k : k + 1].reshape(unit), selectors[k // references], values[k]) for k in range(len(values))
    ]
    return found, tuple(said)


def centred(weights: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """The weights less their mean over the classes; `axis` is that of the tensor, with its batch axis."""
    wide = [k for k, size in enumerate(weights.shape) if k and size > 1]
    if axis is None and len(wide) == 1:
        axis = wide[0]
    if axis is None and weights.ndim != 2:
        raise refused(
            f"the target has shape {list(weights.shape[1:])} for each sample; mean_centred needs one axis of classes"
        )
    return np.asarray(weights - weights.mean(axis=-1 if axis is None else axis, keepdims=True))
