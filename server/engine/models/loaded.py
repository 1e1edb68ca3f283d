"""A model that is ready to be asked: its default sources and target, where its rows lie, the sessions built so far."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from threading import RLock

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_attribution.errors import AttributionError, InvalidArgument, ModelError, NotDifferentiable, Reason
from onnx_attribution.graph_tools.batch.prove import gradients_apart, prove, row_like
from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.ir.emit import holds_elements, is_half
from onnx_attribution.graph_tools.ir.reach import ancestors, dependents
from onnx_attribution.graph_tools.ir.subgraphs import inner_nodes
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.normalise.noise import drawing_before, flag_of
from onnx_attribution.graph_tools.operators import VJP, Held
from onnx_attribution.graph_tools.programs.bias_terms import biased
from onnx_attribution.graph_tools.programs.footprint import Footprint
from onnx_attribution.graph_tools.programs.rows import Reduction, led_to, rows_program
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.read.load import ModelSource
from onnx_attribution.graph_tools.select.channels import channel_axis
from onnx_attribution.graph_tools.select.cuts import cut_sets, cut_tensors, is_joint_cut
from onnx_attribution.graph_tools.select.homogeneous import is_homogeneous
from onnx_attribution.graph_tools.select.layers import (
    described,
    every_layer,
    last_with_positions,
    layers_between,
)
from onnx_attribution.graph_tools.select.links import links_between
from onnx_attribution.graph_tools.select.logits import Logit, logit_of
from onnx_attribution.graph_tools.select.names import resolve
from onnx_attribution.graph_tools.select.singular import width_at_zero
from onnx_attribution.graph_tools.select.smooth import is_piecewise_linear, is_smooth
from onnx_attribution.graph_tools.select.sources import default_sources, held, token_tensors, words
from onnx_attribution.graph_tools.select.targets import (
    float_before_outputs,
    float_outputs,
    require_float,
    target_tensor,
)
from onnx_attribution.graph_tools.walk.differentiate import straight_through
from onnx_attribution.server.engine.backend import Backend, Session, Trials
from onnx_attribution.server.engine.interrupt import awaited
from onnx_attribution.server.engine.models.cache import Arrays, Cache, Value
from onnx_attribution.server.engine.models.card import Card
from onnx_attribution.server.engine.models.read import ReadModel
from onnx_attribution.server.engine.models.scheduler import Scheduler
from onnx_attribution.values import EVERY_KIND, Array, LayerInfo

LARGE = 1 << 30  # bytes of a row from which on sessions keep no memory between runs
TINY = 1 << 16
"""Bytes of a row up to which it is computed sooner than a second thread begins."""
FEW_WEIGHTS = 1 << 18
"""Numbers of a network that has such rows."""
CAPACITY = 32  # sessions kept for one model; each may hold weights in another layout
FACTS = 256  # answers kept about the graph, which never changes


class LoadedModel(ReadModel):
    """A network with its sessions; safe for several threads."""

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
        self.graph = graph_of(self.network.model)
        self._check_card()
        self._cache = Cache(CAPACITY)
        self.scheduler = Scheduler(backend.observer)
        self.references = Arrays()
        self._facts = Cache(FACTS)
        self._proving = RLock()
        self._proven: tuple[object, Session] | None = None
        self.apart: set[Choice] = set()  # of which each row needs a reference of its own
        self.undivided: set[object] = set()  # programs of which nothing is of the reference alone
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

    def classes_of(self, tensor: str) -> tuple[str, ...]:
        """What the card calls the classes of a tensor, or of the output whose final activation takes the tensor."""
        names = self.card.class_names
        if not names or tensor in names:
            return names.get(tensor, ())
        for output, own in names.items():
            found = logit_of(self.graph, output) if output in self.tensors else None
            if found is not None and found.tensor == tensor and not found.made and found.sign > 0:
                return own
        return ()

    @cached_property
    def nodes(self) -> list[gs.Node]:
        """The nodes of the graph."""
        return list(self.graph.nodes)

    @cached_property
    def tensors(self) -> dict[str, gs.Tensor]:
        """The tensors of the graph by name."""
        return dict(self.graph.tensors())

    @cached_property
    def operators(self) -> frozenset[str]:
        """The operators of the graph and of all that it holds."""
        return frozenset(inner.op for node in self.nodes for inner in (node, *inner_nodes(node)))

    @cached_property
    def holds_halves(self) -> bool:
        """Whether a tensor is of a type of 16 bits or fewer."""
        return any(is_half(value) for value in self.tensors.values())

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

    def shape_at(
        self, name: str, place: RowAxis | None, inputs: Mapping[str, Array], rows: int
    ) -> tuple[int, ...] | None:
        """The shape of a tensor at inputs that hold this many rows, as far as the file says it; None where it does not.

        A dimension is a number, that of the rows, or has a name that a dimension of an input has.
        """
        declared = self.tensors[name].shape
        if declared is None:
            return None
        sizes = {
            d: size
            for x in self.graph.inputs
            if x.name in inputs and self.labels
            for d, size in zip(x.shape or (), inputs[x.name].shape, strict=False)
            if isinstance(d, str)
        }
        found = [d if isinstance(d, int) else sizes.get(d) for d in declared]
        if place is not None:
            found[place.axis] = rows * place.factor
        return None if any(d is None for d in found) else tuple(d for d in found if d is not None)

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

    def tensor(self, name: str) -> str:
        """The tensor that a name means; `names.resolve` says how.

        Raises:
            NotFound, InvalidArgument: none or several have the name, or it cannot be a layer.
        """
        return self._facts.get(("tensor", name), lambda: resolve(self.graph, name, self.names))

    def sources(self, names: Sequence[str], target: str) -> tuple[str, ...]:
        """The sources by name, or the default ones of the target.

        Raises:
            NotDifferentiable: an integer source, or no float tensor leads to the target.
        """
        if names:
            found = tuple(dict.fromkeys(self.tensor(name) for name in names))
            for name in found:
                try:
                    require_float(self.graph, name, "source", Reason.SOURCE_INVALID)
                except NotDifferentiable as error:
                    hidden = [s for s in self._default_sources(target) if s not in names]
                    hint = f"; a float source is {words(hidden)}" if hidden else ""
                    raise NotDifferentiable(f"{error}{hint}", reason=Reason.NOT_FLOAT, tensor=name) from error
            return found
        found = tuple(self._default_sources(target))
        if not found:
            raise NotDifferentiable(
                f"no float tensor that depends on the inputs leads to {target!r}; some methods need none",
                reason=Reason.NO_PATH,
                tensor=target,
            )
        return found

    def _default_sources(self, target: str) -> list[str]:
        return self._facts.get(("sources", target), lambda: default_sources(self.graph, target))

    def held(self, sources: Sequence[str], target: str) -> str:
        """In words, which inputs reach the target past these sources; "" where none does."""
        past = self._facts.get(("held", tuple(sources), target), lambda: held(self.graph, sources, target))
        if not past:
            return ""
        one, few = ("input", "is"), ("inputs", "are")
        word, verb = few if len(past) > 1 else one
        return (
            f"no source is named, so that {words(sources)} {few[1] if len(sources) > 1 else one[1]} explained; the "
            f"{word} {words(past)} {verb} held and not explained, "
            f"though {target!r} depends on {'them' if len(past) > 1 else 'it'}"
        )

    def features(self, names: Sequence[str], target: str) -> tuple[str, ...]:
        """The tensors by name, of any type, or the inputs that lead to the target and that each sample has of its own.

        Raises:
            InvalidArgument: a constant, or no input leads to the target.
        """
        if names:
            found = tuple(dict.fromkeys(self.tensor(name) for name in names))
            for name in found:
                if isinstance(self.tensors[name], gs.Constant):
                    raise InvalidArgument(
                        f"source {name!r} is a constant", reason=Reason.SOURCE_INVALID, name=name
                    )
            return found
        behind = ancestors(self.nodes, [target])
        leading = [x for x in self.inputs if x.name in behind]
        alone = self.network.batch == "single"  # no axis is known; scalars are settings rather than samples
        own = [x.name for x in leading if (x.shape if alone else x.batch_axis is not None)]
        if not leading:
            raise InvalidArgument(
                f"no input leads to the target {target!r}", reason=Reason.TARGET_INVALID, target=target
            )
        return tuple(own or [x.name for x in leading])

    def layers(self, pattern: str = "", target: str = "") -> list[LayerInfo]:
        """The inputs and tokens that lead to the default sources, and the layers between these and the target, which is
        by default the first one; `pattern` is a part or a glob of the name or node, the operator, or a name as requests
        have it, such as that of a module.

        Raises:
            NotFound, InvalidArgument: the target is no tensor that anything leads to.
        """
        target = self.tensor(target) if target else self.first_target()
        sources = self.sources((), target)
        found = layers_between(self.graph, sources, target)
        known = {x.name for x in found}
        before = [
            x for x in token_tensors(self.graph, sources, target) if x.name not in known and holds_elements(x)
        ]
        found = [*described(self.graph, [x.name for x in before], ()), *found]
        if any(c in pattern for c in "*?["):
            found = [x for x in found if fnmatchcase(x.name, pattern) or fnmatchcase(x.node, pattern)]
        else:
            meant = ""
            with contextlib.suppress(AttributionError):
                meant = pattern and self.tensor(pattern)
            found = [
                x
                for x in found
                if pattern in x.name or pattern in x.node or pattern == x.operator or x.name == meant
            ]
        after: dict[str, list[str]] = {x.name: [] for x in found}
        for first, second in links_between(self.nodes, after):
            after[second].append(first)
        return [replace(x, after=tuple(after[x.name])) for x in found]

    def every_layer(
        self, sources: tuple[str, ...], targets: tuple[str, ...], pattern: str
    ) -> tuple[str, ...]:
        """The layers that `*` or `**` stands for: those of `every_layer` to which derivatives of all targets lead.

        Raises:
            NotDifferentiable: an operator on the way has no rule. InvalidArgument: there is no such layer.
        """

        def find() -> tuple[str, ...]:
            found = tuple(every_layer(self.graph, sources, targets, pattern))
            for target in targets:
                found = led_to(self.network, Choice(sources, found, target)) if found else ()
            return found

        every = self._facts.get(("every", sources, targets, pattern), find)
        if not every:
            raise InvalidArgument(
                f"no layer between {words(list(sources))} and {words(list(targets))} is one that {pattern!r} stands for"
                + "; '**' stands for every float tensor" * (pattern == EVERY_KIND),
                reason=Reason.LAYER_INVALID,
            )
        return every

    def layer_with_positions(self, sources: tuple[str, ...], targets: tuple[str, ...]) -> str:
        """The layer that a map is made of where none is named: see `last_with_positions`.

        Raises:
            InvalidArgument: there is none.
        """
        found = self._facts.get(
            ("positions", sources, targets), lambda: last_with_positions(self.graph, sources, targets) or ""
        )
        if not found:
            raise InvalidArgument(
                f"no layer between {words(list(sources))} and {words(list(targets))} has positions, axes behind those "
                "of samples and channels; name the layer whose channels are weighed",
                reason=Reason.LAYER_INVALID,
            )
        return found

    def biased(self, sources: tuple[str, ...], targets: tuple[str, ...]) -> tuple[str, ...]:
        """The tensors between the sources and the targets to which a bias is added."""
        return self._facts.get(("biased", sources, targets), lambda: biased(self.nodes, sources, targets))

    def between(self, sources: tuple[str, ...], target: str) -> frozenset[str]:
        """The tensors on ways from the sources to the target, both ends included, none behind another source."""
        return self._facts.get(
            ("between", sources, target),
            lambda: (
                frozenset(dependents(self.nodes, sources))
                & frozenset(ancestors(self.nodes, [target], frozenset(sources)))
            ),
        )

    def cuts(self, sources: tuple[str, ...], target: str) -> frozenset[str]:
        """The tensors that every way from the sources to the target crosses."""
        return self._facts.get(
            ("cuts", sources, target), lambda: frozenset(cut_tensors(self.nodes, sources, target))
        )

    def channel_axis(self, name: str) -> int | None:
        """The axis of the channels of a tensor in its own layout, by the operators that make it."""
        return self._facts.get(("channels", name), lambda: channel_axis(self.graph, name))

    def target_of(self, name: str | None) -> str:
        """See `target_tensor`."""
        return self._facts.get(("target", name), lambda: target_tensor(self.graph, name))

    def logit_of(self, target: str) -> Logit | None:
        """What a target is made of by a Softmax or a Sigmoid, if it is."""
        return self._facts.get(("logit", target), lambda: logit_of(self.graph, target))

    def is_joint_cut(self, choice: Choice) -> bool:
        """Whether every way to the target crosses one of the layers, and none crosses two."""
        return self._facts.get(
            ("joint cut", choice),
            lambda: is_joint_cut(self.nodes, choice.sources, choice.target, list(choice.layers)),
        )

    def is_homogeneous(self, choice: Choice, shifted: bool = False) -> bool:
        """Whether gradients and activations of the layers are alike all along a ray from zero; `shifted`: the target
        may have a value at zero."""
        return self._facts.get(
            ("homogeneous", choice, shifted),
            lambda: is_homogeneous(self.graph, choice.sources, choice.target, choice.layers, shifted),
        )

    def is_smooth(self, choice: Choice) -> bool:
        """Whether the network is known to have no kinks between the sources and the target."""
        return self._facts.get(
            ("smooth", choice.sources, choice.target),
            lambda: is_smooth(self.nodes, choice.sources, choice.target),
        )

    def is_kinked(self, choice: Choice) -> bool:
        """Whether the network is known to be made of straight pieces between the sources and the target."""
        return self._facts.get(
            ("kinked", choice.sources, choice.target),
            lambda: is_piecewise_linear(self.nodes, choice.sources, choice.target),
        )

    def width_at_zero(self, choice: Choice) -> float:
        """Over how much of a path from zero a normalisation turns, if what it takes has deviation 1; 0: none does."""
        return self._facts.get(
            ("width", choice.sources, choice.target),
            lambda: width_at_zero(self.graph, choice.sources, choice.target),
        )

    def cut_sets(self, choice: Choice) -> tuple[tuple[str, ...], ...]:
        """Sets of the layers that are cuts together."""
        if len(choice.layers) < 2:
            return ()
        return self._facts.get(
            ("cut sets", choice),
            lambda: tuple(cut_sets(self.nodes, choice.sources, choice.target, choice.layers)),
        )

    def first_target(self) -> str:
        """The target that lists are made for: the first float output, or the float tensor before the outputs."""
        outputs = float_outputs(self.graph)
        return outputs[0] if outputs else self.target_of(self.default_target())

    def rounding(self, sources: Sequence[str], target: str) -> str:
        """In words, where between the sources and the target the gradient is straight-through; "" for nowhere."""
        found = self._facts.get(
            ("rounding", tuple(sources), target),
            lambda: [node.op for node in straight_through(self.nodes, sources, target)],
        )
        if not found:
            return ""
        kinds = ", ".join(dict.fromkeys(found))
        return f"the gradient is straight-through at {len(found)} quantising operator{'s'[: len(found) > 1]} ({kinds})"

    def randomness(self, target: str, inputs: Mapping[str, Array]) -> str:
        """In words, what draws numbers before the target when these inputs are given; "" where nothing does."""
        drawing = self._facts.get(("random", target), lambda: drawing_before(self.nodes, target))
        found = [node for node in drawing if np.any(inputs.get(flag_of(node), True))]
        if not found:
            return ""
        listed = ", ".join(f"{node.op} (node {node.name!r})" for node in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"the target {target!r} is random: {listed}{more} draws other numbers in every run"

    def default_target(self) -> str | None:
        """The float tensor before the outputs of a model whose outputs hold no floats."""
        return None if float_outputs(self.graph) else float_before_outputs(self.graph)

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
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
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
