"""The time to an error: Captum's LayerConductance with its default of 50 steps has a relative L1 error e against fine
trapezoids of ours, in panels that shrink towards the baseline; then ours is timed with the tolerance e, or less until
its own error is at most e. In brackets behind each name: the hidden layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import FIXED, NO_CAPTUM, NO_DATA, Asking, Bench
from benchmarks.networks import HAS_CAPTUM
from benchmarks.rows.hidden import hidden_layer
from benchmarks.table import Figure, least
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array

TITLE = "Time to Captum's error at 50 steps"
WHAT = "Captum / ours"
STEPS = 50
TRIES = 4
FINE = 1024
"""Segments of each panel of the reference."""
PANELS = (0.0, 1 / 256, 1 / 16, 1.0)
"""Where the panels of the reference begin and end: at a baseline of zeros units sit on their kinks, so that the first
segment of a trapezoid is wrong."""
SMOOTH, KINKED = least(5), least(2)
RANDOM = {"vit4": SMOOTH, "bert6": SMOOTH, "resnet50": KINKED}
"""Networks with random weights, and their target."""


@dataclass(frozen=True)
class Real:
    """A real file that is made anew in torch: its examples and the layer that is asked for."""

    name: str
    examples: str
    array: str
    layer: str
    target: Any


REAL = (
    Real("cct-com-microsoft-gelu", "inputs.npz", "input", "node_0_classifier_blocks_0_Add__0", SMOOTH),
    Real("cifar10-wide-kw", "examples.npz", "x", "12", KINKED),
    Real("mnist-cntk", "examples_mnist.npz", "x", "ReLU114_Output_0", KINKED),
    Real("mnist-leakyrelu-5x20", "examples_mnist.npz", "x", "onnx::Gemm_20", KINKED),
    Real("mnist-cnn-maxpool-marabou", "examples_mnist.npz", "x", "dense_3/Identity:0", KINKED),
)


@dataclass(frozen=True)
class Case:
    """One question to both: `rows` bounds those of a run of Captum's, `fine` are the segments of each panel of the
    reference."""

    name: str
    file: Path
    module: Any
    part: str
    layer: str
    inputs: dict[str, Array]
    index: int
    fine: int
    rows: int | None
    target: Any


def figures(bench: Bench) -> Iterator[Figure]:
    for case, why in _cases(bench):
        if isinstance(case, Case):
            with bench.asking(case.file) as ask:
                yield _figure(bench, case, ask)
        else:
            yield Figure(case, WHAT, None, None, why)


def _cases(bench: Bench) -> Iterator[tuple[Case | str, str]]:
    """Cases, and the names of those that cannot be with the reason."""
    for real in REAL[:2] if bench.quick else REAL:
        file = bench.models / real.name / "model.onnx" if bench.models else None
        if file is None or not file.exists() or not HAS_CAPTUM:
            yield real.name, NO_CAPTUM if not HAS_CAPTUM else NO_DATA
        else:
            yield _remade(real, file), ""
    for ready in bench.networks:
        if ready.network.key not in RANDOM:
            continue
        if not HAS_CAPTUM:
            yield ready.name, NO_CAPTUM
            continue
        with bench.asking(ready.file) as ask:
            layer = hidden_layer(ready, ask)
        fine, target = 64 if bench.quick else 192, RANDOM[ready.network.key]
        yield Case(
            f"{ready.name}, random weights", ready.file, ready.module, ready.layer, layer, ready.inputs(1), 1,
            fine, ready.size.batch, target,
        ), ""  # fmt: skip


def _remade(real: Real, file: Path) -> Case:
    """The case of a file, whose module gives what the file gives."""
    import onnxruntime as ort

    from benchmarks import peers
    from benchmarks.remade import Remade

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    x = np.load(file.parent / real.examples)[real.array][:1].astype(np.float32)
    module = Remade(file).eval()
    (wanted,) = session.run(None, {given.name: x})
    found = peers.forward(module, peers.tensors({given.name: x}))
    if not np.allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max()):
        raise AssertionError(f"{real.name} made anew in torch is off by {np.abs(found - wanted).max():.1e}")
    return Case(
        real.name, file, module, module.maker(real.layer), real.layer, {given.name: x}, int(wanted.argmax()),
        FINE, None, real.target,
    )  # fmt: skip


def _figure(bench: Bench, case: Case, ask: Asking) -> Figure:
    from benchmarks import peers

    def ours(inputs: Mapping[str, Array] = case.inputs, **options: Any) -> NDArray[np.float64]:
        answer = ask(inputs, "neuron_ig", layers=[case.layer], target=case.index, **options)
        return answer.layers[case.layer].values.astype(np.float64)

    def between(low: float, high: float) -> NDArray[np.float64]:
        ends = [
            {name: np.asarray(end * np.asarray(array, np.float32)) for name, array in case.inputs.items()}
            for end in (low, high)
        ]
        return ours(ends[1], baselines=ends[0], steps=case.fine, **FIXED)

    reference = np.sum([between(low, high) for low, high in itertools.pairwise(PANELS)], axis=0)
    x = peers.tensors(case.inputs)
    captum = peers.layer_conductance(case.module, case.part, x, STEPS, case.rows, case.index)
    wanted = _distance(captum(), reference)
    options, found = _as_exact(ours, reference, wanted)
    times = bench.alternating({"Captum": captum, "ours": lambda: ours(**options)})
    evaluations = ask(case.inputs, "neuron_ig", layers=[case.layer], target=case.index, **options).evaluations
    asked = ", ".join(f"{n}={v if isinstance(v, str | int) else f'{v:.2g}'}" for n, v in options.items())
    how = f"errors {wanted:.2g} and {found:.2g}; {asked}: {evaluations} evaluations; {times.words()}"
    ratio = times.ratio("Captum", "ours") if found <= wanted else None
    return Figure(
        f"{case.name} [{case.layer}]", WHAT, ratio, case.target, how if ratio else f"not reached: {how}"
    )


def _as_exact(
    ours: Callable[..., Array], reference: NDArray[np.float64], wanted: float
) -> tuple[dict[str, Any], float]:
    """The options with which ours is as close to the reference as is wanted, and how close it is.

    A tolerance that leaves more is halved. Where there is no adaptive quadrature: the fewest steps that do.
    """
    try:
        for k in range(TRIES):
            options = {"quadrature": "auto", "tolerance": wanted / 2**k}
            found = _distance(ours(**options), reference)
            if found <= wanted:
                break
        return options, found
    except InvalidArgument:
        steps = 1
        while (found := _distance(ours(steps=steps, **FIXED), reference)) > wanted and steps < 512:
            steps = steps + 1 if steps < 8 else steps * 5 // 4
        return {"steps": steps, **FIXED}, found


def _distance(found: Array, reference: NDArray[np.float64]) -> float:
    """Relative, in L1."""
    off = found.astype(np.float64).reshape(-1) - reference.reshape(-1)
    return float(np.abs(off).sum() / np.abs(reference).sum())
