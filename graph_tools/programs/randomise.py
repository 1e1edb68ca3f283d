"""Models whose parameters are drawn anew, block by block from the top: maps that do not change with them show nothing
that was learnt (arXiv 1810.03292).

A parameter is a constant that an operator takes as its weight, bias, scale or table. Shapes, axes, indices, masks and
what a file does to its input before the first weight are none. Operators between two weights, such as a normalisation
or an addition, belong to the block of the weight before them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from onnx_attribution.errors import InvalidArgument, ModelError, Reason
from onnx_attribution.graph_tools.ir.nodes import placed_graphs, reads
from onnx_attribution.graph_tools.ir.weights import value_of

Draw = Literal["he_normal", "truncated_normal", "shuffle"]
Order = Literal["cascading", "independent"]
Role = Literal["weight", "gate", "bias", "scale", "slope", "mean", "variance", "table"]
Key = tuple[str, str]
"""The place of a graph, "" for the outermost, and the name of a constant in it."""

TRUNCATED = 0.01  # the standard deviation of arXiv 1810.03292
SLOPE = 0.25  # of a PRelu before it is trained
MASKING = 1e4  # magnitudes from here on are those of a mask
INITIAL: Mapping[Role, float] = {"bias": 0.0, "scale": 1.0, "slope": SLOPE, "mean": 0.0, "variance": 1.0}
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
_ANCHORS: frozenset[Role] = frozenset({"weight", "gate", "table"})


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


@dataclass(frozen=True)
class Stage:
    """A model of which `redrawn` blocks are drawn anew: the last one in this stage, those before it where stages
    cascade."""

    model: onnx.ModelProto
    redrawn: tuple[str, ...]

    @property
    def block(self) -> str:
        """The block that this stage is named after."""
        return self.redrawn[-1]


def blocks_of(model: onnx.ModelProto, toward: Sequence[str] = (), most: int | None = None) -> list[Block]:
    """The blocks of parameters, the top first, that the tensors `toward` (default: the outputs) depend on.

    At most `most` of them, where that is given: neighbours are taken together.

    Raises:
        InvalidArgument: `most` is less than 1. ModelError: the model has no parameters that can be drawn anew.
    """
    if most is not None and most < 1:
        raise InvalidArgument(f"most must be at least 1, not {most}", parameter="most")
    return _merged(_Survey(_inlined(model)).blocks(toward), most)


def stages(
    model: onnx.ModelProto,
    order: Order = "cascading",
    draw: Draw = "he_normal",
    *,
    seed: int = 0,
    toward: Sequence[str] = (),
    most: int | None = None,
) -> Iterator[Stage]:
    """Models with blocks drawn anew: from the top down, each with those above it (cascading) or each alone.

    `he_normal` draws weights with the variance 2 / fan-in, gates of recurrent operators 1 / fan-in and tables with
    their own mean and deviation; `truncated_normal` all of these with the deviation 0.01, cut at two of them. Biases,
    scales and statistics begin again at 0 and 1. `shuffle` moves the numbers of each parameter around, and is the only
    one for quantised weights. A parameter is drawn alike in every stage; the given model is not changed.

    Raises:
        InvalidArgument: an unknown order or draw, or one that quantised weights cannot have. ModelError: the model has
            no parameters that can be drawn anew.
    """
    for word, value, known in (("order", order, get_args(Order)), ("draw", draw, get_args(Draw))):
        if value not in known:
            raise InvalidArgument(f"no {word} {value!r}; there are: {', '.join(known)}", parameter=word)
    inlined = _inlined(model)
    found = blocks_of(inlined, toward, most)
    for block in found:
        _require_drawable(block, draw)

    def made() -> Iterator[Stage]:
        names: tuple[str, ...] = ()
        cumulative = _copied(inlined)
        for block in found:
            changed = cumulative if order == "cascading" else _copied(inlined)
            _redraw(changed, block, draw, seed)
            names = (*names, block.name) if order == "cascading" else (block.name,)
            yield Stage(_copied(changed) if order == "cascading" else changed, names)

    return made()


# --- What a parameter is


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
        self._constants = dict(_constants(model))
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
                opens = node.op_type not in _ARITHMETIC and any(one.role in _ANCHORS for one in own)
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
            for number, inner in enumerate(_inner(node)):
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
            inner = _inner(node)
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


def _inner(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else list(a.graphs))]


def _constants(model: onnx.ModelProto) -> Iterator[tuple[Key, TensorProto]]:
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


# --- Drawing


def _require_drawable(block: Block, draw: Draw) -> None:
    if draw == "shuffle":
        return
    for one in block.parameters:
        if one.is_quantised:
            raise InvalidArgument(
                f"{one.name!r} of {block.name!r} is quantised ({one.kind}), and {draw} draws real numbers; "
                "take draw='shuffle'",
                tensor=one.name, parameter="draw",
            )  # fmt: skip


def _redraw(model: onnx.ModelProto, block: Block, draw: Draw, seed: int) -> None:
    """Draws, in place, the parameters of a block anew."""
    held = dict(_constants(model))
    for one in block.parameters:
        tensor = held[one.key]
        before = value_of(tensor)
        rng = np.random.default_rng([seed, zlib.crc32("/".join(one.key).encode())])
        after = _drawn(one, before, draw, rng).astype(before.dtype).reshape(before.shape)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(after), tensor.name))


def _drawn(one: Parameter, before: NDArray[Any], draw: Draw, rng: np.random.Generator) -> NDArray[Any]:
    if draw == "shuffle":
        return rng.permutation(before.reshape(-1))
    if one.role not in _ANCHORS:
        return np.full(before.shape, INITIAL[one.role])
    if draw == "truncated_normal":
        normal = rng.normal(size=before.size)
        while (outside := np.abs(normal) > 2).any():
            normal[outside] = rng.normal(size=int(outside.sum()))
        return normal * TRUNCATED
    if one.role == "table":
        values = np.asarray(before, np.float64)
        return rng.normal(float(values.mean()), float(values.std()), before.size)
    return rng.normal(0.0, math.sqrt((2 if one.role == "weight" else 1) / one.fan_in), before.size)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without local functions, whose nodes stand behind those that they read; runtimes take any order."""
    copy = _copied(inliner.inline_local_functions(model) if model.functions else model)
    made = {z: k for k, node in enumerate(copy.graph.node) for z in node.output if z}
    waiting = [{made[x] for x in reads(node) if x in made} for node in copy.graph.node]
    if all(k > max(before, default=-1) for k, before in enumerate(waiting)):
        return copy
    order = list(TopologicalSorter(dict(enumerate(waiting))).static_order())
    nodes = [copy.graph.node[k] for k in order]
    sorted_nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(sorted_nodes)
    return copy


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
