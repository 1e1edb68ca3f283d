"""Large weights apart from the models that name them: read once, held once, shared by all programs of a file.

A protobuf message ends at 2 GiB, and every step on the way from a file to a program copies the one it is given. So
initializers from `LARGE` bytes on stay outside of it. In the model they are external data whose location names the
`Weights` that hold them; what needs their values asks here.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.protobuf_scan import PLACE, Read, shortened

LARGE = 1 << 16  # bytes of a tensor

_living: WeakValueDictionary[str, Weights] = WeakValueDictionary()


@dataclass(frozen=True)
class Held:
    """One weight, with the bytes of its values."""

    data_type: int
    dims: tuple[int, ...]
    data: NDArray[np.uint8]

    def array(self) -> NDArray[Any]:
        """The values; they may not be written to."""
        if self.data_type in _PLAIN:
            kind = helper.tensor_dtype_to_np_dtype(self.data_type)
            return self.data.view(kind).reshape(self.dims)
        tensor = TensorProto(data_type=self.data_type, dims=self.dims, raw_data=self.data.tobytes())
        return numpy_helper.to_array(tensor)


@dataclass(eq=False)
class Weights:
    """The weights of one file that take `large` bytes or more, for as long as anyone holds this; those that are not
    `kept` have a type, a shape and no values."""

    large: int = field(default_factory=lambda: LARGE)
    # not to be guessed, or a file could name the weights of another one
    location: str = field(default_factory=lambda: f"onnx_attribution.weights/{secrets.token_hex()}")
    held: list[Held] = field(default_factory=list)
    kept: bool = True

    def __post_init__(self) -> None:
        _living[self.location] = self

    def take(self, graph: onnx.GraphProto) -> None:
        """Takes, in place, the large initializers of a graph that still hold their values."""
        for tensor in graph.initializer:
            if self._wants(tensor):
                array = np.ascontiguousarray(numpy_helper.to_array(tensor))
                self.hold(tensor, array.reshape(-1).view(np.uint8))

    def split(self, read: Read, size: int) -> onnx.ModelProto:
        """The model of `size` bytes that `read` gives; the values of its large initializers are taken unparsed.

        Raises:
            ValueError, DecodeError: this is no serialised model.
        """
        mark = secrets.token_bytes(16)  # no values of the file begin with it
        model = onnx.ModelProto.FromString(b"".join(shortened(read, 0, size, self.large, mark)))
        for tensor in model.graph.initializer:
            if not tensor.raw_data.startswith(mark):
                continue
            at, length = PLACE.unpack_from(tensor.raw_data, len(mark))
            is_weight = self._wants(tensor) and length == size_of(tensor.data_type, tensor.dims)
            if is_weight and not self.kept:
                self.hold(tensor, np.broadcast_to(np.uint8(0), length))
                continue
            values = read(at, length)
            if is_weight and len(values) == length:
                self.hold(tensor, np.frombuffer(values, np.uint8))
            else:
                tensor.raw_data = values
        return model

    def _wants(self, tensor: TensorProto) -> bool:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type not in _PLAIN:
            return False
        return min(tensor.dims, default=0) >= 0 and size_of(tensor.data_type, tensor.dims) >= self.large

    def hold(self, tensor: TensorProto, data: NDArray[np.uint8]) -> None:
        """Makes the tensor, in place, name a weight that these are the bytes of."""
        name, data_type, dims = tensor.name, tensor.data_type, tuple(tensor.dims)
        data.setflags(write=False)
        self.held.append(Held(data_type, dims, data))
        tensor.Clear()
        tensor.name, tensor.data_type = name, data_type
        tensor.dims.extend(dims)
        place(tensor, self.location, len(self.held) - 1, data.nbytes)


# types whose elements are whole bytes and that numpy has itself
_PLAIN = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL}
    | {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
    | {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
)
_FOUR_BITS = frozenset({TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1})
_TWO_BITS = frozenset({TensorProto.INT2, TensorProto.UINT2})


def size_of(data_type: int, dims: Iterable[int]) -> int:
    """The bytes that a tensor takes in a file, where small elements share one."""
    bits = 4 if data_type in _FOUR_BITS else 2 if data_type in _TWO_BITS else 0
    bits = bits or 8 * np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).itemsize
    return -(-math.prod(dims) * bits // 8)


def require_values(tensor: TensorProto) -> None:
    """Refuses a tensor whose values are not as many as its type and shape take; types are left to the runtime.

    Raises:
        ModelError: there are more or fewer, or the shape has a negative size.
    """
    name = f"tensor {tensor.name!r}" if tensor.name else "a tensor without a name"
    if min(tensor.dims, default=0) < 0:
        raise ModelError(
            f"{name} has the shape {list(tensor.dims)}, with a negative size; export the model again",
            reason=Reason.MODEL_INVALID, tensor=tensor.name,
        )  # fmt: skip
    if tensor.data_location == TensorProto.EXTERNAL:
        return  # it was compared where it was read
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        return
    count, field_name = math.prod(tensor.dims), helper.tensor_dtype_to_field(tensor.data_type)
    if tensor.raw_data and tensor.data_type != TensorProto.STRING:
        held, needed, unit = len(tensor.raw_data), size_of(tensor.data_type, tensor.dims), "bytes"
    else:
        held, needed, unit = len(getattr(tensor, field_name)), count, "values"
        if tensor.data_type in _FOUR_BITS | _TWO_BITS:  # several share one, as they do a byte
            needed = size_of(tensor.data_type, tensor.dims)
        elif tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            needed = 2 * count
    if held != needed:
        raise ModelError(
            f"{name} holds {held} {unit}, its type and shape {list(tensor.dims)} take {needed}; export the model again",
            reason=Reason.MODEL_INVALID, tensor=tensor.name,
        )  # fmt: skip


def is_apart(tensor: TensorProto) -> bool:
    """Whether the values of a tensor are held by a `Weights`."""
    return any(e.key == "location" and e.value in _living for e in tensor.external_data)


def place(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Says, in place, where the values of a tensor lie."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def weights_of(tensors: Iterable[TensorProto]) -> dict[str, Held]:
    """By name, those of the tensors that are held apart.

    Raises:
        ModelError: nobody keeps the weights of one any more.
    """
    found: dict[str, Held] = {}
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        owner = _living.get(entries.get("location", ""))
        if owner is None:
            raise ModelError(
                f"the values of {tensor.name!r} are not there any more", reason=Reason.MODEL_INVALID
            )
        found[tensor.name] = owner.held[int(entries["offset"])]
    return found


def value_of(tensor: TensorProto) -> NDArray[Any]:
    """The values of a tensor, wherever they are."""
    held = weights_of([tensor])
    return held[tensor.name].array() if held else numpy_helper.to_array(tensor)


def whole(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model, or of a program, that holds all its values itself."""
    copy = copied(model)
    for tensor in copy.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            array, name = value_of(tensor), tensor.name
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return copy
