"""Events of a stream to messages and back. A revision's arrays travel in chunks after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_attribution import values as v
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import tensors, words
from onnx_attribution.supports import Box, Edge, LayerSupport, Support, Unit
from onnx_attribution.values import Array

Floats = NDArray[np.float64]

__all__ = [
    "from_accepted",
    "from_event",
    "from_resolved",
    "from_summary",
    "to_accepted",
    "to_event",
    "to_resolved",
    "to_summary",
]


def to_event(event: v.Event) -> pb.StreamAttributeResponse:
    """The message of an event; a revision without its arrays."""
    match event:
        case v.Accepted():
            return pb.StreamAttributeResponse(accepted=to_accepted(event))
        case v.Progress():
            progress = pb.Progress(done=event.done, planned=event.planned, seconds=event.seconds)
            return pb.StreamAttributeResponse(progress=progress)
        case v.Revision():
            revision = pb.Revision(number=event.number, summary=to_summary(event.attribution))
            return pb.StreamAttributeResponse(revision=revision)
        case v.Completed():
            reason = words.STOP_REASONS.number(event.stop_reason)
            return pb.StreamAttributeResponse(
                completed=pb.Completed(stop_reason=reason, best_revision=event.best_revision)
            )


def from_event(message: pb.StreamAttributeResponse) -> v.Accepted | v.Progress | v.Completed | None:
    """The event of a message that is complete in itself: None for a revision, a chunk or an unknown event."""
    match message.WhichOneof("event"):
        case "accepted":
            return from_accepted(message.accepted)
        case "progress":
            return v.Progress(message.progress.done, message.progress.planned, message.progress.seconds)
        case "completed":
            completed = message.completed
            return v.Completed(words.STOP_REASONS.word(completed.stop_reason), completed.best_revision)
    return None


def to_accepted(event: v.Accepted) -> pb.Accepted:
    return pb.Accepted(
        request_id=event.request_id,
        digest=event.digest,
        batch_mode=words.BATCH_MODES.number(event.batch),
        target_tensor=event.target_tensor,
        layers=event.layers,
        planned_evaluations=event.planned_evaluations,
    )


def from_accepted(message: pb.Accepted) -> v.Accepted:
    return v.Accepted(
        request_id=message.request_id,
        digest=message.digest,
        batch=words.BATCH_MODES.word(message.batch_mode),
        target_tensor=message.target_tensor,
        layers=tuple(message.layers),
        planned_evaluations=message.planned_evaluations,
    )


def to_summary(attribution: v.Attribution) -> pb.AttributionSummary:
    """Everything but the arrays."""
    targets = [to_resolved(target) for target in attribution.targets]
    flow = attribution.flow
    return pb.AttributionSummary(
        method=attribution.method,
        batch_mode=words.BATCH_MODES.number(attribution.batch),
        target=None if attribution.several else targets[0],
        targets=targets if attribution.several else (),
        layers=[
            pb.LayerSummary(
                name=layer.name,
                datatype=tensors.datatype(layer.values),
                shape=layer.values.shape,
                cut=layer.cut,
                sums=_floats(layer.sum),
                residuals=_floats(layer.residual),
                error_estimates=_floats(layer.error_estimate),
                spreads=_floats(layer.spread),
                shares=() if flow is None else _floats(flow.layers[name].share),
            )
            for name, layer in attribution.layers.items()
        ],
        evaluations=attribution.evaluations,
        steps=attribution.steps,
        seconds=attribution.seconds,
        digest=attribution.digest,
        provider=attribution.provider,
        warnings=attribution.warnings,
        joint_residuals=() if attribution.joint_residual is None else _floats(attribution.joint_residual),
        cut_sets=[
            pb.CutSet(layers=names, residuals=_floats(residual))
            for names, residual in (zip(flow.cut_sets, flow.residuals, strict=True) if flow else ())
        ],
        supports=map(_to_support, attribution.supports),
    )


def from_summary(message: pb.AttributionSummary, arrays: Sequence[Array]) -> v.Attribution:
    """An attribution from its summary and the arrays of its layers, in the summary's order."""
    several = len(message.targets)

    def numbers(flat: Sequence[float]) -> Floats:
        array = np.array(flat, np.float64)
        return array.reshape(several, -1) if several else array

    return v.Attribution(
        method=message.method,
        batch=words.BATCH_MODES.word(message.batch_mode),
        targets=tuple(map(from_resolved, message.targets or [message.target])),
        layers={
            layer.name: v.LayerAttribution(
                name=layer.name,
                values=array,
                sum=numbers(layer.sums),
                residual=numbers(layer.residuals),
                error_estimate=numbers(layer.error_estimates),
                cut=layer.cut,
                spread=numbers(layer.spreads or [np.nan] * len(layer.sums)),
            )
            for layer, array in zip(message.layers, arrays, strict=True)
        },
        evaluations=message.evaluations,
        steps=message.steps,
        seconds=message.seconds,
        digest=message.digest,
        provider=message.provider,
        warnings=tuple(message.warnings),
        joint_residual=numbers(message.joint_residuals) if message.joint_residuals else None,
        several=bool(several),
        flow=_flow(message, numbers),
        supports=tuple(map(_from_support, message.supports)),
    )


def _flow(message: pb.AttributionSummary, numbers: Callable[[Sequence[float]], Floats]) -> v.Flow | None:
    if not message.layers or not message.layers[0].shares:
        return None
    return v.Flow(
        {one.name: v.LayerFlow(numbers(one.sums), numbers(one.shares), one.cut) for one in message.layers},
        tuple(tuple(one.layers) for one in message.cut_sets),
        tuple(numbers(one.residuals) for one in message.cut_sets),
    )


def _to_support(support: Support) -> pb.Support:
    return pb.Support(
        layers=[
            pb.LayerSupport(
                layer=name,
                kept=one.kept,
                units=one.units,
                mass=one.mass,
                positions=one.positions,
                parts=one.parts,
                boxes=[pb.SupportBox(**box._asdict()) for box in one.boxes],
                top=[pb.SupportUnit(**unit._asdict()) for unit in one.top],
            )
            for name, one in support.layers.items()
        ],
        edges=[pb.FlowEdge(**edge._asdict()) for edge in support.edges],
    )


def _from_support(message: pb.Support) -> Support:
    return Support(
        {
            one.layer: LayerSupport(
                one.kept,
                one.units,
                one.mass,
                tuple(one.positions),
                one.parts,
                tuple(Box(b.top, b.left, b.bottom, b.right, b.size, b.mass) for b in one.boxes),
                tuple(Unit(tuple(u.unit), u.share) for u in one.top),
            )
            for one in message.layers
        },
        tuple(Edge(e.layer, tuple(e.unit), e.to_layer, tuple(e.to_unit), e.share) for e in message.edges),
    )


def to_resolved(target: v.ResolvedTarget) -> pb.ResolvedTarget:
    return pb.ResolvedTarget(
        tensor=target.tensor,
        indices=target.index,
        values=_floats(target.value),
        baseline_values=_floats(target.baseline_value),
        labels=target.labels,
    )


def from_resolved(message: pb.ResolvedTarget) -> v.ResolvedTarget:
    values, baselines = (np.array(part, np.float64) for part in (message.values, message.baseline_values))
    return v.ResolvedTarget(message.tensor, tuple(message.indices), values, baselines, tuple(message.labels))


def _floats(array: Array) -> list[float]:
    return np.asarray(array, np.float64).ravel().tolist()
