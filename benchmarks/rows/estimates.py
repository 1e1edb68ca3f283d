"""How many evaluations an answer of a given exactness costs, and whether its error estimate holds: `neuron_ig` of
trained models at hidden cuts and real inputs, against a fine trapezoid. Evaluations: of `quadrature="auto"` with a
tolerance of 1 %, beside those of the fewest segments of a uniform trapezoid with a true error of at most 1 %; the
median over the cases of a model. Errors below 1e-5 are rounding, which an estimate need not cover."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import FIXED, NO_DATA, Bench
from benchmarks.table import Bound, Figure, least, most
from benchmarks.timing import Ratio
from benchmarks.trained import Trained, target_of, with_examples
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Array, Attribution, AttributionRequest

TITLE = "Evaluations, and estimates that hold"
WHAT = "evaluations to 1 %, auto / uniform trapezoid"
TOLERANCE, ROUNDING = 0.01, 1e-5
FINE, FINE_SLOW, SLOW = 4096, 1024, 2e-3
"""Segments of the reference: fewer where a row takes longer than so many seconds."""
SAMPLES = 3
GRID = sorted({round(2 ** (k / 3)) for k in range(34)})
SMOOTH_OR_SATURATING = (
    "mnist-softmax-mlp", "mnist-cnn-pytorch", "mnist-self-attention", "cct-com-microsoft-gelu",
)  # fmt: skip
SKIPPED = {"magika-standard-v3-3": "a reference takes minutes; see the completeness of its answers"}


@dataclass(frozen=True)
class Case:
    """What was found at one input and layer; errors and estimates are relative, in L1."""

    true: float
    estimate: float
    auto: int
    uniform: int
    equal: int
    """What a uniform trapezoid needs for the same true error."""


def figures(bench: Bench) -> Iterator[Figure]:
    if bench.models is None:
        yield Figure("trained models", WHAT, None, None, NO_DATA)
        return
    found: list[Case] = []
    for trained in _models(bench.models):
        target = most(0.4 if trained.name in SMOOTH_OR_SATURATING else 1.1)
        if trained.name in SKIPPED:
            yield Figure(trained.name, WHAT, None, None, SKIPPED[trained.name])
            continue
        try:
            cases = list(_cases(bench, trained))
        except InvalidArgument as error:
            yield Figure(trained.name, WHAT, None, target, str(error).splitlines()[0][:160])
            if "quadrature" in str(error):
                return
            continue
        except AttributionError as error:
            yield Figure(trained.name, WHAT, None, target, str(error).splitlines()[0][:160])
            continue
        found += cases
        yield _of_model(trained.name, cases, target)
        if bench.quick and len(found) > 3:
            break
    real = [case for case in found if case.true > ROUNDING]
    if real:
        covered = (len(found) - sum(case.true > case.estimate for case in real)) / len(found)
        over = statistics.median(case.estimate / case.true for case in real)
        name = f"{len(found)} cases"
        yield Figure(name, "share with true error ≤ estimate", covered, least(0.95))
        yield Figure(name, "median of estimate / true error", over, most(3))
        close = statistics.fmean(case.true <= TOLERANCE for case in found)
        yield Figure(name, "share with true error ≤ tolerance", close)


def _models(models: Path) -> Iterator[Trained]:
    file = models / "cct-com-microsoft-gelu" / "model.onnx"
    if file.exists():
        yield Trained(file.parent.name, file, {"input": np.load(file.parent / "inputs.npz")["input"]})
    yield from with_examples(models)


def _of_model(name: str, cases: list[Case], target: Bound) -> Figure:
    if not cases:
        return Figure(name, WHAT, None, target, "no hidden cut")
    ratios = sorted(case.auto / case.uniform for case in cases)
    equal = statistics.median(case.auto / case.equal for case in cases)
    worst = max(case.true for case in cases)
    rows = statistics.median(case.auto for case in cases)
    how = (
        f"{len(cases)} cases, {rows:g} evaluations; worst true error {worst:.1e}; at equal error {equal:.2f}"
    )
    return Figure(name, WHAT, Ratio(statistics.median(ratios), ratios[0], ratios[-1]), target, how)


def _cases(bench: Bench, trained: Trained) -> Iterator[Case]:
    with Engine(provider="cpu", threads=bench.threads) as engine:
        engine.add("model", trained.file)
        cuts = [layer.name for layer in engine.layers("model") if layer.cut]
        layers = list(dict.fromkeys([cuts[len(cuts) // 3], cuts[2 * len(cuts) // 3]])) if cuts else []
        for layer in layers:
            for k in range(min(len(trained), 1 if bench.quick else SAMPLES)):
                yield _case(engine, trained.sample(k), layer)


def _case(engine: Engine, inputs: dict[str, Array], layer: str) -> Case:
    target = target_of(engine, "model", inputs)

    def ask(**options: Any) -> Attribution:
        return engine.attribute(
            AttributionRequest("model", inputs, "neuron_ig", [layer], target=target, **options)
        )

    found = ask(quadrature="auto", tolerance=TOLERANCE)
    started = time.perf_counter()
    ask(steps=64, **FIXED)
    fine = FINE_SLOW if time.perf_counter() - started > 65 * SLOW else FINE
    reference = ask(steps=fine, **FIXED).layers[layer].values.astype(np.float64)

    def distance(answer: Attribution) -> float:
        found = answer.layers[layer].values.astype(np.float64)
        return float(np.abs(found - reference).sum() / np.abs(reference).sum())

    true = distance(found)
    values = found.layers[layer]
    estimate = float(values.error_estimate[0] / np.abs(values.values).sum())
    needed: dict[float, int] = {}
    for steps in (steps for steps in GRID if steps < fine):
        error = distance(ask(steps=steps, **FIXED))
        for wanted in (TOLERANCE, max(true, ROUNDING)):
            if error <= wanted:
                needed.setdefault(wanted, steps + 1)
        if len(needed) == len({TOLERANCE, max(true, ROUNDING)}):
            break
    return Case(
        true,
        estimate,
        found.evaluations,
        needed.get(TOLERANCE, fine + 1),
        needed.get(max(true, ROUNDING), fine + 1),
    )
