"""Compares gradients of real models with finite differences in float64: `python -m tests.conformance.gradients`.

For each model file: the target is the first float output that the sources lead to, or its logit where a softmax is
saturated; the layers are the sources, two hidden tensors at a third and two thirds of the way, and the input of the
last nonlinearity; cuts where there are any, and not at a kink, such as a tie in max pooling. For 3 random cotangents v
and random directions u, <g, u> of the gradient program is compared with the central difference of <v, target> along u
in float64 (`float64.py`), whose target has to be onnxruntime's. The error is relative to the larger of |<g, u>| and a
tenth of |g|, which is what |<g, u>| is for an average direction: below that the figures cancel. Files that differences
do not suit as they are, for equal weights or huge images, are changed first (`usable`).

A difference of a quantised file says nothing. Its surrogate in float64 is the file with every rounding frozen: what
rounding added at x stays added, while the clip to the type's range is live (`straight_through.py`). At x that
has the file's own values, up to a hundredth of a step (`_rounded`), and its differences are the straight-through
gradient by definition.

The program is run by onnxruntime in float32. Where that differs, the same program is run in float64 by the reference
implementation too: float32 takes the other side of a kink here and there, and loses digits in saturated softmaxes;
a wrong rule is wrong in both. The table shows both figures; the smaller counts.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_attribution.errors import AttributionError
from onnx_attribution.graph_tools.normalise.comparison import same_values
from onnx_attribution.graph_tools.operators import VJP
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.select.layers import layers_between
from onnx_attribution.graph_tools.select.logits import logit_of
from onnx_attribution.graph_tools.select.targets import float_before_outputs, float_outputs
from onnx_attribution.graph_tools.walk.differentiate import missing_rules, reachable
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import Array
from tests.conformance.float64 import Float64Network, run_double
from tests.data.examples import example_of, usable

SEEDS = (0, 1, 2)
TOLERANCE = 1e-4
VALUES = 1e-2  # of the largest element: what float32 may lose in a deep file; a wrong operator loses more
OFF = 1e-2  # of a step of quantised numbers
STEPS = (
    1e-7,
    1e-8,
    1e-5,
    1e-9,
)  # of the layer's scale; others where a kink or rounding spoils the first
KINK_STEP = 1e-8
SPREAD = 1e-6  # of the root mean square: elements below it lie near the end of what a Log or a root takes
SATURATED = 1e-5  # from 0 or 1
TRIES = 8


@dataclass(frozen=True)
class Errors:
    """The largest error over the seeds, in float32 and, where that is too large, in float64."""

    single: float
    double: float | None = None

    @property
    def best(self) -> float:
        """What counts."""
        return self.single if self.double is None else min(self.single, self.double)


@dataclass(frozen=True)
class Row:
    """One line of the table: the errors at each layer, or why there are none: refused, or no oracle."""

    model: str
    batch: str
    target: str
    errors: Mapping[str, Errors]
    refused: str
    broken: str
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether every layer is within the tolerance."""
        return bool(self.errors) and max(e.best for e in self.errors.values()) <= TOLERANCE

    @property
    def agrees_in_float32(self) -> bool:
        """Whether every layer is within the tolerance as onnxruntime runs it."""
        return bool(self.errors) and max(e.single for e in self.errors.values()) <= TOLERANCE


