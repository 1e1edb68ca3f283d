"""Checks rules of operators: gradients against finite differences, multipliers of DeepLIFT against what they sum to.

For a fixed random cotangent v and a random direction u, `<VJP(v), u>` must equal the derivative of `<v, f(x + t u)>`
at t = 0, which an oracle that shares no code with us measures: the ONNX reference evaluator in float64, else what
`prepare` makes of the model in float64, else of the model as it is.

`prepare` runs models, by default in the reference evaluator; a runtime does it as `Prepare` says.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, is_float, is_half
from onnx_attribution.graph_tools.ir.weights import whole
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.walk.differentiate import Rules, differentiate

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Evaluate = Callable[[Arrays], list[Array]]
Prepare = Callable[[onnx.ModelProto], Evaluate]
"""From a model to what runs it: from its inputs by name to its outputs, in order."""
Verdict = Literal["pass", "fail", "kink"]

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
NARROW = FLOATS[:3]
FLOAT32, FLOAT16, MEASURED = 1e-4, 2e-2, 2e-2
"""Tolerances, relative to the size of what is compared: our float32 graph against float64; a float16 graph, which
rounds every value to 3 digits; any graph against differences of float32 values over a step of 1e-2."""


ROUNDED = {"DynamicQuantizeLinear"}
"""Operators that the reference evaluator computes in float32, whatever it is given."""

FEW = 256
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
    names = list(wrt) if wrt is not None else [x.name for x in model.graph.input if _elem_type(x) in NARROW]
    outputs = [z.name for z in model.graph.output if _elem_type(z) in FLOATS]
    oracles = list(_oracles(model, inputs, prepare))
    if not oracles:
        raise AssertionError(f"no oracle runs the model of {_operators(model)}")
    graded = {form: gradient_model(_in_form(model, form, inputs, names), names, rules) for form in forms}
    runs = {form: prepare(graph) for form, (graph, fetched) in graded.items() if fetched}
    values = oracles[0].evaluate(inputs)
    half = any(_elem_type(x) in FLOATS[1:3] for x in model.graph.input)
    comparisons: list[Comparison] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        cotangents = [rng.standard_normal(value.shape) for value in values]
        directions = {name: rng.standard_normal(inputs[name].shape) for name in names}
        found: dict[str, dict[str, Array]] = {}
        feeds = {**inputs, **{f"v/{name}": v for name, v in zip(outputs, cotangents, strict=True)}}
        for form, (graph, fetched) in graded.items():
            made = runs[form](_fed(graph, feeds)) if fetched else ()
            found[form] = dict(zip(fetched, made, strict=True))
        for name in names:
            if not inputs[name].size:
                continue
            ends = {form: found[form][name].astype(np.float64) for form in forms if name in found[form]}
            terms = {form: end * directions[name] for form, end in ends.items()}
            scale = max([float(np.sqrt(np.sum(t**2))) for t in terms.values()], default=0.0)
            expected, oracle, kink = _measured(oracles, inputs, name, directions[name], cotangents, scale)
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
        expected, _, kink = _measured(oracles, inputs, name, unit, cotangents, scale)
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
    first = [z.name for z in model.graph.output if _elem_type(z) in FLOATS].index(target)
    oracle = next(iter(_oracles(model, inputs, prepare)))
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
            found = dict(zip(program.outputs, run(_fed(program.model, feeds)), strict=True))
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
        given = _fed(graph, {**inputs, f"v/{target}": weight})
        gradients = dict(zip(fetched, slope(given), strict=True))
        for name, found in parts.items():
            wanted = gradients[name].astype(np.float64)
            gap = np.abs(found - wanted)
            at = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape)
            assert gap[at] <= 1e-4 * max(float(np.abs(wanted).max()), 1e-6), (
                f"{words}: the multiplier of {name}[{', '.join(map(str, at))}] is {found[at]:.7g} where nothing moves, "
                f"the gradient {wanted[at]:.7g}"
            )


def gradient_model(
    model: onnx.ModelProto, wrt: Sequence[str], rules: RuleTable = VJP
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with its backward pass and the name of each gradient; no name where it is zero for every v.

    The cotangent of output `z` is the input `v/z`.
    """
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(copy.deepcopy(model), data_prop=True))
    op = Emitter(graph)
    seeds: dict[str, gs.Tensor] = {}
    for z in graph.outputs:
        if isinstance(z, gs.Variable) and is_float(z):
            seeds[z.name] = gs.Variable(f"v/{z.name}", dtype=z.dtype, shape=z.shape)
    graph.inputs.extend(seeds.values())
    found: dict[str, gs.Tensor] = {}
    try:
        found = differentiate(op, seeds, wrt, Rules(rules))
    except NotDifferentiable as error:
        if error.reason != Reason.ZERO_DERIVATIVE or len(wrt) > 1:
            raise
    graph.outputs = [op("Identity", value) for value in found.values()]
    names = {name: out.name for name, out in zip(found, graph.outputs, strict=True)}
    for name, out in zip(found, graph.outputs, strict=True):
        x = graph.tensors()[name]
        out.dtype = np.dtype(np.float32) if is_half(x) else x.dtype
    graph.cleanup(remove_unused_graph_inputs=True, recurse_subgraphs=False).toposort()
    exported = gs.export_onnx(graph)
    exported.ir_version = 10
    return exported, names


