"""Emits ONNX nodes into a graph as expressions: `op("Mul", g, y)` is the node's output.

Values are graphsurgeon tensors; arrays and numbers become constants. A node that was emitted before with the same
operator, inputs and attributes is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import ArrayLike, NDArray
from onnx import helper

Value: TypeAlias = gs.Tensor
Shape = tuple[int | str, ...]

_BOOLEAN = frozenset(
    {"Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Not", "And", "Or", "IsNaN"}
)
_INTEGER = frozenset({"Shape", "Size", "NonZero", "ArgMax", "ArgMin"})
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "Cos", "Div", "Exp", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "Relu"}
    | {"Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Tanh", "Where", "Erf", "Cast"}
    | _BOOLEAN - {"NonZero"}
)
_ALIKE = _ELEMENTWISE | {"Gelu", "Identity", "LayerNormalization", "LogSoftmax", "Softmax"}
"""Operators whose first output has the shape of an input, or that to which all broadcast."""
COPIED = 1 << 18  # elements of a constant that a program may hold in a second type
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_WIDE = frozenset({"int64", "uint64", "uint32"})


def shape_of(value: Value) -> Shape | None:
    """The shape as a tuple of ints and names of symbolic dimensions, or None where the rank is unknown."""
    if isinstance(value, gs.Constant):
        return tuple(int(d) for d in value.shape)
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, (int, str)) else "?" for d in value.shape)


def is_static(shape: Shape | None) -> bool:
    """Whether every dimension is a number."""
    return shape is not None and all(isinstance(d, int) for d in shape)


def same_shape(left: Shape | None, right: Shape | None) -> bool:
    """Whether two shapes are certain to be equal: the same numbers and the same known symbols."""
    return left is not None and left == right and "?" not in left


def element_type(value: Value) -> np.dtype[Any]:
    """The type of the elements, also where graphsurgeon keeps ONNX's number: bfloat16 and the float8s."""
    if isinstance(value.dtype, int):
        number: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(value.dtype)
        return number
    made: np.dtype[Any] = np.dtype(value.dtype)
    return made


def _type_name(value: Value) -> str:
    """The name of the element type, "" where there is none, and of what is no tensor."""
    if getattr(value, "type", "tensor_type") != "tensor_type":
        return ""
    return (
        ""
        if value.dtype is None or (isinstance(value.dtype, int) and not value.dtype)
        else element_type(value).name
    )


def is_float(value: Value) -> bool:
    """Whether a tensor holds floating-point numbers to calculate with: bfloat16 is one, float8 is not."""
    return _type_name(value) in _FLOATS


def holds_numbers(value: Value) -> bool:
    """Whether a value is a tensor of floats, integers or truth values: no text, no sequence, no map."""
    return _type_name(value) not in ("", "object")


def holds_elements(value: Value) -> bool:
    """Whether a value is a tensor of known type, of text too."""
    return _type_name(value) != ""


def is_half(value: Value) -> bool:
    """Whether a tensor holds floats of 16 bits."""
    return _type_name(value) in ("float16", "bfloat16")


def is_quantised(value: Value) -> bool:
    """Whether a tensor is of a type that quantised numbers have: an integer of 2 to 32 bits, or a float8."""
    name = _type_name(value)
    return name.startswith("float8") or (name.strip("u0123456789") == "int" and name not in _WIDE)


