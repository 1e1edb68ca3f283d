"""Graphs under construction, whose shapes are known by their makers: `N` marks the axis of the samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Dim = int | str
Dims = tuple[Dim, ...]
T = TypeVar("T")
N = "N"
LARGEST = 24  # elements of one sample of any tensor


@dataclass(frozen=True)
class Value:
    """A float tensor: its dimensions, of which one may be `N`, and about how large its numbers are."""

    name: str
    dims: Dims
    size: float = 1.0

    @property
    def axis(self) -> int | None:
        """The axis of the samples; None where all share the tensor."""
        return self.dims.index(N) if N in self.dims else None

    @property
    def free(self) -> list[int]:
        """The axes within a sample."""
        return [k for k, d in enumerate(self.dims) if d != N]

    def at(self, samples: int) -> tuple[int, ...]:
        """The shape at so many samples."""
        return tuple(samples if isinstance(d, str) else d for d in self.dims)

    def width(self, axis: int) -> int:
        """The size of an axis within a sample."""
        size = self.dims[axis]
        assert isinstance(size, int)
        return size


def elements(dims: Dims) -> int:
    """The elements of one sample."""
    return math.prod(d for d in dims if isinstance(d, int))


def broadcast(a: Dims, b: Dims) -> Dims | None:
    """The dimensions of an elementwise result; None where the samples would not stay on one axis."""
    wide: list[Dim] = []
    for k in range(1, max(len(a), len(b)) + 1):
        x = a[-k] if k <= len(a) else 1
        y = b[-k] if k <= len(b) else 1
        if x != y and x != 1 and y != 1:
            return None
        wide.insert(0, y if x == 1 else x)
    return tuple(wide) if wide.count(N) <= 1 else None


@dataclass
class Names:
    """Names that no two tensors or nodes of a model share."""

    count: int = 0

    def new(self, prefix: str) -> str:
        """The next name."""
        self.count += 1
        return f"{prefix}{self.count}"


@dataclass
class Draft:
    """One graph, or the body of a node. `values` are the floats that operators may take, outer ones included."""

    rng: np.random.Generator
    dtype: type[np.floating[Any]]
    opset: int
    fixed: bool  # whether the batch of 1 is written into the file
    names: Names = field(default_factory=Names)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    made: list[Value] = field(default_factory=list)
    inline: bool = False  # constants as nodes

    @property
    def element(self) -> int:
        """The element type of the floats."""
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))

    def child(self, *, values: Sequence[Value] | None = None, inline: bool = False) -> Draft:
        """A draft of a body: it shares names, and sees `values` (default: all that this one sees)."""
        return Draft(
            self.rng, self.dtype, self.opset, self.fixed, self.names, functions=self.functions,
            values=list(self.values if values is None else values), inline=inline,
        )  # fmt: skip

    def constant(self, value: Any, kind: type[np.generic] | None = None) -> str:
        """The name of a constant in the type of the floats, or of the given one."""
        tensor = numpy_helper.from_array(np.asarray(value, kind or self.dtype), self.names.new("c"))
        if self.inline:
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        else:
            self.constants.append(tensor)
        return tensor.name

    def integers(self, values: Any) -> str:
        """The name of a constant of int64."""
        return self.constant(values, np.int64)

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Adds a node."""
        name = self.names.new(f"{operator}_")
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))

    def add(
        self, operator: str, inputs: Sequence[Value | str], dims: Dims, size: float = 1.0, **attributes: Any
    ) -> Value:
        """A node and its (first) output."""
        found = Value(self.names.new("t"), dims, size)
        self.node(operator, [x if isinstance(x, str) else x.name for x in inputs], [found.name], **attributes)
        self.keep(found)
        return found

    def keep(self, value: Value) -> None:
        """Lets later operators take a tensor."""
        self.values.append(value)
        self.made.append(value)

    def sizes(self, dims: Dims) -> list[int]:
        """Dimensions as a constant of the file holds them: the batch of 1 that was baked in, or one to be inferred."""
        return [(1 if self.fixed else -1) if isinstance(d, str) else d for d in dims]

    def chance(self, probability: float) -> bool:
        """Whether something rare happens."""
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]

    def body(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[tuple[str, Dims | None]], **other: str
    ) -> onnx.GraphProto:
        """This draft as the body of a node; outputs declare a shape where one is given."""
        declared = [
            helper.make_tensor_value_info(name, self.element, None if dims is None else self.declared(dims))
            for name, dims in outputs
        ]
        front = [helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in other.values()]
        return helper.make_graph(
            self.nodes, self.names.new("body"), list(inputs), front + declared, self.constants
        )

    def declared(self, dims: Dims) -> list[int | str]:
        """Dimensions as an exporter declares them."""
        return [1 if self.fixed and d == N else d for d in dims]


def spread(rng: np.random.Generator, shape: Sequence[int], scale: float = 1.0) -> Array:
    """Weights that are neither tiny nor alike."""
    return np.round(rng.normal(size=tuple(shape)) * scale, 2) + 0.013


def without(dims: Dims, *axes: int) -> Dims:
    """Dimensions less some axes."""
    return tuple(d for k, d in enumerate(dims) if k not in axes)


def replaced(dims: Dims, changes: Mapping[int, Dim]) -> Dims:
    """Dimensions with some changed."""
    return tuple(changes.get(k, d) for k, d in enumerate(dims))
