"""Says whether a model file can be attributed: the program is built and run, and its gradient tested."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import AttributionError, ModelError, NotDifferentiable
from onnx_attribution.graph_tools import select
from onnx_attribution.graph_tools.differentiate import missing_rules
from onnx_attribution.graph_tools.load import load
from onnx_attribution.graph_tools.normalise import declared
from onnx_attribution.graph_tools.program import Choice, forward_program, rows_program
from onnx_attribution.server.backend import Backend
from onnx_attribution.server.loaded import LoadedModel
from onnx_attribution.values import Array, BatchMode

STEPS = (1e-1, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
TOLERANCE = 2e-2  # a difference in float32 over kinks; the conformance tests use float64 and 1e-4


@dataclass(frozen=True)
class Verdict:
    """What `check` found. `refused` lists node, operator, tensor and reason of everything that stands in the way."""

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
    backend.session(declared(load(path)))
    name = str(path)
    try:
        model = LoadedModel(path, backend, batch_axes, shapes, example)
    except ModelError as error:
        refusal = _refusal(f"no input was found on which the model runs: {error}")
        return Verdict(name, False, refused=[refusal], seconds=time.monotonic() - started)
    verdict = _judge(model, name)
    return Verdict(**{**vars(verdict), "seconds": round(time.monotonic() - started, 3)})


def _refusal(reason: str, node: str = "", operator: str = "", tensor: str = "") -> dict[str, str]:
    return {"node": node, "operator": operator, "tensor": tensor, "reason": reason}


def _judge(model: LoadedModel, name: str) -> Verdict:
    graph, notes = model.graph, list(model.network.notes)
    batch = model.network.batch
    outputs = select.float_outputs(graph)
    proposed = select.float_before_outputs(graph)
    targets = outputs or ([proposed] if proposed else [])
    if not targets:
        return Verdict(
            name, False, batch=batch, refused=[_refusal("no float tensor leads to an output")], notes=notes
        )
    if not outputs:
        notes.append(f"no output holds floats; the target is {targets[0]!r}")
    failure: NotDifferentiable | None = None
    for target in targets:
        try:
            sources = model.sources((), target)
        except NotDifferentiable as error:
            failure = failure or error
            continue
        return _tried(model, Choice(sources, sources, target), name, notes)
    assert failure is not None
    meta = failure.metadata
    refusal = _refusal(
        str(failure), meta.get("node", ""), meta.get("operator", ""), meta.get("tensor", targets[0])
    )
    return Verdict(
        name,
        False,
        target=targets[0],
        batch=batch,
        refused=[refusal, *_opaque(model, targets[0])],
        notes=notes,
    )


def _opaque(model: LoadedModel, target: str) -> list[dict[str, str]]:
    """Nodes before the target whose inputs or outputs are no tensors, or that have no rule."""
    nodes = list(model.graph.nodes)
    missing = missing_rules(nodes, [x.name for x in model.graph.inputs], target)
    return [
        _refusal("no gradient rule", node.name, _operator(node.op, node.domain), node.outputs[0].name)
        for node in missing
    ]


def _operator(operator: str, domain: str | None) -> str:
    return operator if domain in (None, "", "ai.onnx") else f"{domain}.{operator}"


def _tried(model: LoadedModel, choice: Choice, name: str, notes: list[str]) -> Verdict:
    """Builds the gradient program, runs it, and compares it with a difference."""
    batch, sources = model.network.batch, list(choice.sources)

    def refused(*refusals: dict[str, str]) -> Verdict:
        return Verdict(name, False, sources, choice.target, batch, list(refusals), notes)

    missing = missing_rules(list(model.graph.nodes), choice.sources, choice.target)
    if missing:
        return refused(
            *[
                _refusal("no gradient rule", node.name, _operator(node.op, node.domain), node.outputs[0].name)
                for node in missing
            ]
        )
    try:
        reason = gradient_disagrees(model, choice)
    except NotDifferentiable as error:
        meta = error.metadata
        return refused(
            _refusal(
                str(error), meta.get("node", ""), meta.get("operator", ""), meta.get("tensor", choice.target)
            )
        )
    except AttributionError as error:
        return refused(_refusal(f"the program does not run: {error}", tensor=choice.target))
    if reason:
        return refused(_refusal(reason, tensor=choice.target))
    return Verdict(name, True, sources, choice.target, batch, [], notes)


def gradient_disagrees(model: LoadedModel, choice: Choice, seed: int = 0) -> str:
    """Why the gradient at the sources is not believed, or "": not finite, or unlike the difference along itself."""
    rng = np.random.default_rng(seed)
    example = dict(model.network.example)
    hidden = [s for s in choice.sources if s not in model.network.input_axes]
    backend = model.backend
    at_x = backend.session(forward_program(model.network, [choice.target, *hidden]).model).run(example)
    named = {n: at_x.get(n, at_x.get(f"output/{n}")) for n in (choice.target, *hidden)}
    shape = named[choice.target].shape  # type: ignore[union-attr]
    weight = rng.normal(size=shape)
    inputs = {**example, **{n: named[n] for n in hidden}}
    program = rows_program(model.network, choice)
    kind = named[choice.target].dtype  # type: ignore[union-attr]
    found = backend.session(program.model).run({**inputs, "target_weight": weight.astype(kind)})  # type: ignore[dict-item]
    gradients = {n: found[f"gradient/{n}"].astype(np.float64) for n in choice.sources}
    if not all(np.isfinite(g).all() for g in gradients.values()):
        return "the gradient holds NaN or infinite numbers"
    length = float(np.sqrt(sum((g * g).sum() for g in gradients.values())))
    size = float(np.sqrt(np.mean([np.mean(np.square(inputs[n].astype(np.float64))) for n in gradients])))  # type: ignore[union-attr]
    direction = {n: g / length if length else rng.normal(size=g.shape) for n, g in gradients.items()}
    session = backend.session(forward_program(model.network, [choice.target], hidden).model)
    output = session.outputs[0]

    def at(step: float) -> NDArray[np.float64]:
        moved = {n: (inputs[n] + step * d).astype(inputs[n].dtype) for n, d in direction.items()}  # type: ignore[operator,union-attr]
        return np.asarray(session.run({**inputs, **moved})[output].astype(np.float64))  # type: ignore[dict-item]

    scale = max(size, 1e-3) * np.sqrt(sum(g.size for g in gradients.values())) if length else 1.0
    found_slopes: list[float] = []
    for step in STEPS:
        slope = float((weight * (at(step * scale) - at(-step * scale))).sum() / (2 * step * scale))
        found_slopes.append(slope)
        if abs(slope - length) <= TOLERANCE * max(length, 1e-12) or (not length and abs(slope) < 1e-6):
            return ""
    best = min(found_slopes, key=lambda s: abs(s - length))
    return f"along the gradient the outputs change by {best:.6g}, the gradient says {length:.6g}"


def names_of(paths: Sequence[str]) -> list[str]:
    """The paths as they will be printed."""
    return [str(Path(p)) for p in paths]
