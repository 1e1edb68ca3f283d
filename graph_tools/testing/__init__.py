"""Checks rules of operators: gradients against finite differences, multipliers of DeepLIFT against what they sum to.

For a fixed random cotangent v and a random direction u, `<VJP(v), u>` must equal the derivative of `<v, f(x + t u)>`
at t = 0, which an oracle that shares no code with us measures: the ONNX reference evaluator in float64, else what
`prepare` makes of the model in float64, else of the model as it is.

`prepare` runs models, by default in the reference evaluator; a runtime does it as `Prepare` says.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.testing.forms import fed, gradient_model, in_form
from onnx_attribution.graph_tools.testing.kinds import (
    FLOAT16,
    FLOAT32,
    FLOATS,
    NARROW,
    Array,
    Arrays,
    Prepare,
    elem_type,
)
from onnx_attribution.graph_tools.testing.oracles import Oracle, measured, oracles_of, reference

__all__ = [
    "FORMS",
    "Arrays",
    "Comparison",
    "Prepare",
    "assert_gradient",
    "assert_secant",
    "check_gradient",
    "reference",
]

Verdict = Literal["pass", "fail", "kink"]
FEW = 256  # elements of an input of which the worst is looked for
FORMS = ("fixed", "batch", "free")
"""How much is known before the run: every size and every other input; all but the first size of each input; nothing
but ranks."""


@dataclass(frozen=True)
class Comparison:
    """One directional derivative: ours and the oracle's. `error` is relative to the size of the terms summed."""

    operator: str
    input: str
    seed: int
    form: str
    found: float
    expected: float
    error: float
    oracle: str
    verdict: Verdict
    element: str = ""
    """Of a failure the element whose derivative is furthest off, where the input has at most `FEW`."""


def check_gradient(
    model: onnx.ModelProto,
    inputs: Arrays,
    *,
    wrt: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    tolerance: float = FLOAT32,
    rules: RuleTable = VJP,
    forms: Sequence[str] = FORMS,
    prepare: Prepare = reference,
) -> list[Comparison]:
    """Compares the gradient of every input in `wrt` (all float inputs) with the oracle, for every seed and form."""
    names = list(wrt) if wrt is not None else [x.name for x in model.graph.input if elem_type(x) in NARROW]
    outputs = [z.name for z in model.graph.output if elem_type(z) in FLOATS]
    oracles = list(oracles_of(model, inputs, prepare))
    if not oracles:
        raise AssertionError(f"no oracle runs the model of {_operators(model)}")
    graded = {form: gradient_model(in_form(model, form, inputs, names), names, rules) for form in forms}
    runs = {form: prepare(graph) for form, (graph, fetched) in graded.items() if fetched}
    values = oracles[0].evaluate(inputs)
    half = any(elem_type(x) in FLOATS[1:3] for x in model.graph.input)
    comparisons: list[Comparison] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        cotangents = [rng.standard_normal(value.shape) for value in values]
        directions = {name: rng.standard_normal(inputs[name].shape) for name in names}
        found: dict[str, dict[str, Array]] = {}
        feeds = {**inputs, **{f"v/{name}": v for name, v in zip(outputs, cotangents, strict=True)}}
        for form, (graph, fetched) in graded.items():
            made = runs[form](fed(graph, feeds)) if fetched else ()
            found[form] = dict(zip(fetched, made, strict=True))
        for name in names:
            if not inputs[name].size:
                continue
            ends = {form: found[form][name].astype(np.float64) for form in forms if name in found[form]}
            terms = {form: end * directions[name] for form, end in ends.items()}
            scale = max([float(np.sqrt(np.sum(t**2))) for t in terms.values()], default=0.0)
            expected, oracle, kink = measured(oracles, inputs, name, directions[name], cotangents, scale)
            for form in forms:
                ours = float(terms[form].sum()) if form in terms else 0.0
                error = abs(ours - expected) / max(scale, abs(expected), 1e-6)
                allowed = max(tolerance, oracle.tolerance, FLOAT16 if half else 0.0)
                verdict: Verdict = "kink" if kink else "pass" if error <= allowed else "fail"  # NaN fails
                worst = ""
                if verdict == "fail" and form in terms and inputs[name].size <= FEW:
                    worst = _worst(oracles, inputs, name, found[form][name], cotangents, scale)
                told = (ours, expected, error, oracle.name, verdict, worst)
                comparisons.append(Comparison(_operators(model), name, seed, form, *told))
    return comparisons


