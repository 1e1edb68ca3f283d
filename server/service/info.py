"""What the server is: versions, devices and limits."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from onnx_attribution import __version__
from onnx_attribution.graph_tools.catalogue import catalogue
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.server.service.attribution import Engine
from onnx_attribution.server.service.threads import Work
from onnx_attribution.server.settings import Settings

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnx", "grpcio", "protobuf", "numpy")
LIMITS = (
    "max_request_mib", "max_response_mib", "max_samples", "max_steps", "max_unary", "max_streams", "max_audits",
    "max_per_caller", "audit_window", "unary_seconds",
    "stream_seconds", "max_seconds", "heartbeat_seconds", "audit_idle_seconds",
    "memory_budget_mib", "most_loaded", "max_upload_mib",
)  # fmt: skip
"""The settings that callers meet."""


class ServerService(rpc.ServerServiceServicer):
    """GetServerInfo."""

    def __init__(self, engine: Engine, work: Work, settings: Settings) -> None:
        self._engine, self._work, self._settings = engine, work, settings

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        return await self._work.run(self._info, self._settings.unary_seconds, compute=False)

    def _info(self) -> pb.GetServerInfoResponse:
        settings, models = self._settings, self._engine.models()
        limits = {name: float(getattr(settings, name)) for name in LIMITS}
        return pb.GetServerInfoResponse(
            version=__version__,
            versions=_versions(),
            provider=str(getattr(self._engine, "provider", "")),
            threads=settings.threads,
            devices=settings.devices,
            limits=limits,
            methods=[method.name for method in self._engine.methods()],
            operators=_operators(),
            uploads=settings.uploads,
            models=len(models),
            loaded_models=sum(model.state == "READY" for model in models),
        )


@functools.cache
def _operators() -> list[str]:
    """Those with a derivative, of other domains than ONNX's own with the domain in front."""
    found = (entry for entry in catalogue() if entry.gradient not in ("refused", "zero"))
    return [f"{entry.domain}::{entry.operator}" if entry.domain else entry.operator for entry in found]


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
