"""Operators in numpy and float64, for the onnx reference implementation to run instead of its own.

Those that it lacks, computes in float32, or computes slowly; nothing of the project takes part.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.op_run import OpRun
from scipy import special

from tests.conformance.windows import Array, AveragePool, Conv, ConvTranspose, GlobalMaxPool, MaxPool


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
