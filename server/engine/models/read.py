"""A model as its file is read: the network that can be run, its graph, inputs and outputs, what is not computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import onnx

from onnx_attribution.errors import InvalidArgument, ModelError, Reason
from onnx_attribution.graph_tools.batch.prepare import prepare
from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.ir.nodes import opset_of
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.ir.shapes import Dims, dims_of, set_dims, sizes_of
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.normalise.declarations import contradicted, repeated_labels
from onnx_attribution.graph_tools.normalise.map_inputs import behind_maps
from onnx_attribution.graph_tools.normalise.missing_operators import Missing, before
from onnx_attribution.graph_tools.normalise.pipeline import normalise
from onnx_attribution.graph_tools.normalise.plain_form import declared
from onnx_attribution.graph_tools.normalise.types import ranks_told
from onnx_attribution.graph_tools.programs.head import classes_told
from onnx_attribution.graph_tools.read.example_inputs import examples
from onnx_attribution.graph_tools.read.load import ModelSource, digest, load
from onnx_attribution.graph_tools.read.sequences import require_steps
from onnx_attribution.graph_tools.select.names import Names, names_of
from onnx_attribution.server.engine.backend import Backend, Trials
from onnx_attribution.server.engine.models.card import Card
from onnx_attribution.server.engine.models.card_file import card_of
from onnx_attribution.values import Array, TensorInfo

SLOW = 2.0  # seconds of a run from which on one sample has to do for the comparison with the original
Examples = list[dict[str, Array]]


class Stated(NamedTuple):
    """What is stated of a file: batch axes, shapes and arrays of inputs by name; its card, None: the one beside it."""

    axes: Mapping[str, int | None] | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    given: Mapping[str, Array] | None = None
    card: Card | Path | None = None


class ReadModel:
    """What a file becomes. `labels`: whether a dimension's name may say that sizes are equal; `card`: the small file
    of the model, or what it says; None: the one beside it."""

    def __init__(
        self,
        source: ModelSource,
        backend: Backend,
        axes: Mapping[str, int | None] | None,
        shapes: Mapping[str, tuple[int, ...]] | None,
        given: Mapping[str, Array] | None,
        labels: bool,
        card: Card | str | os.PathLike[str] | None = None,
    ) -> None:
        self._source, self._axes, self._shapes = source, axes, shapes
        self.backend = backend
        self.labels = labels
        self.weights = Weights()  # lives as long as its model
        model, self._notes = behind_maps(load(source, self.weights))
        run = Trials(backend)
        self.card = card if isinstance(card, Card) else card_of(source, card)
        if not self.card.class_names and (told := classes_told(model)):
            self.card = replace(self.card, class_names=told)
        self._example = self.card.example_for(said(model)) if self.card.example_file else {}
        self._given = {**self._example, **(given or {})} or None
        require_steps(model, self._given or {})
        self.names: Names = names_of(model)
        self.digest = digest(source)
        self.opset = opset_of(model)
        self.behind: dict[str, Missing] = {}  # tensors that the runtime cannot compute
        model, plain, found = self._runnable(model, run)
        normalised = normalise(plain, run, found, self.weights, ranks_told(model))
        false = contradicted(model, normalised.model)
        notes = (*self._notes, *([false] if false else []), *normalised.notes)
        self.network: Network = prepare(normalised.model, run, found[0], axes, notes)
        if self.labels and self._are_labels_mixed():
            self.labels = False
            plain, found = self._read(model, run)
            normalised = normalise(plain, run, found, self.weights, ranks_told(model))
            self.network = prepare(normalised.model, run, found[0], self.network.input_axes, notes)
        self._labelled = [_dims(value) for value in declared(model).graph.input]
        self.inputs = tuple(
            TensorInfo(v.name, _type(v), tuple(_dims(v)), self.network.input_axes[v.name])
            for v in plain.graph.input
        )
        made = {v.name: v for v in normalised.model.graph.output}
        self.outputs = tuple(
            TensorInfo(v.name, _type(made.get(v.name, v)), _told(v, made.get(v.name, v)), None)
            for v in model.graph.output
        )
        self.graph = graph_of(self.network.model)

    def file(self, weights: Weights) -> onnx.ModelProto:
        """The model as its file holds it, read again, with its large values in `weights`.

        Raises:
            ModelError: the file is gone, or not the one that was loaded.
        """
        model = load(self._source, weights)
        if digest(self._source) != self.digest:
            raise ModelError(
                "the file of the model has changed since it was loaded; load it again",
                reason=Reason.MODEL_INVALID,
            )
        return model

    @property
    def stated(self) -> Stated:
        """What was stated of the file, for another one of the same inputs."""
        return Stated(self._axes, self._shapes, self._given, self.card)

    def _runnable(
        self, model: onnx.ModelProto, run: Runner
    ) -> tuple[onnx.ModelProto, onnx.ModelProto, Examples]:
        """The part of the model that the runtime can run, with what `_read` makes of it.

        Raises:
            ModelError: there is none, and the message names the node in the way; or what `_read` raises.
        """
        ends: dict[str, None] = {}
        while True:
            try:
                plain, found = self._read(model, run)
            except ModelError as error:
                about = error.metadata
                if "operator" not in about:
                    raise
                made = before(model, (about["domain"], about["operator"]), about["node"])
                if not made.missing:
                    raise
                model = made.model
                self.behind |= made.behind
                ends = dict.fromkeys([n for n in ends if n not in made.behind]) | dict.fromkeys(made.ends)
                if not model.graph.output:
                    raise _nothing_before(made.missing[0]) from error
                continue
            listed = ", ".join(map(repr, ends)) or "the other outputs"
            for one in dict.fromkeys(self.behind.values()):
                self._notes.append(
                    f"onnxruntime does not have {one.operator} (node {one.name!r}): the model ends before it, and "
                    f"{listed} can be named as targets"
                )
            return model, plain, found

    def _read(self, model: onnx.ModelProto, run: Runner) -> tuple[onnx.ModelProto, Examples]:
        """The model as it is compared with, and examples of its inputs."""
        plain = declared(model, labels=self.labels)
        self.weights.take(plain.graph)  # nothing, unless inner graphs held more than a message can
        labels = self.labels and bool(repeated_labels(plain))
        try:
            found = examples(plain, run, shapes=self._shapes, given=self._given, slow=SLOW)
        except ModelError:
            if not labels:
                raise
            found = []
        if labels and (not found or None in sizes_of(plain, found[0]).values()):
            self.labels = False  # one name, several sizes
            return self._read(model, run)
        for value in plain.graph.input:
            if dims_of(value) is None:
                set_dims(value, [f"{value.name}.{k}" for k in range(found[0][value.name].ndim)])
        return plain, found

    def _are_labels_mixed(self) -> bool:
        """Whether one name stands for the batch of one input and for another size elsewhere."""
        axes = self.network.input_axes
        dims = [
            (d, k == axes.get(v.name)) for v in self.network.model.graph.input for k, d in enumerate(_dims(v))
        ]
        rows = {d for d, is_batch in dims if is_batch and isinstance(d, str)}
        return any(d in rows and not is_batch for d, is_batch in dims)

    def unequal(self, inputs: Mapping[str, Array]) -> list[str]:
        """In words, the sizes that the file calls by one name and that differ between the inputs."""
        seen: dict[str, tuple[str, int]] = {}
        told: list[str] = []
        for info, dims in zip(self.inputs, self._labelled, strict=True):
            try:
                shape = np.shape(inputs[info.name])
            except (KeyError, TypeError, ValueError):  # the check of the inputs will tell
                continue
            if len(shape) != len(dims):
                continue
            for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
                if not isinstance(dim, str) or axis == info.batch_axis:
                    continue
                first, expected = seen.setdefault(dim, (info.name, size))
                if size != expected:
                    told.append(
                        f"input {info.name!r} has size {size} along {dim!r}, input {first!r} has {expected}"
                    )
        return told

    def require_computed(self, names: Iterable[str | None]) -> None:
        """Refuses names of tensors, or nodes, behind an operator that the runtime does not have."""
        for name in names:
            one = next((m for n, m in self.behind.items() if name in (n, m.name)), None)
            if one is not None and name is not None:
                outputs = ", ".join(repr(z.name) for z in self.network.model.graph.output)
                raise InvalidArgument(
                    f"{name!r} lies behind {one.operator} (node {one.name!r}), which onnxruntime does not have; name "
                    f"something before it ({outputs}), or {_way_out(one)}",
                    reason=Reason.TARGET_INVALID, tensor=name, node=one.name, operator=one.operator,
                )  # fmt: skip


def _way_out(missing: Missing) -> str:
    made = ", ".join(map(repr, missing.makes))
    return f"make what is behind it a model of its own: onnx.utils.extract_model with {made} as its inputs"


def _nothing_before(missing: Missing) -> ModelError:
    return ModelError(
        f"onnxruntime does not have {missing.operator} (node {missing.name!r}), and nothing is computed before it; "
        f"{_way_out(missing)}",
        reason=Reason.MODEL_INVALID, node=missing.name, operator=missing.operator,
        tensor=missing.makes[0] if missing.makes else "",
    )  # fmt: skip


def _dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    found = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in found)


def _told(said: onnx.ValueInfoProto, found: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    """The shape of an output, with the names of the file where it has any; None for sequences and maps."""
    dims, names = dims_of(found), dims_of(said) or ()
    if dims is None:
        return None
    labels: Dims = names if len(names) == len(dims) else (None,) * len(dims)
    return tuple(
        d if isinstance(d, int) else (label if isinstance(label, str) else None) or d or "?"
        for d, label in zip(dims, labels, strict=True)
    )


def said(model: onnx.ModelProto) -> list[TensorInfo]:
    """What a file says of its inputs, names of sizes aside."""
    inputs = declared(model, labels=False).graph.input
    return [TensorInfo(v.name, _type(v), dims_of(v), None) for v in inputs]


def _type(value: onnx.ValueInfoProto) -> str:
    if not value.type.HasField("tensor_type"):
        return cast(str, value.type.WhichOneof("value"))
    kind = value.type.tensor_type.elem_type
    if kind == onnx.TensorProto.STRING:
        return "string"
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).name)
