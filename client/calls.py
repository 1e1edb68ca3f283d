"""The calls of one answer, or of a list in pages: what is sent, and what is made of the answer, for both clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Generic, TypeVar

from numpy.typing import ArrayLike

from onnx_attribution.client import messages
from onnx_attribution.client.messages import STREAM_SECONDS, UNARY_SECONDS
from onnx_attribution.interventions import Intervened, Intervention
from onnx_attribution.methods import MethodInfo
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import catalog, method_messages
from onnx_attribution.proto.interventions import from_answer
from onnx_attribution.values import Array, LayerInfo, ModelInfo, Selection, ServerInfo, Target

Answer = TypeVar("Answer")
PREDICTION = "Prediction"
"""In place of a service: `Prediction`."""


class Prediction:
    """A stub for Predict alone, with the bytes of messages."""

    def __init__(self, channel: Any) -> None:
        self.Predict = channel.unary_unary(f"/{pb.DESCRIPTOR.package}.AttributionService/Predict")


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A call by its service and name, with its message and the time that it has by default."""

    service: str
    name: str
    message: Any
    read: Callable[[Any], Answer]
    seconds: float = UNARY_SECONDS
    model: str = ""
    """The model that it is about, if it is about one that is served already."""


@dataclass(frozen=True)
class Listing(Generic[Answer]):
    """A call whose answer is a page with such a field; `read` is for each entry."""

    service: str
    name: str
    message: Any
    field: str
    read: Callable[[Any], Answer]


def predict(model: str, inputs: Mapping[str, ArrayLike], outputs: Sequence[str]) -> Call[dict[str, Array]]:
    message = messages.to_predict(model, inputs, outputs)
    return Call(PREDICTION, "Predict", message, messages.from_prediction, model=model)


def intervene(
    model: str,
    inputs: Mapping[str, ArrayLike],
    interventions: Intervention | Sequence[Intervention],
    target: Target | Selection,
    outputs: Sequence[str],
    donors: Mapping[str, ArrayLike] | None,
) -> Call[Intervened]:
    message = messages.to_intervene(model, inputs, interventions, target, outputs, donors)
    return Call("AttributionService", "Intervene", message, from_answer, STREAM_SECONDS, model)


def models() -> Listing[ModelInfo]:
    return Listing("ModelService", "ListModels", pb.ListModelsRequest(), "models", catalog.from_model)


def model(name: str) -> Call[ModelInfo]:
    return Call("ModelService", "GetModel", pb.GetModelRequest(model=name), _model, model=name)


def layers(name: str, pattern: str, target: str) -> Listing[LayerInfo]:
    message = pb.ListLayersRequest(model=name, filter=pattern, target=target)
    return Listing("ModelService", "ListLayers", message, "layers", catalog.from_layer)


def load(name: str) -> Call[ModelInfo]:
    return Call("ModelService", "LoadModel", pb.LoadModelRequest(model=name), _model, STREAM_SECONDS)


def unload(name: str) -> Call[None]:
    message = pb.UnloadModelRequest(model=name)
    return Call("ModelService", "UnloadModel", message, lambda _: None, STREAM_SECONDS)


def upload(name: str, file: str | PathLike[str], version: int) -> Call[ModelInfo]:
    parts = messages.to_upload(name, file, version)
    return Call("ModelService", "UploadModel", parts, _model, STREAM_SECONDS)


def server() -> Call[ServerInfo]:
    return Call("ServerService", "GetServerInfo", pb.GetServerInfoRequest(), catalog.from_server)


def methods() -> Listing[MethodInfo]:
    message = pb.ListMethodsRequest()
    return Listing("AttributionService", "ListMethods", message, "methods", method_messages.from_info)


def _model(found: Any) -> ModelInfo:
    return catalog.from_model(found.model)
