"""Operators that move windows over a tensor, in numpy and float64, instead of those of onnx's reference evaluator."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


CHUNK = 1 << 22  # elements of the columns of a convolution at a time; they stay in the caches


class Conv(OpRun):
    """Convolution: elementwise where each channel has one kernel of its own, else as matrix products."""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        w,
        b=None,
        auto_pad="NOTSET",
        dilations=None,
        group=1,
        kernel_shape=None,
        pads=None,
        strides=None,
    ):
        return (convolution(x, w, b, auto_pad, dilations, group, pads, strides),)


def convolution(
    x: Array,
    w: Array,
    b: Array | None = None,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """The convolution of `x`, `[N, C, *spatial]`, by the kernels `w`, `[outs, C / group, *kernel]`."""
    rank = x.ndim - 2
    kernel, strides, dilations = w.shape[2:], strides or [1] * rank, dilations or [1] * rank
    windows = _windows(x, kernel, strides, dilations, _pads(x, kernel, auto_pad, pads, strides, dilations))
    spatial = windows.shape[2 : 2 + rank]
    result = np.zeros((x.shape[0], w.shape[0], *spatial))
    per_group, outs = x.shape[1] // group, w.shape[0] // group
    if per_group == outs == 1:
        for place in np.ndindex(*kernel):
            result += windows[(..., *place)] * w[(slice(None), 0, *place)].reshape(-1, *[1] * rank)
    else:
        rows = max(CHUNK // (per_group * int(np.prod([*kernel, *spatial[1:]]))), 1)
        order = (0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))
        for n, k in np.ndindex(x.shape[0], group):
            part = windows[n, k * per_group : (k + 1) * per_group]
            into = result[n, k * outs : (k + 1) * outs]
            weights = w[k * outs : (k + 1) * outs].reshape(outs, -1)
            for start in range(0, spatial[0], rows):
                columns = part[:, start : start + rows].transpose(order)
                product = weights @ columns.reshape(weights.shape[1], -1)
                into[:, start : start + rows] = product.reshape(outs, -1, *spatial[1:])
    return result if b is None else result + b.reshape(-1, *[1] * rank)


class MaxPool(OpRun):
    """Max pooling with the flat positions of the first maxima."""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        auto_pad=None,
        ceil_mode=None,
        dilations=None,
        kernel_shape=None,
        pads=None,
        storage_order=None,
        strides=None,
    ):
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        padding = _pads(x, kernel_shape, auto_pad or "NOTSET", pads, strides, dilations, bool(ceil_mode))
        windows = _windows(x, kernel_shape, strides, dilations, padding, fill=-np.inf)
        if len(self.output) < 2 or not self.output[1]:
            return (functools.reduce(np.maximum, _by_place(windows, rank)),)
        if storage_order:
            raise NotImplementedError("MaxPool with positions that count columns first")
        places = np.arange(x.size, dtype=np.int64).reshape(x.shape)
        numbers = _by_place(_windows(places, kernel_shape, strides, dilations, padding, fill=-1), rank)
        best, first = np.full(windows.shape[: 2 + rank], -np.inf), np.full(windows.shape[: 2 + rank], -1)
        for values, number in zip(_by_place(windows, rank), numbers, strict=True):
            larger = values > best
            best, first = np.where(larger, values, best), np.where(larger, number, first)
        return best, first


def _by_place(windows: Array, rank: int) -> Iterator[Array]:
    """Of windows `[N, C, *windows, *kernel]` the elements at each place of the kernel; faster than over last axes."""
    return (windows[(..., *place)] for place in np.ndindex(*windows.shape[-rank:]))


class AveragePool(OpRun):
    """Sums over windows, divided by how many elements of each count."""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        auto_pad=None,
        ceil_mode=None,
        count_include_pad=None,
        dilations=None,
        kernel_shape=None,
        pads=None,
        strides=None,
    ):
        rank = x.ndim - 2
        strides, dilations, auto = strides or [1] * rank, dilations or [1] * rank, auto_pad or "NOTSET"
        declared = _pads(x, kernel_shape, auto, pads, strides, dilations)
        whole = _pads(x, kernel_shape, auto, pads, strides, dilations, bool(ceil_mode))
        beyond = [(0, b - d) for (_, d), (_, b) in zip(declared, whole, strict=True)]
        counted = np.pad(np.ones(x.shape[2:]), declared, constant_values=1 if count_include_pad else 0)
        count = np.pad(counted, beyond)[None, None]
        total = sum(_by_place(_windows(x, kernel_shape, strides, dilations, whole), rank))
        return (
            total / sum(_by_place(_windows(count, kernel_shape, strides, dilations, [(0, 0)] * rank), rank)),
        )


class GlobalMaxPool(OpRun):
    """The largest element of each channel; the reference implementation drops axes."""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class ConvTranspose(OpRun):
    """Transposed convolution as one matrix product per group and a sum over the places of the kernel."""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        w,
        b=None,
        auto_pad="NOTSET",
        dilations=None,
        group=1,
        kernel_shape=None,
        output_padding=None,
        output_shape=None,
        pads=None,
        strides=None,
    ):
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        if auto_pad not in ("NOTSET", "", "VALID") or output_shape:
            wanted = output_shape or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
            reach = [
                (n - 1) * s + (k - 1) * d + 1
                for n, s, k, d in zip(x.shape[2:], strides, w.shape[2:], dilations, strict=True)
            ]
            totals = [max(r - n, 0) for r, n in zip(reach, wanted, strict=True)]
            low = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals]
            pads = [*low, *(t - a for t, a in zip(totals, low, strict=True))]
            output_padding = [max(n - r, 0) for r, n in zip(reach, wanted, strict=True)]
        pads, added = pads or [0] * (2 * rank), output_padding or [0] * rank
        kernel, spatial = w.shape[2:], x.shape[2:]
        size = [
            (n - 1) * s + (k - 1) * d + 1 + a
            for n, s, k, d, a in zip(spatial, strides, kernel, dilations, added, strict=True)
        ]
        per_group, outs = x.shape[1] // group, w.shape[1]
        full = np.zeros((x.shape[0], outs * group, *size))
        data = x.reshape(x.shape[0], group, per_group, -1)
        for place in np.ndindex(*kernel):
            weights = w[(..., *place)].reshape(group, per_group, outs).transpose(0, 2, 1)
            part = weights * data if per_group == outs == 1 else weights @ data
            steps = [
                slice(p * d, p * d + (n - 1) * s + 1, s)
                for p, d, n, s in zip(place, dilations, spatial, strides, strict=True)
            ]
            full[(slice(None), slice(None), *steps)] += part.reshape(*full.shape[:2], *spatial)
        crop = [slice(a, n - e) for a, n, e in zip(pads[:rank], size, pads[rank:], strict=True)]
        result = full[(slice(None), slice(None), *crop)]
        return (result if b is None else result + b.reshape(1, -1, *[1] * rank),)


def _pads(
    x: Array,
    kernel: Sequence[int],
    auto: str,
    pads: Sequence[int] | None,
    strides: Sequence[int],
    dilations: Sequence[int],
    ceil: bool = False,
) -> list[tuple[int, int]]:
    rank = len(kernel)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if auto.startswith("SAME"):
        totals = [
            max((-(-n // s) - 1) * s + e - n, 0) for n, s, e in zip(x.shape[2:], strides, extent, strict=True)
        ]
        low = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]
        return [(a, t - a) for a, t in zip(low, totals, strict=True)]
    given = list(pads or [0] * (2 * rank)) if auto != "VALID" else [0] * (2 * rank)
    found = list(zip(given[:rank], given[rank:], strict=True))
    if ceil:  # windows that start inside the input or its first padding
        for k, (a, b) in enumerate(found):
            free = x.shape[2 + k] + a + b - extent[k]
            count = -(-free // strides[k]) + 1
            if (count - 1) * strides[k] >= x.shape[2 + k] + a:
                count -= 1
            found[k] = (a, b + max((count - 1) * strides[k] - free, 0))
    return found


def _windows(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
    fill: float = 0.0,
) -> Array:
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    views = sliding_window_view(padded, extent, axis=tuple(range(2, 2 + rank)))
    steps = (
        slice(None),
        slice(None),
        *[slice(None, None, s) for s in strides],
        *[slice(None, None, d) for d in dilations],
    )
    result: Array = views[steps]
    return result
