"""The parameters of a model, which are the constants that were learnt, block by block from the top.

A parameter is a constant that an operator takes as its weight, bias, scale or table. Shapes, axes, indices, masks and
what a file does to its input before the first weight are none. Operators between two weights, such as a normalisation
or an addition, belong to the block of the weight before them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner

from onnx_attribution.errors import InvalidArgument, ModelError, Reason
from onnx_attribution.graph_tools.ir.edit import copied, sort_nodes
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, placed_graphs, reads
from onnx_attribution.graph_tools.ir.weights import value_of

Role = Literal["weight", "gate", "bias", "scale", "slope", "mean", "variance", "table"]
Key = tuple[str, str]
"""The place of a graph, "" for the outermost, and the name of a constant in it."""
MASKING = 1e4  # magnitudes from here on are those of a mask
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_PRODUCTS: Mapping[int, Role] = {0: "weight", 1: "weight"}
_AFFINE: Mapping[int, Role] = {1: "scale", 2: "bias"}
_GATES: Mapping[int, Role] = {1: "gate", 2: "gate", 3: "bias", 7: "bias"}
_PLACES: Mapping[str, Mapping[int, Role]] = {
    "Conv": {1: "weight", 2: "bias"},
    "FusedConv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "DeformConv": {1: "weight", 3: "bias"},
    "Gemm": {**_PRODUCTS, 2: "bias"},
    "FusedGemm": {**_PRODUCTS, 2: "bias"},
    "MatMul": _PRODUCTS,
    "FusedMatMul": _PRODUCTS,
    "Einsum": dict.fromkeys(range(8), "weight"),
    "BatchNormalization": {**_AFFINE, 3: "mean", 4: "variance"},
    "InstanceNormalization": _AFFINE,
    "LayerNormalization": _AFFINE,
    "GroupNormalization": _AFFINE,
    "RMSNormalization": _AFFINE,
    "SimplifiedLayerNormalization": _AFFINE,
    "SkipLayerNormalization": {2: "scale", 3: "bias", 4: "bias"},
    "SkipSimplifiedLayerNormalization": {2: "scale", 3: "bias"},
    "EmbedLayerNormalization": {2: "table", 3: "table", 4: "table", 5: "scale", 6: "bias"},
    "LSTM": _GATES,
    "GRU": {1: "gate", 2: "gate", 3: "bias"},
    "RNN": {1: "gate", 2: "gate", 3: "bias"},
    "Gather": {0: "table"},
    "PRelu": {1: "slope"},
    "BiasGelu": {1: "bias"},
    "FastGelu": {1: "bias"},
    "Attention": {1: "weight", 2: "bias"},
    "QAttention": {1: "weight", 2: "bias"},
    "MatMulInteger": _PRODUCTS,
    "MatMulIntegerToFloat": {**_PRODUCTS, 6: "bias"},
    "DynamicQuantizeMatMul": {1: "weight", 4: "bias"},
    "MatMulNBits": {1: "weight"},
    "ConvInteger": {1: "weight"},
    "QLinearConv": {3: "weight", 8: "bias"},
    "QLinearMatMul": {0: "weight", 3: "weight"},
    "QLinearAdd": {0: "bias", 3: "bias"},
    "QGemm": {0: "weight", 3: "weight", 6: "bias"},
}
_MICROSOFT = frozenset({"Attention"})
"""Operators that have parameters only in com.microsoft; the standard one of this name has none."""
_ARITHMETIC: Mapping[str, Role] = {"Add": "bias", "Sub": "bias", "Mul": "scale", "Div": "scale"}
_CARRIES = frozenset(
    {"Identity", "Transpose", "Reshape", "Cast", "CastLike", "Squeeze", "Unsqueeze", "Flatten"}
    | {"DequantizeLinear", "QuantizeLinear", "Slice"}
)
_COMBINES = frozenset({"Concat", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg"})
Origins = tuple[tuple[Key, bool], ...]
ANCHORS: frozenset[Role] = frozenset({"weight", "gate", "table"})


@dataclass(frozen=True)
class Parameter:
    """A constant that was learnt. `fan_in`: how many numbers each output of its operator is a sum of."""

    key: Key
    role: Role
    shape: tuple[int, ...]
    data_type: int
    fan_in: int = 1

    @property
    def name(self) -> str:
        """The name of the tensor."""
        return self.key[1]

    @property
    def is_quantised(self) -> bool:
        """Whether it holds integers, which no continuous distribution has."""
        return self.data_type not in _FLOATS

    @property
    def kind(self) -> str:
        """The element type in words."""
        return TensorProto.DataType.Name(self.data_type).lower()


@dataclass(frozen=True)
class Block:
    """Parameters that are drawn anew together: those of one weight and of what follows it up to the next."""

    name: str
    operators: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return sum(math.prod(one.shape) for one in self.parameters)


def blocks_of(model: onnx.ModelProto, toward: Sequence[str] = (), most: int | None = None) -> list[Block]:
    """The blocks of parameters, the top first, that the tensors `toward` (default: the outputs) depend on.

    At most `most` of them, where that is given: neighbours are taken together.

    Raises:
        InvalidArgument: `most` is less than 1. ModelError: the model has no parameters that can be drawn anew.
    """
    if most is not None and most < 1:
        raise InvalidArgument(f"most must be at least 1, not {most}", parameter="most")
    return _merged(_Survey(inlined(model)).blocks(toward), most)


@dataclass
class _Found:
    """Parameters of one block while it is being put together."""

    name: str
    operators: dict[str, None] = field(default_factory=dict)
    parameters: dict[Key, Parameter] = field(default_factory=dict)


class _Survey:
    """The constants of a model, and which of them are parameters of which block."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = dict(constants_of(model))
        self._origins: dict[Key, Origins] = {}
        self._trace(model.graph, "")
        self._found: list[_Found] = []
        self._block_at: dict[str, int] = {}
        self._owner: dict[Key, int] = {}

    def blocks(self, toward: Sequence[str]) -> list[Block]:
        needed = _needed(self._model.graph, toward)
        self._walk(self._model.graph, "", needed)
        kept = [
            Block(
                one.name,
                tuple(one.operators),
                tuple(p for key, p in one.parameters.items() if self._owner[key] == number),
            )
            for number, one in enumerate(self._found)
        ]
        kept = [block for block in kept if block.parameters]
        if not kept:
            raise ModelError(_nothing(self._model), reason=Reason.MODEL_INVALID)
        return kept[::-1]

    def _walk(self, graph: onnx.GraphProto, place: str, needed: frozenset[str] | None) -> None:
        for index, node in enumerate(graph.node):
            if needed is not None and not needed.intersection(node.output):
                continue
            before = max((self._block_at[x] for x in reads(node) if x in self._block_at), default=None)
            own = self._parameters(node, place, before is not None)
            at = before
            if own:
                opens = node.op_type not in _ARITHMETIC and any(one.role in ANCHORS for one in own)
                if before is None or opens:
                    self._found.append(_Found(node.name or next(z for z in node.output if z)))
                    at = len(self._found) - 1
                assert at is not None
                found = self._found[at]
                found.operators[node.op_type] = None
                for one in own:
                    found.parameters.setdefault(one.key, one)
                    self._owner[one.key] = max(self._owner.get(one.key, at), at)
                    for other in self._found[:at]:
                        other.parameters.pop(one.key, None)
            for number, inner in enumerate(list(inner_graphs(node))):
                count = len(self._found)
                self._walk(inner, f"{place}/{index}.{number}", None)
                if len(self._found) > count:
                    at = len(self._found) - 1
            if at is not None:
                self._block_at.update(dict.fromkeys(filter(None, node.output), at))

    def _parameters(self, node: onnx.NodeProto, place: str, is_behind_weights: bool) -> list[Parameter]:
        """The parameters that a node takes from constants."""
        found = []
        roles = _PLACES.get(node.op_type, {})
        if node.op_type in _MICROSOFT and node.domain != "com.microsoft":
            roles = {}
        places = [
            (number, key, turned)
            for number, name in enumerate(node.input)
            if name
            for key, turned in self._made_of(place, name) or ()
        ]
        for number, key, turned in places:
            tensor = self._constants[key]
            role = roles.get(number)
            if role is None and node.op_type in _ARITHMETIC and is_behind_weights:
                role = self._arithmetic(node.op_type, tensor)
            if role is None or not _is_learnt(tensor, role, node.op_type):
                continue
            shape = tuple(tensor.dims)
            fan_in = _fan_in(node, number, shape, turned) if role in ("weight", "gate") else 1
            found.append(Parameter(key, role, shape, tensor.data_type, max(fan_in, 1)))
        return found

    def _arithmetic(self, operator: str, tensor: TensorProto) -> Role | None:
        """The role of an operand of an addition or a product; None for masks and numbers that nobody learnt."""
        if tensor.data_type not in _FLOATS or math.prod(tensor.dims) < 2:
            return None
        values = np.asarray(value_of(tensor), np.float64)
        if not np.isfinite(values).all() or np.abs(values).max() >= MASKING:
            return None
        if len(np.unique(values)) <= (2 if values.size > 2 else 1):
            return None
        return "table" if sum(d > 1 for d in tensor.dims) > 1 else _ARITHMETIC[operator]

    def _trace(self, graph: onnx.GraphProto, place: str) -> None:
        """Notes which constants the tensors of a graph are made of that nothing but constants make."""
        for index, node in enumerate(graph.node):
            inner = list(inner_graphs(node))
            for number, one in enumerate(inner):
                self._trace(one, f"{place}/{index}.{number}")
            if node.op_type == "Constant":
                if (place, node.output[0]) not in self._constants:  # numbers that are no tensor
                    self._origins[place, node.output[0]] = ()
            elif node.op_type == "If":
                branches = [(f"{place}/{index}.{number}", one) for number, one in enumerate(inner)]
                for k, name in enumerate(node.output):
                    own = [self._made_of(where, one.output[k].name) for where, one in branches]
                    self._note(place, name, own)
            elif node.op_type in _CARRIES and node.input:
                own = [self._made_of(place, node.input[0])]
                if node.op_type == "Transpose" and own[0] is not None:
                    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [1, 0])
                    turned = order[-2:] != sorted(order[-2:])
                    own = [tuple((key, before ^ turned) for key, before in own[0])]
                self._note(place, node.output[0], own)
            elif node.op_type in _COMBINES:
                self._note(place, node.output[0], [self._made_of(place, x) for x in node.input if x])

    def _note(self, place: str, name: str, parts: Sequence[Origins | None]) -> None:
        """A tensor is made of constants where all of its parts are; of several those that are no single numbers."""
        if None in parts or not parts:
            return
        found = dict(one for part in parts for one in reversed(part or ()))
        if len(found) > 1:
            found = {key: t for key, t in found.items() if math.prod(self._constants[key].dims) > 1}
        self._origins[place, name] = tuple(found.items())

    def _made_of(self, place: str, name: str) -> Origins | None:
        """The constants that a tensor is made of, each with whether it lies transposed; None where inputs are."""
        if (key := self._visible(place, name, self._origins)) is not None:
            return self._origins[key]
        key = self._visible(place, name, self._constants)
        return None if key is None else ((key, False),)

    def _visible(self, place: str, name: str, known: Mapping[Key, Any]) -> Key | None:
        """The entry of a name in the graph at a place or one around it."""
        while (place, name) not in known:
            if not place:
                return None
            place = place.rpartition("/")[0]
        return place, name


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without local functions, whose nodes stand behind those that they read; runtimes take any order."""
    copy = copied(inliner.inline_local_functions(model) if model.functions else model)
    sort_nodes(copy.graph)
    return copy


def constants_of(model: onnx.ModelProto) -> Iterator[tuple[Key, TensorProto]]:
    """The tensors that a model holds by value, in place."""
    for place, graph in placed_graphs(model.graph, ""):
        for tensor in graph.initializer:
            yield (place, tensor.name), tensor
        for node in graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                for attribute in node.attribute:
                    if attribute.HasField("t"):
                        yield (place, node.output[0]), attribute.t


def _is_learnt(tensor: TensorProto, role: Role, operator: str) -> bool:
    """Whether a constant at the place of a parameter holds numbers that were learnt."""
    if operator == "Gather":
        return tensor.data_type in _FLOATS and len(tensor.dims) > 1
    if tensor.data_type in _FLOATS:
        return math.prod(tensor.dims) > 0
    words = TensorProto.DataType.Name(tensor.data_type)
    small = words.startswith(("INT", "UINT", "FLOAT8", "FLOAT4")) and words not in (
        "INT64",
        "UINT64",
        "UINT32",
    )
    return small and role in ("weight", "gate", "bias", "table") and math.prod(tensor.dims) > 1


def _fan_in(node: onnx.NodeProto, number: int, shape: tuple[int, ...], turned: bool) -> int:
    """How many products are added up for each output."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    operator, size = node.op_type, math.prod(shape)
    if operator == "ConvTranspose":
        return size // max(shape[1], 1) // int(attributes.get("group", 1))
    if "Conv" in operator:
        return size // max(shape[0], 1)
    if operator in ("LSTM", "GRU", "RNN"):
        return shape[-1]
    if operator == "Einsum":
        terms, _, output = attributes["equation"].decode().replace(" ", "").partition("->")
        letters = terms.split(",")[number].replace("...", "")
        if len(letters) == len(shape) and output:
            return math.prod(n for letter, n in zip(letters, shape, strict=True) if letter not in output)
        return shape[-1]
    if len(shape) < 2:
        return size
    if operator == "MatMulNBits":
        return int(attributes.get("K", 1))
    left = number == 0
    transposed = attributes.get("transA" if left else "transB", 0)
    return shape[-1] if left ^ bool(transposed) ^ turned else shape[-2]


