"""What reads the scores of classes, changed so that it takes more of them, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, reads
from onnx_attribution.graph_tools.ir.shapes import Dims, dims_of, set_dims
from onnx_attribution.graph_tools.programs.class_axis import RULES, Kind, Numbers, Scores

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def add_constant(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    """Puts a constant into a model; before IR version 4 they are inputs, too."""
    tensor = numpy_helper.from_array(value, name)
    model.graph.initializer.append(tensor)
    if model.ir_version < 4:
        model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, value.shape))


class Behind:
    """The nodes behind the scores of a model that is changed in place; those up to number `start` are none of them."""

    def __init__(
        self,
        model: onnx.ModelProto,
        shapes: Mapping[str, Dims],
        constant: Callable[[str], NDArray[Any] | None],
        classes: int,
        names: Sequence[str],
        start: int,
    ) -> None:
        self.model, self.shapes, self.constant = model, shapes, constant
        self.classes, self.names, self._start = classes, list(names), start
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self._found: dict[str, Kind] = {}
        self.makers = {z: node for node in model.graph.node for z in node.output if z}
        self._taken = {*self.makers, *(one.name for one in model.graph.initializer)}

    def follow(self, scores: str, axis: int, dims: Dims) -> tuple[str, ...]:
        """Changes what depends on the scores; the outputs that hold something for each class.

        Raises:
            ModelError: a node could not take more classes.
        """
        self._found = {scores: Scores(axis, dims)}
        for node in list(self.model.graph.node)[self._start + 1 :]:
            for graph in inner_graphs(node):
                for x in (x for one in graph.node for x in reads(one)):
                    if x in self._found:
                        self.refuse(node, f"reads {x!r} in a graph of its own")
            kinds = {x: self._found[x] for x in node.input if x in self._found}
            if kinds:
                self._pass(node, kinds)
        self._declare()
        return tuple(z.name for z in self.model.graph.output if isinstance(self._found.get(z.name), Scores))

    def _declare(self) -> None:
        graph = self.model.graph
        for z in graph.output:
            kind, dims = self._found.get(z.name), dims_of(z)
            if isinstance(kind, Scores) and dims is not None and kind.axis < len(dims):
                if dims[kind.axis] == self.classes:
                    own = list(dims)
                    own[kind.axis] = self.classes + len(self.names)
                    set_dims(z, own)
                elif isinstance(dims[kind.axis], int):
                    set_dims(z, [None if k == kind.axis else d for k, d in enumerate(dims)])
        kept = [value for value in graph.value_info if value.name not in self._found]
        del graph.value_info[:]
        graph.value_info.extend(kept)

    def _pass(self, node: onnx.NodeProto, kinds: Mapping[str, Kind]) -> None:
        scores = {x: kind for x, kind in kinds.items() if isinstance(kind, Scores)}
        if node.domain not in _DOMAINS:
            self.refuse(node, f"is of the domain {node.domain!r}: what it makes of more classes is not known")
        if not scores:
            self._numbers(node, set(kinds))
            return
        rule = RULES.get(node.op_type)
        if rule is None:
            self.refuse(node, "reads the scores, and what it makes of more classes is not known")
        for z, kind in zip(node.output, rule(self, node, scores), strict=False):
            if z and kind is not None:
                self._found[z] = kind

    def refuse(self, node: onnx.NodeProto, why: str) -> NoReturn:
        """Raises: ModelError."""
        raise ModelError(
            f"behind the head, the {node.op_type} {node.name or node.output[0]!r} {why}",
            reason=Reason.HEAD_INVALID,
            node=node.name or node.output[0],
        )

    # --- what nodes say

    def attribute(self, node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        found = next((one for one in node.attribute if one.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def ints(self, node: onnx.NodeProto, name: str, place: int) -> list[int] | None:
        """Whole numbers that are an attribute, or in later versions an input; None where there are none."""
        given = self.attribute(node, name)
        if given is not None:
            return [int(one) for one in np.atleast_1d(given)]
        if len(node.input) <= place or not node.input[place]:
            return None
        value = self.constant(node.input[place])
        if value is None:
            self.refuse(node, f"has {name} {node.input[place]!r} that are no constant")
        return [int(one) for one in np.atleast_1d(value)]

    def dims(self, name: str) -> Dims | None:
        """The sizes of a tensor of the file as it was."""
        value = self.constant(name)
        return self.shapes.get(name) if value is None else tuple(value.shape)

    def replaced(self, node: onnx.NodeProto, place: int, value: NDArray[Any]) -> None:
        """Gives a node another constant in the place of one; others that read the old one keep it."""
        base, k = f"{node.input[place]}/wider", 1
        name = base
        while name in self._taken:
            name, k = f"{base}.{k}", k + 1
        self._taken.add(name)
        add_constant(self.model, name, value)
        node.input[place] = name

    def labels(self, node: onnx.NodeProto, old: Sequence[Any]) -> list[Any]:
        """Labels with those of the new classes: their names, or whole numbers where labels are."""
        if len(old) != self.classes:
            self.refuse(node, f"has {len(old)} labels for {self.classes} classes")
        text = all(isinstance(one, str | bytes) for one in old)
        added: list[Any] = list(self.names)
        if not text:
            if any(float(one) != int(one) for one in old):
                self.refuse(node, "has labels that are no whole numbers")
            numbers = [int(one) for one in old]
            whole = all(name.removeprefix("-").isdecimal() for name in self.names)
            if not whole and numbers != list(range(self.classes)):
                self.refuse(
                    node,
                    f"has whole numbers as labels that do not count from 0 ({numbers[0]}, {numbers[1]}, ...): call "
                    "the new classes by numbers, too",
                )
            added = [int(name) for name in self.names] if whole else []
            added = added or list(range(self.classes, self.classes + len(self.names)))
        known = {one.decode() if isinstance(one, bytes) else one for one in old}
        if clash := [one for one in added if one in known]:
            self.refuse(node, f"has a label {clash[0]!r} already")
        return [*old, *added]

    # --- numbers of classes

    def _numbers(self, node: onnx.NodeProto, given: set[str]) -> None:
        """A node that reads numbers of classes: tables of labels that it looks up become longer."""
        match node.op_type:
            case (
                "Cast" | "Concat" | "Flatten" | "Identity" | "Reshape" | "Squeeze" | "Transpose" | "Unsqueeze"
            ):
                self._found |= {z: Numbers() for z in node.output if z}
            case "ArrayFeatureExtractor" | "Gather" if node.input[1] in given:
                table = self.constant(node.input[0])
                axis = self.attribute(node, "axis", 0) if node.op_type == "Gather" else -1
                if table is None or table.size != self.classes or table.shape[axis] != self.classes:
                    self.refuse(node, f"takes elements of {node.input[0]!r}, which is no list of labels")
                wider = self.labels(node, table.reshape(-1).tolist())
                shape = list(table.shape)
                shape[axis] = len(wider)
                self.replaced(node, 0, np.asarray(wider, table.dtype).reshape(shape))
            case "LabelEncoder":
                self._encoder(node)
            case "OneHot" if node.input[0] in given:
                self.refuse(node, "makes rows of as many places as there were classes")

    def _encoder(self, node: onnx.NodeProto) -> None:
        if (known := self.attribute(node, "classes_strings")) is not None:
            self.put(node, "classes_strings", self.labels(node, known))
            return
        keys = self.attribute(node, "keys_int64s")
        named = next(
            (n for n in ("values_strings", "values_int64s") if self.attribute(node, n) is not None), None
        )
        if keys is None or named is None or sorted(keys) != list(range(self.classes)):
            self.refuse(node, "does not map the numbers of the classes to labels")
        labels = self.labels(node, self.attribute(node, named))
        self.put(node, "keys_int64s", [*keys, *range(self.classes, len(labels))])
        self.put(node, named, labels)

    def put(self, node: onnx.NodeProto, name: str, value: Any) -> None:
        """Gives an attribute another value."""
        found = next(one for one in node.attribute if one.name == name)
        found.CopyFrom(helper.make_attribute(name, value))
