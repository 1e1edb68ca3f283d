"""What is known of models and their layers, to messages and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from onnx_attribution import values as v
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import words

__all__ = ["from_layer", "from_model", "from_server", "to_layer", "to_model"]


def to_model(info: v.ModelInfo) -> pb.Model:
    return pb.Model(
        name=info.name,
        version=info.version,
        state=words.MODEL_STATES.number(info.state),
        reason=info.reason,
        digest=info.digest,
        opset=info.opset,
        batch_mode=words.BATCH_MODES.number(info.batch) if info.batch else None,
        sources=info.sources,
        inputs=map(_to_tensor_info, info.inputs),
        outputs=map(_to_tensor_info, info.outputs),
        load_seconds=info.load_seconds,
        description=info.description,
        class_names={name: pb.ClassNames(names=each) for name, each in info.class_names.items()},
        preprocessing={name: _to_preprocessing(each) for name, each in info.preprocessing.items()},
    )


def from_model(message: pb.Model) -> v.ModelInfo:
    return v.ModelInfo(
        name=message.name,
        version=message.version,
        state=words.MODEL_STATES.word(message.state),
        reason=message.reason,
        digest=message.digest,
        opset=message.opset,
        batch=words.BATCH_MODES.word(message.batch_mode) if message.batch_mode else None,
        sources=tuple(message.sources),
        inputs=tuple(map(_from_tensor_info, message.inputs)),
        outputs=tuple(map(_from_tensor_info, message.outputs)),
        load_seconds=message.load_seconds,
        description=message.description,
        class_names={name: tuple(each.names) for name, each in message.class_names.items()},
        preprocessing={name: _from_preprocessing(each) for name, each in message.preprocessing.items()},
    )


def from_server(message: pb.GetServerInfoResponse) -> v.ServerInfo:
    return v.ServerInfo(
        version=message.version,
        versions=dict(message.versions),
        provider=message.provider,
        threads=message.threads,
        devices=tuple(message.devices),
        limits=dict(message.limits),
        methods=tuple(message.methods),
        operators=tuple(message.operators),
        uploads=message.uploads,
        models=message.models,
        loaded_models=message.loaded_models,
    )


def to_layer(info: v.LayerInfo) -> pb.Layer:
    return pb.Layer(
        name=info.name,
        node=info.node,
        operator=info.operator,
        dtype=info.dtype,
        shape=_to_shape(info.shape),
        cut=info.cut,
        after=info.after,
        channel_axis=info.channel_axis,
    )


def from_layer(message: pb.Layer) -> v.LayerInfo:
    shape = _from_shape(message.shape) if message.HasField("shape") else None
    axis = message.channel_axis if message.HasField("channel_axis") else None
    return v.LayerInfo(
        message.name,
        message.node,
        message.operator,
        message.dtype,
        shape,
        message.cut,
        tuple(message.after),
        axis,
    )


def _to_preprocessing(given: v.Preprocessing) -> pb.Preprocessing:
    return pb.Preprocessing(
        kind=given.kind,
        size=given.size or (),
        scale=given.scale,
        mean=given.mean,
        std=given.std,
        layout=given.layout or "",
        colours=given.colours or "",
    )


def _from_preprocessing(message: pb.Preprocessing) -> v.Preprocessing:
    """A word that is not known, of a newer server, is kept: whoever reads it will say so."""
    size = (message.size[0], message.size[1]) if len(message.size) == 2 else None
    return v.Preprocessing(
        cast(v.Held, message.kind),
        size,
        message.scale or 1.0,
        tuple(message.mean),
        tuple(message.std),
        cast(v.Order, message.layout) if message.layout else None,
        cast(v.Colours, message.colours) if message.colours else None,
    )


def _to_tensor_info(info: v.TensorInfo) -> pb.TensorInfo:
    return pb.TensorInfo(
        name=info.name, dtype=info.dtype, shape=_to_shape(info.shape), batch_axis=info.batch_axis
    )


def _from_tensor_info(message: pb.TensorInfo) -> v.TensorInfo:
    shape = _from_shape(message.shape) if message.HasField("shape") else None
    axis = message.batch_axis if message.HasField("batch_axis") else None
    return v.TensorInfo(message.name, message.dtype, shape, axis)


def _to_shape(shape: Sequence[int | str | None] | None) -> pb.Shape | None:
    if shape is None:
        return None
    return pb.Shape(
        dimensions=[
            pb.Dimension(symbol=size) if isinstance(size, str) else pb.Dimension(size=size) for size in shape
        ]
    )


def _from_shape(message: pb.Shape) -> tuple[int | str | None, ...]:
    kinds = [(one, one.WhichOneof("kind")) for one in message.dimensions]
    return tuple(one.size if kind == "size" else one.symbol if kind else None for one, kind in kinds)
