"""What the graph of a model tells: what names mean, default sources and targets, layers, cuts, what is smooth."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import AttributionError, InvalidArgument, NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import holds_elements, is_half
from onnx_attribution.graph_tools.ir.reach import ancestors, dependents
from onnx_attribution.graph_tools.ir.subgraphs import inner_nodes
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.graph_tools.normalise.noise import drawing_before, flag_of
from onnx_attribution.graph_tools.programs.bias_terms import biased
from onnx_attribution.graph_tools.programs.rows import led_to
from onnx_attribution.graph_tools.programs.signature import Choice
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
from onnx_attribution.server.engine.models.cache import Cache
from onnx_attribution.server.engine.models.read import ReadModel
from onnx_attribution.values import EVERY_KIND, Array, LayerInfo

FACTS = 256  # answers kept


class ModelGraph(ReadModel):
    """A model that answers questions about its graph; each is worked out once."""

    @cached_property
    def _facts(self) -> Cache:
        """The answers so far, which never change."""
        return Cache(FACTS)

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

    def tensor(self, name: str) -> str:
        """The tensor that a name means; `names.resolve` says how.

        Raises:
            NotFound, InvalidArgument: none or several have the name, or it cannot be a layer.
        """
        return self._facts.get(("tensor", name), lambda: resolve(self.graph, name, self.names))

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

    def target_of(self, name: str | None) -> str:
        """See `target_tensor`."""
        return self._facts.get(("target", name), lambda: target_tensor(self.graph, name))

    def default_target(self) -> str | None:
        """The float tensor before the outputs of a model whose outputs hold no floats."""
        return None if float_outputs(self.graph) else float_before_outputs(self.graph)

    def first_target(self) -> str:
        """The target that lists are made for: the first float output, or the float tensor before the outputs."""
        outputs = float_outputs(self.graph)
        return outputs[0] if outputs else self.target_of(self.default_target())

    def logit_of(self, target: str) -> Logit | None:
        """What a target is made of by a Softmax or a Sigmoid, if it is."""
        return self._facts.get(("logit", target), lambda: logit_of(self.graph, target))

    def require_float_layer(self, name: str) -> None:
        """Refuses a layer that is no float tensor."""
        self._facts.get(
            ("float", name), lambda: require_float(self.graph, name, "layer", Reason.LAYER_INVALID)
        )

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
        return [
            replace(x, after=tuple(after[x.name]), channel_axis=channel_axis(self.tensors[x.name]))
            for x in found
        ]

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

    def channel_axis(self, name: str) -> int | None:
        """The axis of the channels of a tensor in its own layout, by the operators that make it."""
        return self._facts.get(("channels", name), lambda: channel_axis(self.tensors[name]))

    def between(self, sources: tuple[str, ...], target: str) -> frozenset[str]:
        """The tensors on ways from the sources to the target, both ends included, none behind another source."""
        return self._facts.get(
            ("between", sources, target),
            lambda: (
                frozenset(dependents(self.nodes, sources))
                & frozenset(ancestors(self.nodes, [target], frozenset(sources)))
            ),
        )

    def biased(self, sources: tuple[str, ...], targets: tuple[str, ...]) -> tuple[str, ...]:
        """The tensors between the sources and the targets to which a bias is added."""
        return self._facts.get(("biased", sources, targets), lambda: biased(self.nodes, sources, targets))

    def cuts(self, sources: tuple[str, ...], target: str) -> frozenset[str]:
        """The tensors that every way from the sources to the target crosses."""
        return self._facts.get(
            ("cuts", sources, target), lambda: frozenset(cut_tensors(self.nodes, sources, target))
        )

    def cut_sets(self, choice: Choice) -> tuple[tuple[str, ...], ...]:
        """Sets of the layers that are cuts together."""
        if len(choice.layers) < 2:
            return ()
        return self._facts.get(
            ("cut sets", choice),
            lambda: tuple(cut_sets(self.nodes, choice.sources, choice.target, choice.layers)),
        )

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
