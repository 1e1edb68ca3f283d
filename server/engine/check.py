"""Says whether a model file can be attributed: the program is built and run, and its gradient tested."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_attribution.errors import AttributionError, ModelError, NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import is_float
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.normalise.noise import DRAWING, drawing_before
from onnx_attribution.graph_tools.normalise.plain_form import declared
from onnx_attribution.graph_tools.operators import ZERO_DERIVATIVE
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.read.example_inputs import compared
from onnx_attribution.graph_tools.read.load import load
from onnx_attribution.graph_tools.select.logits import logit_of
from onnx_attribution.graph_tools.select.targets import float_before_outputs, float_outputs
from onnx_attribution.graph_tools.walk.differentiate import missing_rules
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel, rows_key
from onnx_attribution.server.engine.recipe import without_derivatives
from onnx_attribution.values import Array, BatchMode

STEPS = (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
PAIRS = sorted(pairwise(STEPS), key=lambda pair: abs(math.log(pair[0] / 3e-4)))  # the likeliest first
TRIES = 5
FEW = 8
TOLERANCE = 2e-2  # a difference in float32 over kinks; the conformance tests use float64 and 1e-4
HALF_TOLERANCE = 1e-1  # eleven bits
ROUNDINGS = 4  # roundings that a zero may be off by


@dataclass(frozen=True)
class Verdict:
    """What `check` found. `refused` lists everything that stands in the way: node, operator and tensor, the reason as a
    sentence, and its `word`, a Reason."""

    file: str
    attributable: bool
    sources: list[str] = field(default_factory=list)
    target: str | None = None
    batch: BatchMode | None = None
    refused: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def check_file(
    path: str | PathLike[str],
    backend: Backend | None = None,
    *,
    batch_axes: Mapping[str, int | None] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    example: Mapping[str, Array] | None = None,
) -> Verdict:
    """The verdict on one file.

    Raises:
        ModelError: the file cannot be read, or onnxruntime does not accept it.
    """
    started = time.monotonic()
    backend = backend or Backend()
    name = str(path)
    try:
        model = LoadedModel(path, backend, batch_axes, shapes, example)
    except ModelError as error:
        # No runtime has the operator, and nothing is computed before it; or the file beside the model is at fault.
        if "operator" in error.metadata or error.reason == Reason.CARD_INVALID:
            raise
        weights = Weights()
        plain = declared(load(path, weights))
        backend.session(plain)  # a file that onnxruntime does not accept is no verdict
        why = f"no input was found on which the model runs: {error}"
        found = _readers(plain, why) or [_refusal(Reason.NOT_RUNNABLE, why)]
        return Verdict(name, False, refused=found, seconds=time.monotonic() - started)
    verdict = _judge(model, name)
    if not verdict.attributable:
        verdict.notes.append(
            f"the method {without_derivatives()} needs no derivative: it answers for this model"
        )
    return Verdict(**{**vars(verdict), "seconds": round(time.monotonic() - started, 3)})


def _refusal(word: Reason, why: str, node: str = "", operator: str = "", tensor: str = "") -> dict[str, str]:
    return {"node": node, "operator": operator, "tensor": tensor, "reason": why, "word": word.value}


def _refused(error: NotDifferentiable, target: str) -> dict[str, str]:
    meta = error.metadata
    return _refusal(
        error.reason, str(error), meta.get("node", ""), meta.get("operator", ""), meta.get("tensor", target)
    )


def _without_rule(nodes: Sequence[gs.Node]) -> list[dict[str, str]]:
    return [
        _refusal(
            Reason.NO_RULE,
            "no gradient rule",
            node.name,
            _operator(node.op, node.domain),
            node.outputs[0].name,
        )
        for node in nodes
    ]


def _readers(model: onnx.ModelProto, why: str) -> list[dict[str, str]]:
    """The nodes that read inputs which are no tensors."""
    others = {x.name for x in model.graph.input if not x.type.HasField("tensor_type")}
    nodes = [(node, x) for node in model.graph.node for x in node.input if x in others]
    return [
        _refusal(Reason.NOT_RUNNABLE, why, node.name, _operator(node.op_type, node.domain), x)
        for node, x in nodes
    ]


def _dead_ends(model: LoadedModel) -> list[dict[str, str]]:
    """The nodes that make the outputs of a model in which no float tensor leads to one."""
    names = {z.name for z in model.graph.outputs}
    found = []
    for node in model.graph.nodes:
        for z in node.outputs:
            if z.name in names:
                zero = ZERO_DERIVATIVE.get((node.domain or "", node.op), "")
                word = Reason.ZERO_DERIVATIVE if zero else Reason.NOT_FLOAT
                why = f"no float tensor leads to an output: {node.op} {zero or 'its output holds no floats'}"
                found.append(_refusal(word, why, node.name, _operator(node.op, node.domain), z.name))
    return found


def _judge(model: LoadedModel, name: str) -> Verdict:
    graph, notes = model.graph, [*model.network.notes, *_compared(model)]
    batch = model.network.batch
    outputs = float_outputs(graph)
    proposed = float_before_outputs(graph)
    targets = outputs or ([proposed] if proposed else [])
    if not targets:
        return Verdict(name, False, batch=batch, refused=_dead_ends(model), notes=notes)
    if not outputs:
        notes.append(f"no output holds floats; the target is {targets[0]!r}")
    failure: NotDifferentiable | None = None
    for target in targets:
        try:
            sources = model.sources((), target)
        except NotDifferentiable as error:
            failure = failure or error
            continue
        drawn = _drawn(model, target)
        if drawn:
            notes.append(
                f"{model.randomness(target, {})}; here {', '.join(map(repr, drawn))} stay as they are"
            )
        return _tried(model, Choice((*sources, *drawn), (*sources, *drawn), target), name, notes)
    assert failure is not None
    return Verdict(
        name,
        False,
        target=targets[0],
        batch=batch,
        refused=[_refused(failure, targets[0]), *_opaque(model, targets[0])],
        notes=notes,
    )


def _drawn(model: LoadedModel, target: str) -> list[str]:
    """What is drawn before the target: held as it is, so that differences say something."""
    nodes = [node for node in drawing_before(model.nodes, target) if node.op in DRAWING]
    return [z.name for node in nodes for z in node.outputs if is_float(z)]


def _compared(model: LoadedModel) -> list[str]:
    """What was put where the file asks for one of a few numbers."""
    return [
        f"input {name!r} is {value}, a number that the file compares it with"
        for name, value in compared(model.network.model).items()
        if model.network.example[name].item() == value
    ]


def _opaque(model: LoadedModel, target: str) -> list[dict[str, str]]:
    """Nodes before the target whose inputs or outputs are no tensors, or that have no rule."""
    nodes = model.nodes
    return _without_rule(missing_rules(nodes, [x.name for x in model.graph.inputs], target))


def _operator(operator: str, domain: str | None) -> str:
    return operator if domain in (None, "", "ai.onnx") else f"{domain}.{operator}"


def _tried(model: LoadedModel, choice: Choice, name: str, notes: list[str]) -> Verdict:
    """Builds the gradient program, runs it, and compares it with a difference."""
    drawn = _drawn(model, choice.target)
    batch, sources = model.network.batch, [s for s in choice.sources if s not in drawn]

    def refused(*refusals: dict[str, str]) -> Verdict:
        return Verdict(name, False, sources, choice.target, batch, list(refusals), notes)

    missing = missing_rules(model.nodes, choice.sources, choice.target)
    if missing:
        return refused(*_without_rule(missing))
    found: list[tuple[Reason, str] | None] = []
    try:
        for seed in range(TRIES):  # a difference over a kink says nothing; a wrong rule is wrong everywhere
            found.append(gradient_disagrees(model, choice, seed))
            if found[-1] is None:
                break
        doubt = found[0] if all(found) else None
    except NotDifferentiable as error:
        return refused(_refused(error, choice.target))
    except AttributionError as error:
        return refused(
            _refusal(Reason.NOT_RUNNABLE, f"the program does not run: {error}", tensor=choice.target)
        )
    if rounding := model.rounding(choice.sources, choice.target):
        notes.append(f"{rounding}; {_completeness(model, choice)}")
        if doubt and doubt[0] != Reason.NOT_FINITE:  # a staircase has no derivative to differ from
            notes.append(doubt[1])
            doubt = None
    if doubt:
        return refused(_refusal(*doubt, tensor=choice.target))
    return Verdict(name, True, sources, choice.target, batch, [], notes)


def gradient_disagrees(model: LoadedModel, choice: Choice, seed: int = 0) -> tuple[Reason, str] | None:
    """Why the gradient at the sources is not believed, if so: not finite, or unlike the difference along itself.

    It is believed where the differences over two neighbouring steps agree with it. One alone may do so by chance, on
    its way from the slope at x to that over a long step.
    """
    rng = np.random.default_rng(seed)
    example = {n: _redrawn(a, seed, rng) for n, a in model.network.example.items()}
    hidden = [s for s in choice.sources if s not in model.network.input_axes]
    at_x = forward(model, example, [choice.target, *hidden])
    kind = at_x[choice.target].dtype
    finite = np.isfinite(at_x[choice.target].astype(np.float64))
    if not finite.any():
        why = "the target is NaN or infinite at the inputs that were drawn; only inputs of its own kind can tell"
        return Reason.NOT_FINITE, why
    weight = np.where(
        finite, _cotangent(at_x[choice.target].shape, seed, rng), 0
    )  # scores of a mask are -inf
    inputs: dict[str, Any] = {**example, **{n: at_x[n] for n in hidden}}
    session = model.session(rows_key(choice), lambda: rows_program(model.network, choice))

    def gradients_at(point: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
        found = session.run({**point, "target/weight": weight.astype(kind)})
        return {n: found[f"gradient/{n}"].astype(np.float64) for n in choice.sources}

    gradients = gradients_at(inputs)
    if not all(np.isfinite(g).all() for g in gradients.values()):
        return Reason.NOT_FINITE, "the gradient holds NaN or infinite numbers"
    # along the gradient the change is largest; by its signs it is spread evenly, where a few elements are steep
    moves = {n: np.sign(g) if seed % 2 else g for n, g in gradients.items()}
    norm = float(np.sqrt(sum((d * d).sum() for d in moves.values())))
    direction = {n: d / norm if norm else rng.normal(size=d.shape) for n, d in moves.items()}
    expected = float(sum((gradients[n] * direction[n]).sum() for n in gradients))
    size = float(np.sqrt(np.mean([np.mean(np.square(inputs[n].astype(np.float64))) for n in gradients])))
    scale = max(size, 1e-3) * np.sqrt(sum(g.size for g in gradients.values())) if norm else 1.0
    tolerance = (TOLERANCE if kind.itemsize >= 4 else HALF_TOLERANCE) * max(expected, 1e-12)

    def at(distance: float) -> tuple[float, float]:
        """The target, and what the gradient says of it, for the inputs as rounding leaves them."""
        moved = {n: (inputs[n] + distance * d).astype(inputs[n].dtype) for n, d in direction.items()}
        found = forward(model, {**inputs, **moved}, [choice.target], hidden)[choice.target]
        said = sum(float((gradients[n] * (moved[n].astype(np.float64) - inputs[n])).sum()) for n in moved)
        return float(weight[finite] @ found.astype(np.float64)[finite]), said

    @functools.cache
    def slope(step: float) -> float:
        h = step * scale
        (high, said_high), (low, said_low) = at(h), at(-h)
        return expected + (high - low - said_high + said_low) / (2 * h)

    if any(all(abs(slope(step) - expected) <= tolerance for step in pair) for pair in PAIRS):
        return None
    floor = _floor(model, choice, at_x[choice.target], weight, scale)
    eps = float(ml_dtypes.finfo(kind).eps)  # type: ignore[no-untyped-call]
    nudged = {
        n: (inputs[n] * (1 + eps * rng.choice([-1, 1], inputs[n].shape))).astype(inputs[n].dtype)
        for n in gradients
    }
    other = gradients_at({**inputs, **nudged})
    floor = max(
        floor, ROUNDINGS * float(np.sqrt(sum(np.square(gradients[n] - other[n]).sum() for n in other)))
    )
    if expected <= floor and any(all(abs(slope(step)) <= floor for step in pair) for pair in PAIRS):
        return None  # a zero, as far as the type can tell: the gradient is what rounding leaves of it
    best = min((slope(step) for step in STEPS), key=lambda found: abs(found - expected))
    why = f"along a direction the outputs change by {best:.6g}, the gradient says {expected:.6g}"
    return Reason.NOT_CONFIRMED, why


def _floor(
    model: LoadedModel, choice: Choice, value: Array, weight: NDArray[np.float64], scale: float
) -> float:
    """The slope below which the type cannot tell one from zero: over the whole input it moves the target by rounding.

    What a Softmax or a Sigmoid makes is rounded as numbers up to 1 are, however small it is.
    """
    size = np.abs(value.astype(np.float64))
    if logit_of(model.graph, choice.target) is not None:
        size = np.maximum(size, 1)
    eps = float(ml_dtypes.finfo(value.dtype).eps)  # type: ignore[no-untyped-call]
    return ROUNDINGS * eps * float((np.abs(weight) * size).sum()) / scale


def _completeness(model: LoadedModel, choice: Choice) -> str:
    """How far DeepLIFT's contributions from half the example to all of it are from the change of the target."""
    example: dict[str, Any] = dict(model.network.example)
    hidden = [s for s in choice.sources if s not in model.network.input_axes]
    at_x = forward(model, example, [choice.target, *hidden])
    inputs = {**example, **{n: at_x[n] for n in hidden}}
    weight = _cotangent(at_x[choice.target].shape, 0, np.random.default_rng(0))
    inputs["target/weight"] = weight.astype(at_x[choice.target].dtype)
    inputs |= {f"baseline/{n}": (inputs[n] * 0.5).astype(inputs[n].dtype) for n in choice.sources}
    try:
        session = model.session(("deeplift", choice), lambda: deeplift_program(model.network, choice))
        found: dict[str, Any] = {k: v.astype(np.float64) for k, v in session.run(inputs).items()}
    except AttributionError as error:
        return f"DeepLIFT is not possible: {error}"
    parts = [found[f"contribution/{n}"] for n in choice.sources]
    change = float((found["target/value"] - found["target/baseline"]).sum())
    rest = abs(sum(float(c.sum()) for c in parts) - change) / max(sum(np.abs(c).sum() for c in parts), 1e-300)
    return f"DeepLIFT sums to the change of the target up to {rest:.1g}"


def _cotangent(shape: tuple[int, ...], seed: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random numbers everywhere at first, then at a few elements only: fewer kinks, less rounding."""
    weight = rng.normal(size=shape)
    if seed and weight.size > FEW:
        kept = np.zeros(weight.size)
        kept[rng.choice(weight.size, FEW, replace=False)] = 1
        weight *= kept.reshape(shape)
    return weight


def _redrawn(array: Array, seed: int, rng: np.random.Generator) -> Array:
    """The example itself at first, then other floats of its size."""
    if not seed or array.dtype.kind != "f" or array.ndim == 0:
        return array
    size = max(float(np.std(array.astype(np.float64))), 1e-3) * 10.0 ** -((seed - 1) // 2)
    return (rng.normal(size=array.shape) * size).astype(array.dtype)
