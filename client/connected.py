"""What both clients are made of: a channel to a server, with a stub of each of its services."""

from __future__ import annotations

from typing import Any, ClassVar

import grpc

from onnx_attribution.client import calls
from onnx_attribution.client.channel import CHANNEL_OPTIONS, Link, Tls
from onnx_attribution.proto import attribution_pb2_grpc as rpc

__all__ = ["Connected"]


class Connected:
    """A channel of `_grpc`, which is `grpc` or `grpc.aio`, and the stubs of services by their names."""

    _grpc: ClassVar[Any]

    def __init__(
        self,
        address: str = "127.0.0.1:8081",
        *,
        tls: Tls | bool = False,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        allow_insecure: bool = False,
    ) -> None:
        link = Link(address, tls, token, credentials, allow_insecure)
        self._channel = link.channel(self._grpc, CHANNEL_OPTIONS)
        self._stubs = {
            "AttributionService": link.stub(rpc.AttributionServiceStub, self._channel),
            calls.PREDICTION: link.stub(calls.Prediction, self._channel),
            "ModelService": link.stub(rpc.ModelServiceStub, self._channel),
            "ServerService": link.stub(rpc.ServerServiceStub, self._channel),
        }
        self._only_inputs: dict[str, str] = {}  # by model, of which one input was all there is
