"""Clients of the attribution server, for threads and for asyncio. They need numpy and grpcio, no ONNX runtime."""

from onnx_attribution.client.aio import AsyncClient
from onnx_attribution.client.channel import Tls
from onnx_attribution.client.client import Client
from onnx_attribution.client.streams import AsyncStream, Stream
from onnx_attribution.values import Target

__all__ = ["AsyncClient", "AsyncStream", "Client", "Stream", "Target", "Tls"]
