"""What gradients are compared with: values of a model that share no code with them, and their differences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from onnx_attribution.graph_tools.testing.double import as_double, to_double
from onnx_attribution.graph_tools.testing.forms import fed
from onnx_attribution.graph_tools.testing.kinds import (
    FLOAT32,
    FLOATS,
    MEASURED,
    Array,
    Arrays,
    Evaluate,
    Prepare,
    elem_type,
)

ROUNDED = {"DynamicQuantizeLinear"}
"""Operators that the reference evaluator computes in float32, whatever it is given."""


@dataclass(frozen=True)
class Oracle:
    """An evaluation of the model that shares no code with the gradient, and the step that suits its precision."""

    name: str
    evaluate: Evaluate
    step: float
    tolerance: float


def reference(model: onnx.ModelProto) -> Evaluate:
    """Runs a model in ONNX's reference evaluator."""
    evaluator = ReferenceEvaluator(model)

    def evaluate(feeds: Arrays) -> list[Array]:
        with np.errstate(all="ignore"):
            return list(evaluator.run(None, dict(feeds)))

    return evaluate


def oracles_of(model: onnx.ModelProto, inputs: Arrays, prepare: Prepare) -> Iterable[Oracle]:
    """The oracles whose values at `inputs` are those of the model in its own types, the best first."""
    floats = [k for k, z in enumerate(model.graph.output) if elem_type(z) in FLOATS]
    plain, wide = prepare(model), to_double(model)
    half = any(elem_type(x) == onnx.TensorProto.FLOAT16 for x in model.graph.input)

    def declared(feeds: Arrays) -> list[Array]:
        results = plain(fed(model, feeds))
        return [np.asarray(results[k]) for k in floats]

    here = declared(inputs)

    def trusted(evaluate: Evaluate) -> bool:
        return all(
            a.shape == b.shape
            and np.allclose(
                a.astype(np.float64), b.astype(np.float64), rtol=2e-2 if half else 1e-3, atol=1e-3
            )
            for a, b in zip(evaluate(inputs), here, strict=True)
        )

    for name, made in (("reference float64", reference), ("runner float64", prepare)):
        if made is reference and any(node.op_type in ROUNDED for node in model.graph.node):
            continue
        with contextlib.suppress(Exception):  # evaluators raise whatever they like
            double = made(wide)

            def evaluate(feeds: Arrays, double: Evaluate = double) -> list[Array]:
                results = double(fed(wide, {k: as_double(v) for k, v in feeds.items()}))
                return [np.asarray(results[k]) for k in floats]

            if trusted(evaluate):
                yield Oracle(name, evaluate, 1e-5, 0.0)
    yield Oracle("runner as declared", declared, 1e-2, MEASURED)


def measured(
    oracles: Sequence[Oracle],
    inputs: Arrays,
    name: str,
    direction: Array,
    cotangents: Sequence[Array],
    scale: float,
) -> tuple[float, Oracle, bool]:
    """The derivative along `direction`, the oracle that measured it, and whether all of them see a kink (or NaN) there.

    At a kink or a jump the two one-sided differences stay apart when the step is halved; where the function is
    smooth their distance halves too. Noise looks like a kink, so the next oracle is asked.
    """
    for oracle in oracles:

        def value(t: float, oracle: Oracle = oracle) -> float:
            at = inputs[name].astype(np.float64) + t * direction
            results = oracle.evaluate({**inputs, name: at})
            return sum(
                float(np.sum(v * z.astype(np.float64))) for v, z in zip(cotangents, results, strict=True)
            )

        h, here = oracle.step, value(0.0)
        ahead, behind = value(h), value(-h)
        ahead_half, behind_half = value(h / 2), value(-h / 2)
        wide, narrow = (ahead - behind) / (2 * h), (ahead_half - behind_half) / h
        gap = abs(ahead - 2 * here + behind) / h
        gap_half = abs(ahead_half - 2 * here + behind_half) / (h / 2)
        size = max(scale, abs(narrow), 1e-6)
        floor = 0.2 * max(oracle.tolerance, FLOAT32) * size
        kink = gap_half > floor and gap_half > 0.75 * gap
        noisy = abs(wide - narrow) > max(oracle.tolerance, FLOAT32) * size
        expected = (4 * narrow - wide) / 3
        if np.isfinite(expected) and not kink and not noisy:
            return expected, oracle, False
    return expected, oracle, True
