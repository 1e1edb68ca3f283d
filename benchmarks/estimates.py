"""Rows that quadrature="auto" takes, and whether its estimates of the error hold: `python -m benchmarks.estimates`

Trained models of the test data on real inputs, from a baseline of zeros: Neuron Integrated Gradients of two hidden
layers and of the input, on default settings, against the trapezoid on 4,096 segments. Where the target saturates near
the baseline, that reference is made of panels that shrink towards it, 4,096 segments each: along one path conductances
add up. Errors are L1, relative to the L1 norm of the attributions. `uniform` are the rows of a trapezoid with the least
power of two of segments that does as well. The table goes to `benchmarks/results/estimates.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_attribution import methods
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.rows.adaptive import Adaptive
from onnx_attribution.values import AttributionRequest, Revision, Target

RESULTS = Path(__file__).parent / "results" / "estimates.md"
SAMPLES, SEGMENTS, TOLERANCE = 3, 4096, 0.01
GRIDS = 10
"""Uniform grids are tried up to 2**GRIDS segments."""
WIRED = "auto" in typing.get_args(methods.Quadrature)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A model of the test data, its inputs, and what they are multiplied with and shifted by."""

    model: str
    file: str = "examples_mnist.npz"
    key: str = "x"
    scale: float = 1.0
    shift: float = 0.0
    kind: str = "piecewise linear"


CASES = (
    Case("mnist-softmax-mlp", kind="saturating"),
    Case("mnist-cnn-pytorch", kind="saturating"),
    Case("mnist-cnn-pytorch", scale=1 / (255 * 0.3081), shift=-0.1307 / 0.3081),
    Case("mnist-self-attention", kind="smooth"),
    Case("cct-com-microsoft-gelu", "inputs.npz", "input", kind="smooth"),
    Case("cifar10-wide-kw", "examples.npz"),
    Case("mnist-cntk"),
    Case("mnist-relu-2x10"),
    Case("mnist-leakyrelu-5x20"),
    Case("mnist-cnn-maxpool-marabou"),
    Case("hand-keypoint-softmax", "examples.npz"),
    Case("hand-history-softmax", "examples.npz"),
)


@dataclass(frozen=True)
class Row:
    """One layer of one sample: what was reached, and by how many rows."""

    model: str
    kind: str
    layer: str
    rows: int
    error: float
    estimate: float
    reached: int | None
    uniform: int | None
    equal: int | None


