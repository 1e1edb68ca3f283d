"""What is served, and how that is changed: messages to calls of the engine and the model directories, and back."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from onnx_attribution.errors import AttributionError, InvalidArgument, Reason, Unsupported
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.proto import catalog
from onnx_attribution.server.service.attribution import Engine
from onnx_attribution.server.service.pages import page
from onnx_attribution.server.service.repository import Repository
from onnx_attribution.server.service.status import Scrub
from onnx_attribution.server.service.threads import Work
from onnx_attribution.server.service.upload import MIB, Upload
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import ModelInfo

Result = TypeVar("Result")


class ModelService(rpc.ModelServiceServicer):
    """What is served by an engine, and the changes that its model directories bring."""

    def __init__(
        self, engine: Engine, work: Work, settings: Settings, scrub: Scrub, repository: Repository
    ) -> None:
        self._engine, self._repository = engine, repository
        self._settings = settings
        self._scrub = scrub
        self._run = functools.partial(work.run, seconds=settings.unary_seconds, compute=False)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        def listed() -> tuple[list[pb.Model], str]:
            models = sorted(self._engine.models(), key=lambda info: (info.name, info.version))
            return page(models, self._message, request, (100, 1000))

        found, token = await self._run(listed)
        return pb.ListModelsResponse(models=found, next_page_token=token)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        info = await self._run(lambda: self._engine.info(request.model))
        return pb.GetModelResponse(model=self._message(info))

    async def ListLayers(self, request: pb.ListLayersRequest, context: Any) -> pb.ListLayersResponse:
        def listed() -> tuple[list[pb.Layer], str]:
            layers = self._engine.layers(request.model, request.filter, request.target)
            return page(
                layers,
                catalog.to_layer,
                request,
                (1000, 10000),
                f"{request.model}\n{request.filter}\n{request.target}",
            )

        found, token = await self._run(listed)
        return pb.ListLayersResponse(layers=found, next_page_token=token)

    async def LoadModel(self, request: pb.LoadModelRequest, context: Any) -> pb.LoadModelResponse:
        info = await self._change(lambda: self._repository.load(request.model))
        return pb.LoadModelResponse(model=self._message(info))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Any) -> pb.UnloadModelResponse:
        await self._change(lambda: self._repository.unload(request.model))
        return pb.UnloadModelResponse()

    async def UploadModel(
        self, request_iterator: AsyncIterator[pb.UploadModelRequest], context: Any
    ) -> pb.UploadModelResponse:
        if not self._settings.uploads or not self._repository.folders:
            raise Unsupported("this server takes no uploads", reason=Reason.UPLOADS_OFF)
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "begin":
            raise InvalidArgument("the first message of an upload is `begin`")
        begin, most = first.begin, self._settings.max_upload_mib * MIB
        folder, taken = self._repository.folders[0], self._repository.versions
        with await asyncio.to_thread(
            Upload, folder, begin.name, begin.version, begin.size, begin.sha256, most, taken
        ) as upload:
            async for message in request_iterator:
                if message.WhichOneof("part") != "data":
                    raise InvalidArgument("`begin` is followed by data only")
                await asyncio.to_thread(upload.add, message.data)
            target = await asyncio.to_thread(upload.commit)
        name = f"{upload.name}/versions/{upload.version}"
        try:
            info = await self._change(lambda: self._repository.load(name))
        except AttributionError:
            await self._change(lambda: self._repository.discard(name, target))
            raise
        return pb.UploadModelResponse(model=self._message(info))

    async def _change(self, function: Callable[[], Result]) -> Result:
        """On a thread of its own: it may wait for long, and questions go on."""
        return await asyncio.to_thread(function)

    def _message(self, info: ModelInfo) -> pb.Model:
        return catalog.to_model(dataclasses.replace(info, reason=self._scrub(info.reason)))
