"""The Open Inference Protocol: the clients that speak it run models, on the same threads, within the same limits.

Its messages are registered under the names of the public protocol, so this module cannot be in one process with
tritonclient.grpc or kserve, as these two cannot be either.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from onnx_attribution import __version__
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import open_inference_pb2 as oip
from onnx_attribution.proto import open_inference_pb2_grpc as rpc
from onnx_attribution.proto import tensors
from onnx_attribution.proto.requests import Violations
from onnx_attribution.server.service.attribution import Engine
from onnx_attribution.server.service.limits import Limits
from onnx_attribution.server.service.threads import Work
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Array, ModelInfo, TensorInfo

__all__ = ["EXTENSIONS", "PLATFORM", "SERVER", "InferenceService", "reference", "refuse_parameters"]

SERVER, PLATFORM = "onnx-attribution", "onnx_onnxv1"
EXTENSIONS = ("binary_tensor_data",)
NUMPY_WORDS = {dtype.name: word for word, dtype in tensors.DATATYPES.items()} | {
    "bfloat16": "BF16",
    "string": "BYTES",
}
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
REFUSED = {
    "shared_memory_region": "there is no shared memory with this server; send the values in the message",
    "classification": "classes are not ranked here; ask for the output itself",
}
"""Parameters that ask for another answer than the one that would be given."""


class InferenceService(rpc.GRPCInferenceServiceServicer):
    """ServerLive to ModelInfer over an engine."""

    def __init__(self, engine: Engine, work: Work, settings: Settings) -> None:
        self.is_ready: Callable[[], bool] = lambda: True
        """Whether the server takes more calls, as far as it is not draining."""
        self._engine, self._work, self._settings = engine, work, settings
        self._limits = Limits(engine, settings)
        self._run = functools.partial(work.run, seconds=settings.unary_seconds, compute=False)

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Any) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Any) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=self.is_ready() and not self._work.draining.is_set())

    async def ServerMetadata(
        self, request: oip.ServerMetadataRequest, context: Any
    ) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name=SERVER, version=__version__, extensions=EXTENSIONS)

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Any) -> oip.ModelReadyResponse:
        """A model that is not loaded yet is ready: it is loaded by its first use."""
        found = [info for info in await self._run(self._engine.models) if info.name == request.name]
        states = {str(info.version): info.state for info in found}
        latest = str(max((info.version for info in found), default=""))
        return oip.ModelReadyResponse(ready=states.get(request.version or latest, "FAILED") != "FAILED")

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, context: Any
    ) -> oip.ModelMetadataResponse:
        def found() -> tuple[ModelInfo, list[int]]:
            info = self._engine.info(reference(request.name, request.version))
            return info, [one.version for one in self._engine.models() if one.name == info.name]

        info, versions = await self._run(found)
        return oip.ModelMetadataResponse(
            name=request.name,
            versions=map(str, sorted(versions)),
            platform=PLATFORM,
            inputs=map(_described, info.inputs),
            outputs=[
                _described(one) for one in info.outputs if one.shape is not None
            ],  # the others are no tensors
        )

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:
        def infer() -> oip.ModelInferResponse:
            inputs = _arrays(request)
            asked = [output.name for output in request.outputs]
            info = self._engine.info(reference(request.model_name, request.model_version))
            model = reference(info.name, str(info.version))  # the version that the answer names
            self._limits.samples(model, inputs)
            found = self._engine.predict(model, inputs, asked)
            self._limits.bytes(found.values(), "ask for fewer samples or outputs")
            # A tensor is called here as in the request, which may have named its node.
            names = asked if len(asked) == len(found) else list(found)
            named = list(zip(names, found.values(), strict=True))
            return oip.ModelInferResponse(
                model_name=request.model_name,
                model_version=str(info.version),
                id=request.id,
                outputs=[_headed(name, array) for name, array in named],
                raw_output_contents=[tensors.to_bytes(array, name=name) for name, array in named],
            )

        with self._work.admit():
            return await self._work.run(infer, self._limits.seconds(context, self._settings.unary_seconds))


def reference(name: str, version: str = "") -> str:
    """A model by the name that the engine takes. Raises: InvalidArgument, if there is no name."""
    if not name:
        raise InvalidArgument(
            "a model name is required", violations={"model_name": "a model name is required"}
        )
    return f"models/{name.removeprefix('models/')}" + (f"/versions/{version}" if version else "")


def refuse_parameters(place: str, parameters: Iterable[str]) -> None:
    """Raises: InvalidArgument for a parameter that asks for what is not done here."""
    for name in parameters:
        if name in REFUSED:
            raise InvalidArgument(f"{place}: {name}: {REFUSED[name]}")


def word(dtype: str) -> str:
    """The protocol's word for an element type of a model; for one that it has no word for, its own in capitals."""
    return NUMPY_WORDS.get(dtype) or dtype.upper()


