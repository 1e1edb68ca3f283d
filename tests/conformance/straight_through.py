"""The quantised operators over real numbers: a surrogate of a quantised file whose derivative is straight-through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from scipy import special

from tests.conformance.windows import convolution

Array = NDArray[Any]
STATES = 0.1  # what eight bits for each step's input and state may add up to


class Rounding:
    """Rounding whose derivative is 1: what it added at x stays added, wherever the number under it goes.

    `rounded` holds the rounded tensors at x, by name. The first evaluation has to be at x.
    """

    def __init__(self, rounded: Mapping[str, Array]) -> None:
        self.rounded = rounded
        self._real: dict[str, Array] = {}

    def __call__(self, name: str, real: Array, kind: np.dtype[Any] | None = None) -> Array:
        """What the number `real` is rounded to; clipped to the range of the type where there is one."""
        if kind is not None:
            info: Any = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
            real = np.clip(real, float(info.min), float(info.max))
        here = self._real.setdefault(name, real)
        file: Array = self.rounded[name].astype(np.float64)
        if np.abs(file - here).max(initial=0) > 1.5:
            raise ValueError(f"{name!r} in float64 is not what onnxruntime makes it")
        moved: Array = file + (real - here)
        return moved

    def inside(self, name: str, real: Array) -> Array:
        """The same of states between -1 and 1, and cells, of which an operator rounds what they are made of."""
        here = self._real.setdefault(name, real)
        file: Array = self.rounded[name].astype(np.float64)
        if np.abs(file - here).max(initial=0) > STATES * max(float(np.abs(here).max(initial=0)), 1):
            raise ValueError(f"{name!r} in float64 is not what onnxruntime makes it, but for rounding")
        moved: Array = file + (real - here)
        return moved


def straight_through(rounding: Rounding) -> list[type[OpRun]]:
    """The quantised operators over real numbers: integers are float64, and `rounding` rounds.

    As the definition has it: between quantising and dequantising lies the identity with a mask where the type clips;
    integer operators are those of the dequantised numbers; the scale and zero point of DynamicQuantizeLinear are
    constants, and its range holds every number.
    """

    class QuantizeLinear(OpRun):
        def _run(  # type: ignore[no-untyped-def]
            self, x, scale, zero=None, axis=1, saturate=1, block_size=0, output_dtype=0, precision=0
        ):
            return (_quantised(self.output[0], x, scale, zero, axis),)

    class DequantizeLinear(OpRun):
        def _run(self, x, scale, zero=None, axis=1, block_size=0, output_dtype=0):  # type: ignore[no-untyped-def]
            return (_real(x, scale, zero, axis),)

    class DynamicQuantizeLinear(OpRun):
        def _run(self, x):  # type: ignore[no-untyped-def]
            scale, zero = (rounding.rounded[name].astype(np.float64) for name in self.output[1:])
            return rounding(self.output[0], x / scale + zero), scale, zero

    class Add(OpRun):
        """Of integers over real numbers, and biases that are still integers."""

        def _run(self, a, b):  # type: ignore[no-untyped-def]
            return (np.add(a, b),)

    class MatMulInteger(OpRun):
        def _run(self, a, b, a_zero=None, b_zero=None):  # type: ignore[no-untyped-def]
            return (_real(a, 1, a_zero, -2) @ _real(b, 1, b_zero, -1),)

    class ConvInteger(OpRun):
        def _run(  # type: ignore[no-untyped-def]
            self,
            x,
            w,
            x_zero=None,
            w_zero=None,
            auto_pad="NOTSET",
            dilations=None,
            group=1,
            kernel_shape=None,
            pads=None,
            strides=None,
        ):
            kernels = _real(w, 1, w_zero, 0)
            return (
                convolution(
                    _real(x, 1, x_zero), kernels, None, auto_pad or "NOTSET", dilations, group, pads, strides
                ),
            )

    class QLinearConv(OpRun):
        def _run(  # type: ignore[no-untyped-def]
            self,
            x,
            x_scale,
            x_zero,
            w,
            w_scale,
            w_zero,
            scale,
            zero,
            b=None,
            auto_pad="NOTSET",
            dilations=None,
            group=1,
            kernel_shape=None,
            pads=None,
            strides=None,
        ):
            bias = None if b is None else b.astype(np.float64) * x_scale * w_scale
            kernels = _real(w, w_scale, w_zero, 0)
            real = convolution(
                _real(x, x_scale, x_zero), kernels, bias, auto_pad, dilations, group, pads, strides
            )
            return (_quantised(self.output[0], real, scale, zero, 1),)

    class QLinearMatMul(OpRun):
        def _run(self, a, a_scale, a_zero, b, b_scale, b_zero, scale, zero):  # type: ignore[no-untyped-def]
            real = _real(a, a_scale, a_zero, -2) @ _real(b, b_scale, b_zero, -1)
            return (_quantised(self.output[0], real, scale, zero, 1),)

    class QLinearAdd(OpRun):
        op_domain = "com.microsoft"

        def _run(self, a, a_scale, a_zero, b, b_scale, b_zero, scale, zero):  # type: ignore[no-untyped-def]
            real = _real(a, a_scale, a_zero) + _real(b, b_scale, b_zero)
            return (_quantised(self.output[0], real, scale, zero, 1),)

    class DynamicQuantizeLSTM(OpRun):
        """The LSTM of the weights that its integers stand for; what its kernel rounds inside is seen at its outputs."""

        op_domain = "com.microsoft"

        def _run(self, x, w, r, b=None, lens=None, h=None, c=None, p=None, *scales, **attributes):  # type: ignore[no-untyped-def]
            w_scale, w_zero, r_scale, r_zero = scales
            if lens is not None or p is not None:
                raise NotImplementedError("DynamicQuantizeLSTM with lengths or peepholes")
            wide, recurrent = _transposed(w, w_scale, w_zero), _transposed(r, r_scale, r_zero)
            found = lstm(x, wide, recurrent, b, h, c, attributes["direction"] or "forward")
            return tuple(
                rounding.inside(name, z) if name else z for name, z in zip(self.output, found, strict=False)
            )

    def _quantised(name: str, x: Array, scale: Array, zero: Array | None, axis: int) -> Array:
        kind = np.dtype(np.uint8) if zero is None else zero.dtype
        offset = 0 if zero is None else _along(zero, x, axis)
        return rounding(name, x / _along(scale, x, axis) + offset, kind)

    return [
        Add,
        ConvInteger,
        DequantizeLinear,
        DynamicQuantizeLSTM,
        DynamicQuantizeLinear,
        MatMulInteger,
        QLinearAdd,
        QLinearConv,
        QLinearMatMul,
        QuantizeLinear,
    ]


def lstm(
    x: Array, w: Array, r: Array, b: Array | None, h: Array | None, c: Array | None, direction: str
) -> tuple[Array, Array, Array]:
    """The LSTM of the definition with its usual activations, x `[steps, rows, inputs]`."""
    sides, units = r.shape[0], r.shape[2]
    zeros = np.zeros((sides, x.shape[1], units))
    states, cells = (zeros if s is None else s for s in (h, c))
    bias = np.zeros((sides, 8 * units)) if b is None else b
    made, lasts = [], []
    for side in range(sides):
        back = direction == "reverse" or side == 1
        hidden, cell, steps = states[side], cells[side], []
        for row in x[::-1] if back else x:
            gates = row @ w[side].T + hidden @ r[side].T + bias[side, : 4 * units] + bias[side, 4 * units :]
            i, o, f, g = np.split(gates, 4, axis=1)
            cell = special.expit(f) * cell + special.expit(i) * np.tanh(g)
            hidden = special.expit(o) * np.tanh(cell)
            steps.append(hidden)
        made.append(np.stack(steps[::-1] if back else steps))
        lasts.append((hidden, cell))
    return np.stack(made, axis=1), np.stack([h for h, _ in lasts]), np.stack([c for _, c in lasts])


def _transposed(w: Array, scale: Array, zero: Array) -> Array:
    """A quantised weight of an LSTM, `[sides, inputs, 4 units]`, as `[sides, 4 units, inputs]` of real numbers."""
    wide, offset = (
        np.asarray(v, np.float64).reshape(w.shape[0], 1, -1)[:, :, : w.shape[2]] for v in (scale, zero)
    )
    return ((w - offset) * wide).transpose(0, 2, 1)


def _real(x: Array, scale: Any, zero: Array | None, axis: int = 1) -> Array:
    """(x - zero point) * scale."""
    shifted: Array = x.astype(np.float64)
    if zero is not None:
        shifted = shifted - _along(zero, x, axis)
    return shifted * _along(np.asarray(scale), x, axis)


def _along(value: Array, x: Array, axis: int) -> Array:
    """A scale or zero point that broadcasts to `x`: one number, or one per place of `axis`."""
    wide: Array = value.astype(np.float64)
    if wide.size == 1 or x.ndim < 2:
        return wide.reshape(()) if wide.size == 1 else wide
    if wide.ndim != 1:
        raise NotImplementedError("scales of blocks")
    return wide.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])