class Emitter:
    """Appends nodes to `graph`, naming them `<prefix>/<operator>_<k>`."""

    def __init__(self, graph: gs.Graph, prefix: str = "grad") -> None:
        self.graph = graph
        self.prefix = prefix
        self._taken = set(graph.tensors())
        self._known: dict[tuple[Any, ...], tuple[gs.Variable, ...]] = {}
        self._made: set[int] = set()
        self._constants: dict[tuple[Any, ...], gs.Constant] = {}
        self._count = 0

    def __call__(self, operator: str, *inputs: Value | ArrayLike | None, **attributes: Any) -> gs.Variable:
        """The first output of a new node; attributes that are None are left out."""
        return self.multi(operator, 1, *inputs, **attributes)[0]

    def multi(
        self, operator: str, outputs: int, *inputs: Value | ArrayLike | None, **attributes: Any
    ) -> tuple[gs.Variable, ...]:
        """All `outputs` outputs of a new node."""
        domain = attributes.pop("domain", None)
        values = self._values(inputs)
        attributes = {name: value for name, value in attributes.items() if value is not None}
        key = (operator, domain, outputs, tuple(id(v) for v in values), repr(sorted(attributes.items())))
        if key not in self._known:
            name = self.name_for(operator)
            dtype, shape = self._infer(operator, values, attributes)
            made = tuple(
                gs.Variable(name if k == 0 else f"{name}.{k}", dtype=dtype, shape=shape)
                for k in range(outputs)
            )
            node = gs.Node(
                operator, name=name, attrs=attributes, inputs=values, outputs=list(made), domain=domain
            )
            self.graph.nodes.append(node)
            self._made.add(id(node))
            self._known[key] = made
        return self._known[key]

    def has_made(self, node: gs.Node) -> bool:
        """Whether a node of the graph was emitted here."""
        return id(node) in self._made

    def constant(self, value: ArrayLike, dtype: Any = None) -> gs.Constant:
        """A constant; equal small ones are shared."""
        array: NDArray[Any] = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else (id(array),)
        if key not in self._constants:
            self._constants[key] = gs.Constant(self.name_for("constant"), array)
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> gs.Constant:
        """An int64 vector: axes, sizes, shapes."""
        return self.constant(np.asarray(values, dtype=np.int64).reshape(-1))

    def like(self, value: Value, number: float) -> gs.Constant:
        """`number` as a scalar of the type of `value`."""
        return self.constant(np.asarray(number, dtype=element_type(value)))

    def shape(self, value: Value) -> Value:
        """The shape of `value` as an int64 vector: a constant where every dimension is known."""
        known = shape_of(value)
        if known is not None and is_static(known):
            return self.ints([int(d) for d in known])
        return self("Shape", _of_equal_shape(value))

    def size(self, value: Value) -> Value:
        """The number of elements of `value` as an int64 scalar."""
        known = shape_of(value)
        if known is not None and is_static(known):
            return self.constant(np.asarray(int(np.prod([int(d) for d in known])), dtype=np.int64))
        return self("Size", _of_equal_shape(value))

    def dims(self, value: Value, start: int, stop: int | None = None) -> Value:
        """The dimensions `start:stop` of `value` as an int64 vector."""
        known = shape_of(value)
        if known is not None and is_static(known[start:stop]):
            return self.ints([int(d) for d in known[start:stop]])
        value = _of_equal_shape(value)
        if self.graph.opset < 15:
            return self(
                "Slice",
                self("Shape", value),
                self.ints([start]),
                self.ints([2**62 if stop is None else stop]),
            )
        return self("Shape", value, start=start, end=stop)

    def cast(self, value: Value, dtype: Any) -> Value:
        """`value` as another type; itself where it has that type, a constant where it is one that is not large."""
        wanted = np.dtype(dtype)
        if value.dtype is not None and element_type(value) == wanted:
            return value
        if isinstance(value, gs.Constant) and np.prod(value.shape) <= COPIED:
            return self.constant(np.asarray(value.values).astype(wanted))
        made = self("Cast", value, to=helper.np_dtype_to_tensor_dtype(wanted))
        made.shape = value.shape
        return made

    def reshape_like(self, value: Value, like: Value) -> Value:
        """`value` with the shape of `like`; itself where the two are certain to be equal."""
        if same_shape(shape_of(value), shape_of(like)):
            return value
        made = self("Reshape", value, self.shape(like), allowzero=1 if self.graph.opset >= 14 else None)
        made.shape = like.shape
        return made

    def zeros_like(self, value: Value) -> Value:
        """Zeros of the shape and type of `value`."""
        made = self(
            "ConstantOfShape",
            self.shape(value),
            value=gs.Constant("zero", np.zeros(1, dtype=element_type(value))),
        )
        made.dtype, made.shape = value.dtype, value.shape
        return made

    def _values(self, inputs: Sequence[Value | ArrayLike | None]) -> list[Value]:
        """Inputs as tensors: numbers take the type of the first tensor beside them, None is an absent input."""
        dtype = next((v.dtype for v in inputs if isinstance(v, gs.Tensor) and not v.is_empty()), None)
        values: list[Value] = []
        for value in inputs:
            if value is None:
                values.append(gs.Variable.empty())
            elif isinstance(value, gs.Tensor):
                values.append(value)
            elif isinstance(value, np.ndarray):
                values.append(self.constant(value))
            else:
                values.append(self.constant(value, dtype=dtype))
        while values and values[-1].is_empty():
            values.pop()
        return values

    def _infer(self, operator: str, values: list[Value], attributes: dict[str, Any]) -> tuple[Any, Any]:
        """Type, and for elementwise operators the shape, of the first output."""
        dtype = next((v.dtype for v in values), None)
        if operator in _BOOLEAN:
            dtype = np.dtype(bool)
        elif operator in _INTEGER:
            dtype = np.dtype(np.int64)
        elif operator == "Where":
            dtype = values[1].dtype
        elif operator == "Cast":
            dtype = helper.tensor_dtype_to_np_dtype(attributes["to"])
        elif operator == "ConstantOfShape":
            dtype = attributes["value"].values.dtype
        if operator not in _ELEMENTWISE:
            return dtype, None
        shapes = [shape_of(v) for v in values]
        return dtype, broadcast_shapes(shapes)

    def name_for(self, operator: str) -> str:
        """A name that nothing has yet."""
        while True:
            self._count += 1
            name = f"{self.prefix}/{operator}_{self._count}"
            if name not in self._taken:
                return name


def _of_equal_shape(value: Value) -> Value:
    """A tensor of the shape of `value` from before it, so that none is kept, or made, for its shape alone."""
    while value.inputs:
        maker, shape = value.inputs[0], shape_of(value)
        if (
            maker.op not in _ALIKE
            or maker.domain not in (None, "", "ai.onnx")
            or maker.outputs[0] is not value
        ):
            return value
        others = [x for x in maker.inputs if not x.is_empty()]
        tensors = [x for x in others if not (isinstance(x, gs.Constant) and np.prod(x.shape) == 1)]
        single = len(tensors) == 1 or maker.op not in _ELEMENTWISE
        found = [x for x in tensors if same_shape(shape_of(x), shape)]
        if tensors and single and len(shape_of(tensors[0]) or ()) == len(shape or ()):
            found.append(tensors[0])
        if not found or isinstance(found[0], gs.Constant):
            return value
        value = found[0]
    return value


def broadcast_shapes(shapes: Sequence[Shape | None]) -> list[int | str | None] | None:
    """The shape that shapes broadcast to, with None for sizes that are not certain; None without all ranks."""
    if any(s is None for s in shapes):
        return None
    known = [s for s in shapes if s is not None]
    rank = max((len(s) for s in known), default=0)
    result: list[int | str | None] = []
    for position in range(rank):
        found = {s[position - rank + len(s)] for s in known if position - rank + len(s) >= 0} - {1}
        numbers = {size for size in found if isinstance(size, int)}
        certain = numbers or found or {1}
        result.append(next(iter(certain)) if len(certain) == 1 and "?" not in certain else None)
    return result