class Question:
    """One input of one model, its target, and the layers that are asked about."""

    def __init__(self, engine: Engine, case: Case, x: NDArray[Any]) -> None:
        self.engine, self.name, self.x = engine, case.model, x
        self.input = engine.info(case.model).inputs[0].name
        outputs = engine.predict(case.model, {self.input: x})
        first = next(iter(outputs.values()))[0]
        place = [int(k) for k in np.unravel_index(int(first.argmax()), first.shape)]
        self.target = Target(index=place[0] if len(place) == 1 else tuple(place))
        cuts = [layer.name for layer in engine.layers(case.model) if layer.cut]
        hidden = [name for name in cuts if name != self.input and name not in outputs]
        self.layers = list(
            dict.fromkeys([hidden[len(hidden) // 3], hidden[2 * len(hidden) // 3], self.input])
        )
        self.panels = (0.0, 1 / 256, 1 / 16, 1.0) if case.kind == "saturating" else (0.0, 1.0)

    def at(self, alphas: Sequence[float] | Floats) -> NDArray[Any]:
        return np.concatenate([(alpha * self.x).astype(self.x.dtype) for alpha in alphas])

    def uniform(self, segments: int, low: float = 0.0, high: float = 1.0) -> dict[str, Floats]:
        """Attributions by the trapezoid between two places of the path."""
        request = AttributionRequest(
            self.name, {self.input: self.at([high])}, methods.NeuronIG(steps=segments, quadrature="trapezoid"),
            self.layers, target=self.target, baselines={self.input: self.at([low])},
        )  # fmt: skip
        answer = self.engine.attribute(request).layers
        return {name: answer[name].values.astype(np.float64) for name in self.layers}

    def reference(self) -> dict[str, Floats]:
        pieces = [
            self.uniform(SEGMENTS, low, high)
            for low, high in zip(self.panels[:-1], self.panels[1:], strict=True)
        ]
        return {name: np.sum([piece[name] for piece in pieces], axis=0) for name in self.layers}

    def automatic(self, layer: str) -> Iterator[tuple[int, Floats, float]]:
        """Rows, attributions and estimate of every revision."""
        if WIRED:
            given: dict[str, Any] = {"quadrature": "auto", "tolerance": TOLERANCE}
            request = AttributionRequest(
                self.name, {self.input: self.x}, methods.NeuronIG(**given), [layer], target=self.target,
                baselines={self.input: 0.0},
            )  # fmt: skip
            for event in self.engine.stream(request):
                if isinstance(event, Revision):
                    answer = event.attribution.layers[layer]
                    values = answer.values.astype(np.float64)
                    yield event.attribution.evaluations, values, float(answer.error_estimate[0])
            return
        found = Adaptive(conductance=True, tolerance=TOLERANCE, layers=[layer])
        ends = next(iter(self.engine.predict(self.name, {self.input: self.at([0, 1])}).values()))
        index = self.target.index if isinstance(self.target.index, tuple) else (self.target.index,)
        found.note_change(float(ends[(1, *index)]) - float(ends[(0, *index)]), {layer: True})
        while len(alphas := found.wanted()) and found.rows < SEGMENTS // 4:
            found.add(alphas, {layer: self._rows(layer, alphas)})
            yield found.rows, found.sums()[layer], found.errors()[layer]

    def _rows(self, layer: str, alphas: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
        x = {self.input: self.at(alphas)}
        request = AttributionRequest(self.name, x, "gradient", [layer], target=self.target)
        h = x[self.input] if layer == self.input else self.engine.predict(self.name, x, [layer])[layer]
        g = self.engine.attribute(request).layers[layer].values
        return g.reshape(len(alphas), -1), h.reshape(len(alphas), -1)


def measured(engine: Engine, case: Case, folder: Path) -> Iterator[Row]:
    """A row of the table for every sample and layer."""
    engine.add(case.model, folder / case.model / "model.onnx")
    shape = [d if isinstance(d, int) else 1 for d in engine.info(case.model).inputs[0].shape or ()]
    held = np.load(folder / case.model / case.file)[case.key].astype(np.float32)
    for x in held[:SAMPLES]:
        given = (x * case.scale + case.shift).astype(np.float32).reshape(1, *shape[1:])
        question = Question(engine, case, given)
        reference = question.reference()
        grids = {n: question.uniform(n) for n in (2**k for k in range(1, GRIDS + 1))}
        for layer, wanted in reference.items():
            norm = float(np.abs(wanted).sum())
            if norm == 0:
                continue

            def off(values: Floats, wanted: Floats = wanted, norm: float = norm) -> float:
                return float(np.abs(values.reshape(-1) - wanted.reshape(-1)).sum()) / norm

            steps = {n: off(grid[layer]) for n, grid in grids.items()}
            revisions = [
                (n, off(v), e / max(float(np.abs(v).sum()), 1e-30)) for n, v, e in question.automatic(layer)
            ]
            rows, error, estimate = revisions[-1]
            yield Row(
                case.model + (" normalised" if case.shift else ""), case.kind, layer, rows, error, estimate,
                next((n for n, e, _ in revisions if e <= TOLERANCE), None),
                next((n + 1 for n, e in steps.items() if e <= TOLERANCE), None),
                next((n + 1 for n, e in steps.items() if e <= max(error, 1e-6)), None),
            )  # fmt: skip


def summary(rows: Sequence[Row]) -> list[str]:
    """The figures of all rows, and those of every model."""
    most = 2**GRIDS + 1
    covered = sum(row.error <= row.estimate for row in rows) / len(rows)
    within = sum(row.error <= TOLERANCE for row in rows) / len(rows)
    ratio = statistics.median(row.estimate / max(row.error, 1e-9) for row in rows)
    lines = [
        f"{len(rows)} layers of samples: the true error is within the estimate in {covered:.1%},",
        f"within {TOLERANCE:.0%} in {within:.1%}; median of estimate / true error {ratio:.2f}.",
        "",
        "| model | kind | rows, median | rows to 1 % / uniform | rows / uniform of equal error |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == name]
        reached = statistics.median((row.reached or most) / (row.uniform or most) for row in own)
        equal = statistics.median(row.rows / (row.equal or most) for row in own)
        middle = statistics.median(row.rows for row in own)
        lines.append(f"| {name} | {own[0].kind} | {middle:g} | {reached:.2f} | {equal:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", type=Path, default=Path(os.environ.get("ONNX_ATTRIBUTION_TEST_DATA", "../shared"))
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="MODEL",
        help="these models alone; no table is written unless --output is given",
    )
    chosen = parser.parse_args()
    started, rows = time.monotonic(), list[Row]()
    for case in (case for case in CASES if chosen.only is None or case.model in chosen.only):
        with Engine(provider="cpu", threads=2) as engine:
            for row in measured(engine, case, chosen.models / "models"):
                rows.append(row)
                print(f"{row.model:28s} {row.layer[:24]:24s} rows {row.rows:4d} true {row.error:.1e} "
                      f"estimate {row.estimate:.1e}  uniform {row.uniform}", flush=True)  # fmt: skip
    figures = summary(rows)
    print("\n".join(figures), f"\n{time.monotonic() - started:.0f} s")
    if chosen.only is not None and chosen.output == RESULTS:
        return
    by = "quadrature auto of the engine" if WIRED else "the algorithm alone, on rows of the engine"
    table = [
        "# Rows and estimates of quadrature auto",
        "",
        f"`python -m benchmarks.estimates`, which says what is measured; {by};",
        f"{platform.machine()}, onnxruntime {ort.__version__}, tolerance {TOLERANCE:g}.",
        "",
        *figures,
        "",
        "| model | layer | rows | true error | estimate | rows to 1 % | uniform to 1 % | uniform of equal error |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {r.model} | {r.layer} | {r.rows} | {r.error:.1e} | {r.estimate:.1e} | {r.reached or 'never'} |"
            f" {r.uniform or 'over 1025'} | {r.equal or 'over 1025'} |"
            for r in rows
        ),
    ]
    chosen.output.parent.mkdir(exist_ok=True)
    chosen.output.write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
