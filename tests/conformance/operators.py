"""Operators in numpy and float64, for the onnx reference implementation to run instead of its own.

Those that it lacks, computes in float32, or computes slowly; nothing of the project takes part.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from scipy import special

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
        mean = x.mean(axis=axes, keepdims=True)
        inverse = 1 / np.sqrt(np.mean((x - mean) ** 2, axis=axes, keepdims=True) + epsilon)
        return (x - mean) * inverse * scale + (0 if b is None else b), mean, inverse


class Erf(OpRun):
    """The reference implementation rounds it to float32."""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (special.erf(x),)


class Gelu(OpRun):
    """onnxruntime's own exact Gelu."""

    op_domain = "com.microsoft"

    def _run(self, x, approximate=None):  # type: ignore[no-untyped-def]
        return (0.5 * x * (1 + special.erf(x * np.sqrt(0.5))),)


class RNN(OpRun):
    """A plain recurrent layer in the default layout; the reference implementation knows no Relu here."""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        w,
        r,
        b=None,
        sequence_lens=None,
        initial_h=None,
        activation_alpha=None,
        activation_beta=None,
        activations=None,
        clip=None,
        direction="forward",
        hidden_size=None,
        layout=0,
    ):
        if (sequence_lens is not None and not (sequence_lens == len(x)).all()) or clip or layout:
            raise NotImplementedError("RNN with lengths, clip or layout")
        steps, each = len(x), []
        for k in range(len(w)):
            act: Any = {"Relu": lambda a: np.maximum(a, 0), "Tanh": np.tanh}[(activations or ["Tanh"] * 2)[k]]
            h = np.zeros((x.shape[1], r.shape[2])) if initial_h is None else initial_h[k]
            bias = 0 if b is None else b[k].reshape(2, -1).sum(axis=0)
            made: list[Array] = [h] * steps
            backward = direction == "reverse" or k == 1
            for t in range(steps)[:: -1 if backward else 1]:
                made[t] = h = act(x[t] @ w[k].T + h @ r[k].T + bias)
            each.append((np.stack(made), h))
        return np.stack([all_steps for all_steps, _ in each], axis=1), np.stack([last for _, last in each])


class FusedGemm(OpRun):
    """onnxruntime's product of matrices with an activation behind it."""

    op_domain = "com.microsoft"

    def _run(  # type: ignore[no-untyped-def]
        self,
        a,
        b,
        c=None,
        activation=None,
        activation_alpha=None,
        activation_beta=None,
        activation_gamma=None,
        alpha=None,
        beta=None,
        transA=None,
        transB=None,
    ):
        z = (1.0 if alpha is None else alpha) * ((a.T if transA else a) @ (b.T if transB else b))
        z = z if c is None else z + (1.0 if beta is None else beta) * c
        return ({"Relu": lambda v: np.maximum(v, 0)}[activation](z),)


class Scan(OpRun):
    """A loop over first axes, forwards or backwards; the reference implementation goes forwards only."""

    def need_context(self) -> bool:
        return True

    def _run(  # type: ignore[no-untyped-def]
        self,
        *args,
        context=None,
        body=None,
        num_scan_inputs=0,
        scan_input_axes=None,
        scan_input_directions=None,
        scan_output_axes=None,
        scan_output_directions=None,
        attributes=None,
    ):
        if any(scan_input_axes or ()) or any(scan_output_axes or ()):
            raise NotImplementedError("Scan along other axes than the first")
        count = len(args) - num_scan_inputs
        states, made = list(args[:count]), []
        back = scan_input_directions or [0] * num_scan_inputs
        for each in zip(
            *(x[:: -1 if b else 1] for x, b in zip(args[count:], back, strict=True)), strict=True
        ):
            found = body.run(None, {**context, **dict(zip(body.input_names, [*states, *each], strict=True))})
            states = found[:count]
            made.append(found[count:])
        columns = [np.stack(column) for column in zip(*made, strict=True)]
        back = scan_output_directions or [0] * len(columns)
        return (*states, *(z[:: -1 if b else 1] for z, b in zip(columns, back, strict=True)))


class LRN(OpRun):
    """Each element over the squares of its neighbouring channels; the reference stops after the first `N` channels."""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):  # type: ignore[no-untyped-def]
        before = (size - 1) // 2
        squares = np.pad(x**2, [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)])
        total = sliding_window_view(squares, size, axis=1).sum(axis=-1)
        return (x / (bias + alpha / size * total) ** beta,)


class SVMClassifier(OpRun):
    """Probabilities of classes from radial kernels; those of the reference implementation are wrong for three classes.

    With r[i, j] how sure i is against j, the probabilities p make sum over i != j of (r[j, i] p[i] - r[i, j] p[j])^2
    least (Wu, Lin, Weng 2004).
    """

    op_domain = "ai.onnx.ml"

    def _run(self, x, **given):  # type: ignore[no-untyped-def]
        counts = given["vectors_per_class"]
        if given["kernel_type"] != "RBF" or not given["prob_a"] or len(counts) < 3:
            raise NotImplementedError("SVMClassifier other than with three radial kernels and probabilities")
        classes = np.repeat(np.arange(len(counts)), counts)
        vectors = np.reshape(given["support_vectors"], (len(classes), -1))
        weights = np.reshape(given["coefficients"], (len(counts) - 1, -1))
        kernels = np.exp(-given["kernel_params"][0] * ((x[:, None] - vectors) ** 2).sum(axis=-1))
        r = np.zeros((len(x), len(counts), len(counts)))
        for at, (i, j) in enumerate(itertools.combinations(range(len(counts)), 2)):
            score = kernels[:, classes == i] @ weights[j - 1, classes == i] + given["rho"][at]
            score += kernels[:, classes == j] @ weights[i, classes == j]
            r[:, i, j] = 1 / (1 + np.exp(given["prob_a"][at] * score + given["prob_b"][at]))
            r[:, j, i] = 1 - r[:, i, j]
        turned = r.transpose(0, 2, 1)
        q = np.eye(len(counts)) * (turned**2).sum(axis=-1, keepdims=True) - turned * r
        ones = np.ones((len(x), len(counts), 1))
        p = np.linalg.solve(q, ones)
        return np.asarray(given["classlabels_ints"])[p.argmax(axis=1)[:, 0]], (
            p / p.sum(axis=1, keepdims=True)
        )[..., 0]


OPERATORS: list[type[OpRun]] = [
    AveragePool,
    Conv,
    ConvTranspose,
    Erf,
    FusedGemm,
    Gelu,
    GlobalMaxPool,
    LRN,
    LayerNormalization,
    MaxPool,
    Pad,
    RNN,
    SVMClassifier,
    Scan,
    ScatterElements,
]
