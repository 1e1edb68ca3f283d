"""A network in float64, evaluated by the onnx reference implementation: the oracle for gradients of real models.

Convolutions and pools, which the reference implementation computes slowly, are written out here once more with numpy
only; nothing of the project takes part.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy import special

from tests.checks import to_double

Array = NDArray[Any]


class Conv(OpRun):
    """Convolution as one matrix product per group."""

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
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        windows = _windows(
            x, w.shape[2:], strides, dilations, _pads(x, w.shape[2:], auto_pad, pads, strides, dilations)
        )
        spatial = windows.shape[2 : 2 + rank]
        per_group, outs = x.shape[1] // group, w.shape[0] // group
        parts = []
        for k in range(group):
            part = windows[:, k * per_group : (k + 1) * per_group]
            order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
            columns = part.transpose(order).reshape(x.shape[0], int(np.prod(spatial)), -1)
            kernel = w[k * outs : (k + 1) * outs].reshape(outs, -1)
            parts.append((columns @ kernel.T).transpose(0, 2, 1))
        result = np.concatenate(parts, axis=1).reshape(x.shape[0], w.shape[0], *spatial)
        if b is not None:
            result = result + b.reshape(1, -1, *[1] * rank)
        return (result,)


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
            return (windows.max(axis=tuple(range(-rank, 0))),)
        places = np.arange(x.size, dtype=np.int64).reshape(x.shape)
        numbers = _windows(places, kernel_shape, strides, dilations, padding, fill=-1)
        flat = windows.reshape(*windows.shape[: 2 + rank], -1)
        first = flat.argmax(axis=-1)[..., None]
        values = np.take_along_axis(flat, first, axis=-1)[..., 0]
        return values, np.take_along_axis(numbers.reshape(flat.shape), first, axis=-1)[..., 0]


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
        for k in range(group):
            data = x[:, k * per_group : (k + 1) * per_group].reshape(x.shape[0], per_group, -1)
            for place in np.ndindex(*kernel):
                weights = w[(slice(k * per_group, (k + 1) * per_group), slice(None), *place)]
                part = (weights.T @ data).reshape(x.shape[0], outs, *spatial)
                steps = [
                    slice(p * d, p * d + (n - 1) * s + 1, s)
                    for p, d, n, s in zip(place, dilations, spatial, strides, strict=True)
                ]
                full[(slice(None), slice(k * outs, (k + 1) * outs), *steps)] += part
        crop = [slice(a, n - e) for a, n, e in zip(pads[:rank], size, pads[rank:], strict=True)]
        result = full[(slice(None), slice(None), *crop)]
        return (result if b is None else result + b.reshape(1, -1, *[1] * rank),)


class Pad(OpRun):
    """Padding that may be negative, which crops."""

    def _run(self, x, pads, value=None, axes=None, mode="constant"):  # type: ignore[no-untyped-def]
        chosen = range(x.ndim) if axes is None else [int(a) % x.ndim for a in axes]
        margins = [(0, 0)] * x.ndim
        for k, axis in enumerate(chosen):
            margins[axis] = (int(pads[k]), int(pads[k + len(pads) // 2]))
        inner = x[
            tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(margins, x.shape, strict=True))
        ]
        grown = [(max(a, 0), max(b, 0)) for a, b in margins]
        if mode in ("constant", None, b"constant"):
            fill = 0 if value is None or not np.size(value) else np.asarray(value).reshape(())
            return (np.pad(inner, grown, constant_values=fill),)
        return (np.pad(inner, grown, mode=mode),)


class ScatterElements(OpRun):
    """Replaces or adds, duplicates included."""

    def _run(self, data, indices, updates, axis=0, reduction="none"):  # type: ignore[no-untyped-def]
        result = data.copy()
        places = list(np.indices(indices.shape, sparse=True))
        places[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
        if reduction in ("none", None):
            result[tuple(places)] = updates
        elif reduction == "add":
            np.add.at(result, tuple(places), updates)
        else:
            raise NotImplementedError(f"ScatterElements with reduction {reduction}")
        return (result,)


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


class LayerNormalization(OpRun):
    """Over the last axes; the reference implementation has it in float32 only."""

    def _run(self, x, scale, b=None, axis=-1, epsilon=1e-5, stash_type=None):  # type: ignore[no-untyped-def]
        axes = tuple(range(axis % x.ndim, x.ndim))
        center = x - x.mean(axis=axes, keepdims=True)
        hat = center / np.sqrt(np.mean(center**2, axis=axes, keepdims=True) + epsilon)
        return (hat * scale + (0 if b is None else b),)


class Erf(OpRun):
    """The reference implementation rounds it to float32."""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (special.erf(x),)


class Gelu(OpRun):
    """onnxruntime's own exact Gelu."""

    op_domain = "com.microsoft"

    def _run(self, x, approximate=None):  # type: ignore[no-untyped-def]
        return (0.5 * x * (1 + special.erf(x * np.sqrt(0.5))),)