def _worst(
    oracles: Sequence[Oracle],
    inputs: Arrays,
    name: str,
    found: Array,
    cotangents: Sequence[Array],
    scale: float,
) -> str:
    """The element whose derivative is furthest from what an oracle measures, in words."""
    gaps: list[tuple[float, str]] = []
    for place in np.ndindex(inputs[name].shape):
        unit = np.zeros(inputs[name].shape)
        unit[place] = 1
        expected, _, kink = measured(oracles, inputs, name, unit, cotangents, scale)
        gap = abs(float(found[place]) - expected)
        if not kink:
            words = f"{name}[{', '.join(map(str, place))}]: {float(found[place]):.7g}, not {expected:.7g}"
            gaps.append((np.inf if np.isnan(gap) else gap, words))
    return max(gaps, default=(0.0, ""))[1]


def assert_gradient(model: onnx.ModelProto, inputs: Arrays, **options: Any) -> list[Comparison]:
    """As `check_gradient`; fails, naming the operator, unless every comparison passes."""
    comparisons = check_gradient(model, inputs, **options)
    wrong = [c for c in comparisons if c.verdict != "pass"]
    assert not wrong, "\n".join(map(str, wrong))
    assert comparisons
    return comparisons


def assert_secant(
    model: onnx.ModelProto,
    inputs: Arrays,
    baselines: Arrays,
    *,
    tolerance: float = 2e-5,
    rules: RuleTable = VJP,
    prepare: Prepare = reference,
) -> None:
    """DeepLIFT between `inputs` and `baselines`, which hold the inputs that move; fails, naming the element, unless

    - for each of up to 16 elements of the first output the contributions sum to its change, in float64 by an oracle,
      to within `tolerance` of the sum of their magnitudes;
    - the multipliers of inputs that do not move are the gradient there.
    """
    shaped = onnx.shape_inference.infer_shapes(copy.deepcopy(model), data_prop=True)
    network = Network(shaped, "single", {x.name: None for x in model.graph.input}, inputs)
    target, names = model.graph.output[0].name, tuple(baselines)
    first = [z.name for z in model.graph.output if elem_type(z) in FLOATS].index(target)
    oracle = next(iter(oracles_of(model, inputs, prepare)))
    here, there = (oracle.evaluate({**inputs, **moved})[first] for moved in ({}, baselines))
    places = list(np.ndindex(here.shape))
    chosen = [places[k] for k in np.linspace(0, len(places) - 1, min(len(places), 16)).astype(int)]

    def results(multiply: bool, ends: Arrays) -> Iterable[tuple[str, Array, dict[str, Array]]]:
        program = deeplift_program(network, Choice(names, names, target), multiply=multiply, rules=rules)
        run = prepare(program.model)
        for place in chosen:
            weight = np.zeros(here.shape)
            weight[place] = 1
            feeds = {**inputs, **{f"baseline/{n}": a for n, a in ends.items()}, "target/weight": weight}
            found = dict(zip(program.outputs, run(fed(program.model, feeds)), strict=True))
            words = f"{_operators(model)}: {target}[{', '.join(map(str, place))}]"
            yield words, weight, {n: found[f"contribution/{n}"].astype(np.float64) for n in names}

    size = float(np.abs(here).max(initial=0) + np.abs(there).max(initial=0))
    for words, weight, parts in results(True, baselines):
        total, change = sum(float(p.sum()) for p in parts.values()), float(((here - there) * weight).sum())
        scale = max(sum(float(np.abs(p).sum()) for p in parts.values()), abs(change))
        assert abs(total - change) <= tolerance * scale + 1e-6 * size, (
            f"{words}: contributions sum to {total:.7g}, the change is {change:.7g}"
        )
    graph, fetched = gradient_model(model, names, rules)
    slope = prepare(graph)
    for words, weight, parts in results(False, {n: inputs[n] for n in names}):
        given = fed(graph, {**inputs, f"v/{target}": weight})
        gradients = dict(zip(fetched, slope(given), strict=True))
        for name, found in parts.items():
            wanted = gradients[name].astype(np.float64)
            gap = np.abs(found - wanted)
            at = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape)
            assert gap[at] <= 1e-4 * max(float(np.abs(wanted).max()), 1e-6), (
                f"{words}: the multiplier of {name}[{', '.join(map(str, at))}] is {found[at]:.7g} where nothing moves, "
                f"the gradient {wanted[at]:.7g}"
            )


def _operators(model: onnx.ModelProto) -> str:
    return ", ".join(dict.fromkeys(node.op_type for node in model.graph.node))