def _measured(
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


def _oracles(model: onnx.ModelProto, inputs: Arrays, prepare: Prepare) -> Iterable[Oracle]:
    """The oracles whose values at `inputs` are those of the model in its own types, the best first."""
    floats = [k for k, z in enumerate(model.graph.output) if _elem_type(z) in FLOATS]
    plain, wide = prepare(model), to_double(model)
    half = any(_elem_type(x) == onnx.TensorProto.FLOAT16 for x in model.graph.input)

    def declared(feeds: Arrays) -> list[Array]:
        results = plain(_fed(model, feeds))
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
                results = double(_fed(wide, {k: _double(v) for k, v in feeds.items()}))
                return [np.asarray(results[k]) for k in floats]

            if trusted(evaluate):
                yield Oracle(name, evaluate, 1e-5, 0.0)
    yield Oracle("runner as declared", declared, 1e-2, MEASURED)


def to_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every narrower float type replaced by double: declarations, weights, casts, attributes."""
    result = whole(model)
    del result.graph.value_info[:]
    _graph_to_double(result.graph)
    for function in result.functions:
        for node in function.node:
            _node_to_double(node)
    return result


def _graph_to_double(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in NARROW:
            info.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in graph.initializer:
        _tensor_to_double(tensor)
    for node in graph.node:
        _node_to_double(node)


def _node_to_double(node: onnx.NodeProto) -> None:
    if node.op_type in ("GroupNormalization", "LayerNormalization", "RMSNormalization"):
        for attribute in [a for a in node.attribute if a.name == "stash_type"]:
            node.attribute.remove(attribute)
        node.attribute.append(onnx.helper.make_attribute("stash_type", onnx.TensorProto.DOUBLE))
    if node.op_type == "ConstantOfShape" and not node.attribute:  # float32 by default
        zero = onnx.numpy_helper.from_array(np.zeros(1))
        node.attribute.append(onnx.helper.make_attribute("value", zero))
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in NARROW:
            attribute.i = onnx.TensorProto.DOUBLE
        elif attribute.type == onnx.AttributeProto.TENSOR:
            _tensor_to_double(attribute.t)
        elif attribute.type == onnx.AttributeProto.GRAPH:
            _graph_to_double(attribute.g)
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = onnx.numpy_helper.from_array(np.asarray(numbers, dtype=np.float64))
            attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _tensor_to_double(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in NARROW:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _in_form(model: onnx.ModelProto, form: str, inputs: Arrays, wrt: Sequence[str]) -> onnx.ModelProto:
    """The model with as much known of it as the form says; kernels, axes, sizes and the like have a known length."""
    result = copy.deepcopy(model)
    graph = result.graph
    kernels = {n for node in graph.node if node.op_type in ("Conv", "ConvTranspose") for n in node.input[1:]}
    if form != "free":
        held = {x.name for x in graph.initializer}
        for info in list(graph.input):
            if info.name not in wrt and info.type.HasField("tensor_type"):
                graph.input.remove(info)
                if info.name not in held:
                    graph.initializer.append(
                        onnx.numpy_helper.from_array(np.asarray(inputs[info.name]), info.name)
                    )
    for info in graph.input:
        dims = info.type.tensor_type.shape.dim
        if info.name in kernels or (len(dims) == 1 and _elem_type(info) not in FLOATS):
            continue
        for axis, dim in enumerate(dims):
            if form == "free" or (form == "batch" and axis == 0):
                dim.dim_param = f"{info.name}_{axis}"
    if form != "fixed":
        del graph.value_info[:]
        for info in graph.output:
            for dim in info.type.tensor_type.shape.dim:
                dim.Clear()
    return result


_NUMPY: dict[int, Any] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.FLOAT16: np.float16,
}


def _fed(model: onnx.ModelProto, feeds: Arrays) -> dict[str, Array]:
    """Those of the arrays that are inputs of the model, in the types that it declares."""
    kinds = {x.name: _elem_type(x) for x in model.graph.input}
    return {n: np.asarray(v).astype(_NUMPY.get(kinds[n], v.dtype)) for n, v in feeds.items() if n in kinds}


def _double(value: Array) -> Array:
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value


def _elem_type(info: onnx.ValueInfoProto) -> int:
    return int(info.type.tensor_type.elem_type)


def _operators(model: onnx.ModelProto) -> str:
    return ", ".join(dict.fromkeys(node.op_type for node in model.graph.node))