class Float64Network:
    """All tensors of a network at some inputs, and what becomes of the target when one of them is moved."""

    def __init__(self, model: onnx.ModelProto, inputs: Mapping[str, Array], keep: Sequence[str]) -> None:
        self._model = to_double(model)
        self._inputs = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in inputs.items()}
        exposed = copy.deepcopy(self._model)
        nodes = list(exposed.graph.node)
        needed = _needed_from(nodes, keep)
        known = {o.name for o in exposed.graph.output}
        exposed.graph.output.extend(onnx.ValueInfoProto(name=n) for n in needed if n not in known)
        names = [o.name for o in exposed.graph.output]
        values: Any = _evaluator(exposed).run(None, dict(self._inputs))
        self.values: dict[str, Array] = {**self._inputs, **dict(zip(names, values, strict=True))}

    def moved(self, tensor: str, target: str, value: Array) -> Array:
        """The target when `tensor` holds `value` and everything that does not depend on it stays."""
        part = copy.deepcopy(self._model)
        reached, kept = {tensor}, []
        for node in part.graph.node:
            if any(x in reached for x in node.input) and tensor not in node.output:
                reached.update(node.output)
                kept.append(node)
        weights = {i.name for i in part.graph.initializer}
        fed = {x for node in kept for x in node.input if x} - weights - (reached - {tensor})
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in _behind(kept, target)]
        fed &= {x for node in nodes for x in node.input}
        del part.graph.node[:], part.graph.input[:], part.graph.output[:]
        part.graph.node.extend(nodes)
        part.graph.input.extend(onnx.ValueInfoProto(name=n) for n in sorted(fed))
        part.graph.output.append(onnx.ValueInfoProto(name=target))
        values = {**self.values, tensor: value}
        found: Any = _evaluator(part).run(None, {n: values[n] for n in fed})
        result: Array = found[0]
        return result


def run_double(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model in float64."""
    double = to_double(model)
    wanted = {x.name for x in double.graph.input}
    fed = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in inputs.items() if n in wanted}
    values: Any = _evaluator(double).run(None, fed)
    return dict(zip([o.name for o in double.graph.output], values, strict=True))


def _evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    return ReferenceEvaluator(model, new_ops=OPERATORS)


OPERATORS: list[type[OpRun]] = [
    Conv,
    ConvTranspose,
    MaxPool,
    Pad,
    ScatterElements,
    LayerNormalization,
    Erf,
    Gelu,
]


def _behind(nodes: Sequence[onnx.NodeProto], target: str) -> list[onnx.NodeProto]:
    wanted, kept = {target}, []
    for node in reversed(nodes):
        if any(z in wanted for z in node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _needed_from(nodes: Sequence[onnx.NodeProto], tensors: Sequence[str]) -> list[str]:
    """The tensors themselves, and every tensor that a node behind one of them reads besides."""
    needed = dict.fromkeys(tensors)
    for tensor in tensors:
        reached = {tensor}
        for node in nodes:
            if any(x in reached for x in node.input):
                reached.update(node.output)
                needed.update(dict.fromkeys(x for x in node.input if x and x not in reached))
    made = {z for node in nodes for z in node.output}
    return [n for n in needed if n in made]