def _needed(graph: onnx.GraphProto, toward: Sequence[str]) -> frozenset[str] | None:
    """The tensors that others depend on; None, for all, where one of those is not in the file."""
    names = set(toward) or {z.name for z in graph.output}
    if not names <= {z for node in graph.node for z in node.output}:
        return None
    for node in reversed(graph.node):
        if names.intersection(node.output):
            names.update(reads(node))
    return frozenset(names)


def _nothing(model: onnx.ModelProto) -> str:
    others = sorted({n.op_type for n in model.graph.node if n.domain.startswith("ai.onnx.ml")})
    held = f"; {', '.join(others)} hold theirs as attributes, which are not drawn anew" if others else ""
    return f"the model has no parameters that the target depends on and that can be drawn anew{held}"


def _merged(blocks: list[Block], most: int | None) -> list[Block]:
    """At most so many blocks: neighbours together, about as many in each."""
    if most is None or len(blocks) <= most:
        return blocks
    ends = [round(k * len(blocks) / most) for k in range(most + 1)]
    groups = [blocks[a:b] for a, b in pairwise(ends)]
    return [
        Block(
            group[0].name if len(group) == 1 else f"{group[0].name} … {group[-1].name}",
            tuple(dict.fromkeys(name for block in group for name in block.operators)),
            tuple(one for block in group for one in block.parameters),
        )
        for group in groups
    ]
