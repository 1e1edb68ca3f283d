"""A model that is ready to be asked: where its rows lie, and the sessions built so far."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from threading import RLock

import numpy as np
import onnx

from onnx_attribution.errors import ModelError, NotDifferentiable
from onnx_attribution.graph_tools.batch.prove import gradients_apart, prove, row_like
from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.operators import VJP, Held
from onnx_attribution.graph_tools.programs.footprint import Footprint
from onnx_attribution.graph_tools.programs.rows import Reduction, rows_program
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.read.load import ModelSource
from onnx_attribution.server.engine.backend import Backend, Session, Trials
from onnx_attribution.server.engine.interrupt import awaited
from onnx_attribution.server.engine.models.cache import Arrays, Cache, Value
from onnx_attribution.server.engine.models.card import Card
from onnx_attribution.server.engine.models.graph import ModelGraph
from onnx_attribution.server.engine.models.scheduler import Scheduler
from onnx_attribution.values import Array

LARGE = 1 << 30  # bytes of a row from which on sessions keep no memory between runs
TINY = 1 << 16
"""Bytes of a row up to which it is computed sooner than a second thread begins."""
FEW_WEIGHTS = 1 << 18
"""Numbers of a network that has such rows."""
CAPACITY = 32  # sessions kept for one model; each may hold weights in another layout


class LoadedModel(ModelGraph):
    """A network with its sessions; safe for several threads.

    Raises:
        ModelError: the file or its card cannot be used.
    """

    def __init__(
        self,
        source: ModelSource,
        backend: Backend,
        axes: Mapping[str, int | None] | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        given: Mapping[str, Array] | None = None,
        labels: bool = True,
        card: Card | str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(source, backend, axes, shapes, given, labels, card)
        self._apart_sizes: LoadedModel | None = None
        self._separating = RLock()
        self._check_card()
        self._cache = Cache(CAPACITY)
        self.scheduler = Scheduler(backend.observer)
        self.references = Arrays()
        self._proving = RLock()
        self._proven: tuple[object, Session] | None = None
        self.apart: set[Choice] = set()  # of which each row needs a reference of its own
        self._undivided: set[object] = set()  # programs that have no two parts
        row = self.bytes_per_row(self.network.example)
        self.is_large, self.is_tiny = row > LARGE, row <= TINY and self._is_fixed_and_small()

    def _is_fixed_and_small(self) -> bool:
        """Whether no input tells the size of a row, and few numbers make up the network."""
        graph, axes = self.network.model.graph, self.network.input_axes
        sized = all(
            dim.dim_value > 0 or k == axes.get(value.name)
            for value in graph.input
            for k, dim in enumerate(value.type.tensor_type.shape.dim)
        )
        return sized and sum(int(np.prod(one.dims)) for one in graph.initializer) <= FEW_WEIGHTS

    def fitting(self, inputs: Mapping[str, Array]) -> LoadedModel:
        """The model for inputs of these sizes: itself, or one in which a dimension's name says nothing of its size."""
        if not self.labels or not self.unequal(inputs):
            return self
        with awaited(self._separating):
            if self._apart_sizes is None:
                stated = self._axes if self.network.batch == "single" else self.network.input_axes
                self._apart_sizes = LoadedModel(
                    self._source,
                    self.backend,
                    stated,
                    self._shapes,
                    self._given,
                    labels=False,
                    card=self.card,
                )
            return self._apart_sizes

    def _check_card(self) -> None:
        """Raises: ModelError: the card does not fit the model."""
        if self.card.class_names or self.card.preprocessing:
            rows = {one.name: self.network.rows.get(one.name) for one in self.outputs}
            axes = {name: None if place is None else place.axis for name, place in rows.items()}
            self.card.check(self.inputs, self.outputs, self.tensors.keys(), axes, self.default_target())

    @property
    def example(self) -> dict[str, Array]:
        """The inputs that the card has as an example; none where it has none."""
        return dict(self._example)

    def session(self, key: tuple[object, ...], build: Callable[[], Program]) -> Session:
        """The session of the program with this key, built at the first call."""
        return self._cache.get(key, lambda: self._made(key, build))

    def _made(self, key: tuple[object, ...], build: Callable[[], Program]) -> Session:
        """A new session, or the one that proved something, if that is asked for next; else that one goes."""
        proven, self._proven = self._proven, None
        if proven is not None and proven[0] == key:
            return proven[1]
        del proven  # before the next one takes its memory
        program = build()
        session = self.backend.session(program.model, arena=not self.is_large, alone=self.is_tiny)
        session.footprint = Footprint(program.model)
        return session

    def in_two(
        self,
        key: tuple[object, ...],
        parts: tuple[str, str],
        build: Callable[[], tuple[Program, Program] | None],
    ) -> tuple[Session, Session] | None:
        """The sessions of a program's two parts, by the key and the name of each; None where it has no two that run."""
        if key in self._undivided:
            return None
        made = cache(build)

        def part(number: int) -> Program:
            if (found := made()) is None:
                raise _Undivided
            return found[number]

        first, second = parts
        try:
            return self.session((*key, first), lambda: part(0)), self.session((*key, second), lambda: part(1))
        except (_Undivided, ModelError):
            self._undivided.add(key)
            return None

    def kept(self, key: tuple[object, ...], build: Callable[[], Value]) -> Value:
        """What holds a session and is built at the first call, kept as sessions are."""
        return self._cache.get(key, build)

    def places_of(self, tensors: Sequence[str]) -> dict[str, RowAxis | None]:
        """Where the rows of these tensors lie, whether or not they can share a run; None: nowhere."""
        self._prove(tensors)
        return {name: self.network.places.get(name) for name in tensors}

    def rows_of(self, tensors: Sequence[str]) -> dict[str, RowAxis | None]:
        """Where the rows of these tensors lie, proven at the first call; None: not separable."""
        self._prove(tensors)
        if self.network.batch == "single":
            return dict.fromkeys(tensors)
        return {name: self.network.rows.get(name) for name in tensors}

    def _prove(self, tensors: Sequence[str]) -> None:
        if all(axis is None for axis in self.network.input_axes.values()):
            return
        with awaited(self._proving):
            try:
                prove(self.network, Trials(self.backend), tensors)
            except ModelError:  # rows that cannot share a run have no places
                self.network.rows.update({n: None for n in tensors if n not in self.network.rows})

    def gradients_apart(self, sources: tuple[str, ...], target: str) -> bool:
        """Whether the gradient of one row is that of the row alone and zero in all others; proven at the first call."""
        choice = Choice(sources, sources, target)
        with awaited(self._proving):
            return self._facts.get(("apart", choice), lambda: self.is_large or self._are_apart(choice))

    def _are_apart(self, choice: Choice) -> bool:
        try:
            key = rows_key(choice, activations=False)  # of gradients of the sources, which are asked for next
            session = self._made(key, lambda: rows_program(self.network, choice, activations=False))
        except NotDifferentiable:
            return True  # the request is refused, by name
        hidden = [name for name in choice.sources if name not in self.network.input_axes]
        self._proven = key, session
        run = Trials(self.backend)
        rows = []
        for number, kind in enumerate(("usual", "large", "small")):
            row = row_like(self.network, number, kind)
            try:
                rows.append({**row, **run(self.network.model, row, [*hidden, choice.target])})
            except ModelError:  # the model takes no row of this kind
                continue
        try:
            return gradients_apart(self.network, session.run, choice.sources, choice.target, rows)
        except ModelError:
            return False

    def bytes_per_row(self, inputs: Mapping[str, Array]) -> int:
        """About the memory that one row takes, forward and backward: twice the sizes of all tensors."""
        shapes = []
        for name, array in inputs.items():
            axis = self.network.input_axes.get(name)
            shapes.append((name, tuple(1 if k == axis else d for k, d in enumerate(array.shape))))
        key = ("row", tuple(shapes))
        return self._facts.get(key, lambda: 2 * _total_bytes(self.network.model, dict(shapes)))

    def close(self) -> None:
        """Drops the sessions."""
        self._proven = None
        self._cache.clear()
        self.references.clear()
        if self._apart_sizes is not None:
            self._apart_sizes.close()


class _Undivided(Exception):
    """A program that has no two parts."""


GRADIENT = Held(VJP)


def rows_key(
    choice: Choice,
    rules: Held = GRADIENT,
    activations: bool = True,
    totals: Reduction | None = None,
    channels: Mapping[str, int] | None = None,
) -> tuple[object, ...]:
    """What sessions of `rows_program` are kept by."""
    return ("rows", choice, rules, activations, totals, *(channels or {}).items())


def _total_bytes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The sizes of all tensors that shape inference knows when the inputs have these shapes."""
    bare = copied(model)
    del bare.graph.value_info[:]
    for value in bare.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        bare = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    total = 0
    for value in [*bare.graph.value_info, *bare.graph.output, *bare.graph.input]:
        dims = value.type.tensor_type.shape.dim
        if value.type.HasField("tensor_type") and all(d.HasField("dim_value") for d in dims):
            size = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).itemsize
            total += size * int(np.prod([d.dim_value for d in dims], dtype=np.int64))
    return max(total, 1)