def candidate_layers(model: LoadedModel, sources: Sequence[str], target: str) -> list[list[str]]:
    """For each hidden layer wanted the tensors to try, nearest first: cuts where there are enough of them."""
    nodes = list(model.graph.nodes)
    found = [x for x in layers_between(model.graph, sources, target) if x.name not in (*sources, target)]
    live = [x for x in found if target in reachable(nodes, [x.name])]
    cuts = [x for x in live if x.cut]
    names = [x.name for x in (cuts if len(cuts) >= 6 else live)]
    if not names:
        return []
    last = names[-1]
    for node in reversed(nodes):
        rule = VJP.get(("", node.op))
        read = [x.name for x in node.inputs if x.name in {y.name for y in live}]
        if rule is not None and not rule.linear and read:
            last = read[0]
            break
    thirds = [names[len(names) // 3 :: -1], names[2 * len(names) // 3 :: -1]]
    return [*thirds, [last, *names[::-1]]]


def compare(
    path: Path,
    backend: Backend,
    given: Mapping[str, Array] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    target: str | None = None,
) -> Row:
    """The row of one model file at an input: what is given, else drawn, in the shapes that are given.

    The target is the one that is named, or the first float output that the sources lead to.
    """
    started = time.monotonic()
    name = path.parent.name

    def row(
        batch: str, target: str, errors: Mapping[str, Errors], refused: str = "", broken: str = ""
    ) -> Row:
        return Row(name, batch, target, errors, refused, broken, time.monotonic() - started)

    try:
        model = LoadedModel(path, backend, given=given, shapes=shapes)
        before = float_before_outputs(model.graph)
        outputs = [target] if target else float_outputs(model.graph) or ([before] if before else [])
        target, sources = _target_and_sources(model, outputs)
        missing = sorted({node.op for node in missing_rules(list(model.graph.nodes), sources, target)})
        if missing:
            return row(model.network.batch, target, {}, f"no rule for {', '.join(missing)}")
        return row(model.network.batch, target, dict(_errors(model, tuple(sources), target)))
    except AttributionError as error:
        return row("", "", {}, str(error).splitlines()[0][:300])
    except Exception as error:  # the reference implementation lacks an operator, or a form of it
        return row("", "", {}, broken=f"{type(error).__name__}: {str(error).splitlines()[0][:300]}")


def _target_and_sources(model: LoadedModel, outputs: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    failure: AttributionError | None = None
    for target in outputs:
        try:
            return _unsaturated(model, target), model.sources((), target)
        except AttributionError as error:
            failure = error
    raise failure or AttributionError("no float tensor leads to an output")


def _unsaturated(model: LoadedModel, target: str) -> str:
    """The target, or its logit where it is made of zeros and ones, which nothing moves.

    Nearly so counts too: onnxruntime's Sigmoid of -14 is 10 % off, so that no value says what the file is in float64.
    """
    logit = logit_of(model.graph, target)
    if logit is None:
        return target
    value = model.backend.run(model.network.model, model.network.example, [target])[target]
    return logit.tensor if (np.minimum(abs(value), abs(value - 1)) < SATURATED).all() else target


def _errors(model: LoadedModel, sources: tuple[str, ...], target: str) -> Iterator[tuple[str, Errors]]:
    """Per layer the largest relative error over the seeds."""
    example: dict[str, Array] = dict(model.network.example)
    candidates = candidate_layers(model, sources, target)
    keep = [*sources, *(n for names in candidates for n in names[:TRIES]), target]
    rounded = _rounded(model, example)
    exact = Float64Network(model.network.model, example, keep, rounded)
    _require_same(model, example, target, exact.values[target])
    layers = list(sources)
    for names in candidates:
        free = [n for n in names[:TRIES] if n not in layers]
        layers += next(([n] for n in free if not _at_kink(exact, n, target)), [])
    choice = Choice(sources, tuple(layers), target)
    tensors = model.graph.tensors()
    inputs = {**example, **{s: exact.values[s].astype(tensors[s].dtype) for s in sources}}
    program = rows_program(model.network, choice)
    session = model.backend.session(program.model, arena=False)
    at_x = exact.values[target]
    cotangents = [np.random.default_rng(seed).normal(size=at_x.shape) for seed in SEEDS]
    kind = tensors[target].dtype
    wide = {**inputs, **{s: exact.values[s] for s in sources}}

    @functools.cache
    def single(seed: int) -> dict[str, Array]:
        return session.run({**inputs, "target/weight": cotangents[seed].astype(kind)})

    @functools.cache
    def double(seed: int) -> dict[str, Array]:
        return run_double(program.model, {**wide, "target/weight": cotangents[seed]}, rounded)

    if not any(single(0)[f"gradient/{layer}"].any() for layer in layers):
        raise AttributionError(f"the gradient of {target!r} is zero at every layer")
    for layer in layers:
        worst, worst_double = 0.0, None
        scale = _scale(exact.values[layer])
        for seed, v in enumerate(cotangents):
            u, slope = _slope(exact, layer, target, seed, v)
            error = _error(single(seed)[f"gradient/{layer}"], scale, u, slope)
            worst = max(worst, error)
            if error > TOLERANCE:
                error = min(error, _error(double(seed)[f"gradient/{layer}"], scale, u, slope))
                worst_double = max(worst_double or 0.0, error)
        yield layer, Errors(worst, worst_double)


def _rounded(model: LoadedModel, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
    """What the file's quantising operators make of the inputs, by onnxruntime; None without such operators.

    Off the integers by up to `OFF`: sums of integers hit the bounds of a clip and each other exactly, and at such
    ties no difference can tell what the gradient ought to be.
    """
    graph = model.network.model.graph
    nodes = [n for n in graph.node if _quantises(n)]
    inside = [n for n in graph.node if n.op_type == "DynamicQuantizeLSTM"]  # of numbers that it keeps
    if not nodes and not inside:
        return None
    rng = np.random.default_rng(3)
    outputs = [z for n in (*nodes, *inside) for z in n.output if z]
    found = model.backend.run(model.network.model, inputs, outputs)
    moved = {n.output[0]: found[n.output[0]].astype(np.float64) for n in nodes}
    return {**found, **{z: q + rng.uniform(-OFF, OFF, q.shape) for z, q in moved.items()}}


def _quantises(node: onnx.NodeProto) -> bool:
    return node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") or node.op_type.startswith("QLinear")


def _require_same(model: LoadedModel, inputs: Mapping[str, Array], target: str, value: Array) -> None:
    """Refuses an oracle whose target is not that of the file."""
    found = model.backend.run(model.network.model, inputs, [target])[target]
    if not same_values(value.astype(found.dtype), found, VALUES):
        raise ValueError(f"{target!r} in float64 is not what onnxruntime makes it")


def _scale(value: Array) -> Any:
    """What a step of 1 is for each element: their root mean square, or before a Log or a root its own size.

    That is where all have one sign and some are far smaller than others: an even step would lead below 0.
    """
    size: Any = np.abs(value.astype(np.float64))
    even = max(float(np.sqrt(np.mean(np.square(size)))), 1e-3)
    signs = set(np.sign(value).reshape(-1).tolist())
    one_sign = len(signs) == 1 and 0 not in signs
    return size if one_sign and float(size.min()) < SPREAD * even else np.full(value.shape, even)


def _slope(
    exact: Float64Network, layer: str, target: str, seed: int, v: Any
) -> tuple[Array, Callable[[float], float]]:
    """A random direction for steps of the scale, and the difference of <v, target> along it by the step."""
    value = exact.values[layer]
    u: Any = np.random.default_rng(100 + seed).normal(size=value.shape) * _scale(value)

    @functools.cache
    def slope(step: float) -> float:
        ends: list[Any] = [exact.moved(layer, target, value + s * step * u) for s in (1, -1)]
        return float((v * (ends[0] - ends[1])).sum() / (2 * step))

    return u, slope


def _at_kink(exact: Float64Network, layer: str, target: str) -> bool:
    """Whether the two one-sided differences along a random direction disagree, or nothing changes at all."""
    value = exact.values[layer]
    u: Any = np.random.default_rng(99).normal(size=value.shape) * _scale(value)
    up = exact.moved(layer, target, value + KINK_STEP * u) - exact.values[target]
    down = exact.values[target] - exact.moved(layer, target, value - KINK_STEP * u)
    size = float(np.abs(up).max(initial=0))
    return size == 0 or float(np.abs(up - down).max()) > 1e-2 * size


def _error(gradient: Array, scale: Any, u: Any, slope: Callable[[float], float]) -> float:
    """The smallest relative error over the steps; further steps only where the first is not enough."""
    wide = gradient.astype(np.float64)
    mine = float((wide * u).sum())
    size = max(0.1 * float(np.linalg.norm(wide * scale)), abs(mine), 1e-300)
    least = np.inf
    for step in STEPS:
        least = min(least, abs(mine - slope(step)) / max(abs(slope(step)), size))
        if least <= TOLERANCE:
            break
    return least


def main(paths: Sequence[str]) -> int:
    """Prints the table; 0 if every model that is not refused agrees."""
    warnings.simplefilter("ignore")
    backend = Backend("cpu")
    rows = []
    print(f"{'model':30} {'batch':8} {'float32':>8} {'float64':>8}  layers")
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(usable(Path(path), Path(folder)), backend, *example_of(Path(path))))
        print(_line(rows[-1]), flush=True)
    right, wrong = [r for r in rows if r.agrees], [r.model for r in rows if not r.agrees and not r.refused]
    in_single = sum(r.agrees_in_float32 for r in rows)
    refused = sum(bool(r.refused) for r in rows)
    print(
        f"{len(right)} of {len(rows)} agree to {TOLERANCE} ({in_single} of them in float32 as well), "
        f"{refused} refused, differ: {', '.join(wrong) or 'none'}"
    )
    return 1 if wrong else 0


def _line(row: Row) -> str:
    singles = [e.single for e in row.errors.values()]
    doubles = [e.double for e in row.errors.values() if e.double is not None]
    figures = [f"{max(x):.0e}" if x else "-" for x in (singles, doubles)]
    verdict = "" if row.agrees else f"refused: {row.refused}" if row.refused else f"DIFFERS: {row.broken}"
    layers = ", ".join(f"{n} {e.best:.0e}" for n, e in row.errors.items())
    return f"{row.model:30} {row.batch:8} {figures[0]:>8} {figures[1]:>8}  {verdict}{layers} ({row.seconds:.1f} s)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