def _described(info: TensorInfo) -> oip.ModelMetadataResponse.TensorMetadata:
    shape = [-1] if info.shape is None else [d if isinstance(d, int) else -1 for d in info.shape]
    return oip.ModelMetadataResponse.TensorMetadata(name=info.name, datatype=word(info.dtype), shape=shape)


def _headed(name: str, array: Array) -> oip.ModelInferResponse.InferOutputTensor:
    datatype = tensors.datatype(array, name=name)
    return oip.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=array.shape)


def _arrays(request: oip.ModelInferRequest) -> Mapping[str, Array]:
    """The inputs by name. Raises: InvalidArgument with everything that is wrong with them."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; give one for each"
        )
    found, arrays = Violations(), dict[str, Array]()
    for k, one in enumerate(request.inputs):
        with found.at(f"inputs.{one.name or k}"):
            refuse_parameters(f"input {one.name!r}", one.parameters)
            if one.name in arrays:
                raise InvalidArgument(
                    f"{one.name!r} is given twice", reason=Reason.INPUT_DUPLICATE, input=one.name
                )
            if raw and one.HasField("contents"):
                raise InvalidArgument(
                    f"input {one.name!r} has contents beside raw_input_contents; give one of them",
                    reason=Reason.BYTES_MISMATCH, input=one.name,
                )  # fmt: skip
            data = raw[k] if raw else _typed(one)
            tensor = pb.Tensor(name=one.name, datatype=one.datatype, shape=one.shape, raw=data)
            arrays[one.name] = tensors.decode(tensor)
    for output in request.outputs:
        with found.at(f"outputs.{output.name}"):
            refuse_parameters(f"output {output.name!r}", output.parameters)
    found.raise_if_any()
    return arrays


def _typed(one: oip.ModelInferRequest.InferInputTensor) -> bytes:
    """The bytes of typed contents. Raises: InvalidArgument, if they are in a wrong field, too many or too large."""
    field = CONTENTS.get(one.datatype)
    held = [descriptor.name for descriptor, _ in one.contents.ListFields()]
    if field is None or any(name != field for name in held):
        where = f"in {field}" if field else "in raw_input_contents"
        raise InvalidArgument(
            f"input {one.name!r}: the values of {one.datatype or 'a tensor without datatype'} are given {where}, not "
            f"in {', '.join(name for name in held if name != field) or 'contents'}",
            reason=Reason.DTYPE_MISMATCH, input=one.name,
        )  # fmt: skip
    values = list(getattr(one.contents, field))
    if math.prod(one.shape) != len(values):
        raise InvalidArgument(
            f"input {one.name!r}: expected {math.prod(one.shape)} values for {list(one.shape)}, got {len(values)}",
            reason=Reason.BYTES_MISMATCH, input=one.name,
        )  # fmt: skip
    if one.datatype == "BYTES":
        array = np.empty(len(values), object)
        array[:] = values
        return tensors.to_bytes(array)
    try:
        return np.array(values, tensors.DATATYPES[one.datatype]).tobytes()
    except OverflowError:
        raise InvalidArgument(
            f"input {one.name!r}: a value is out of the range of {one.datatype}",
            reason=Reason.DTYPE_MISMATCH, input=one.name,
        ) from None  # fmt: skip
