"""The bare messages to a server around the fake engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.proto import tensors
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, X

INPUT = tensors.encode("x", X)


class Stubs:
    """Both services' stubs on one channel."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.attributions: Any = rpc.AttributionServiceStub(self.channel)
        self.models: Any = rpc.ModelServiceStub(self.channel)


@contextmanager
def serving(engine: FakeEngine | None = None, **settings: Any) -> Iterator[Stubs]:
    with app.background(engine or FakeEngine(), Settings(port=0, grace_seconds=2, **settings)) as (
        address,
        _,
    ):
        stubs = Stubs(address)
        with stubs.channel:
            yield stubs


def ask(model: str = "linear", **fields: Any) -> pb.AttributeRequest:
    methods = pb.AttributeRequest.DESCRIPTOR.oneofs_by_name["method"].fields
    default = {} if any(one.name in fields for one in methods) else {"neuron_ig": pb.NeuronIG()}
    return pb.AttributeRequest(**{"model": model, "inputs": [INPUT], **default, **fields})
