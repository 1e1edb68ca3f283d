"""Serving on Ray: replicas behind Ray's gRPC proxies, each with the whole server on a port of its own machine.

A replica answers a call by asking its own server the same, so that what callers see is what that server says: streams,
statuses with their details, limits, health. Ray passes on neither deadlines nor who calls: deadlines come as metadata,
and a caller without a token may not change models. Ray's proxies do not encrypt: what stands before them has to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2

from onnx_attribution.client.channel import TIMEOUT
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto.wire import serialised
from onnx_attribution.server import app
from onnx_attribution.server.operate.metrics import Metrics
from onnx_attribution.server.service.repository import Repository
from onnx_attribution.server.settings import Settings

__all__ = ["SERVICER_FUNCTIONS", "deployment", "serve_ray"]

SERVICES: tuple[ServiceDescriptor, ...] = (
    *pb.DESCRIPTOR.services_by_name.values(),
    *health_pb2.DESCRIPTOR.services_by_name.values(),
)
METHODS: dict[str, MethodDescriptor] = {
    method.full_name: method for service in SERVICES for method in service.methods
}
SERVICER_FUNCTIONS = [
    *(
        f"onnx_attribution.proto.attribution_pb2_grpc.add_{name}Servicer_to_server"
        for name in pb.DESCRIPTOR.services_by_name
    ),
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
]
"""What Ray's proxies are told to listen for."""
PASSED_ON = ("authorization", "traceparent", "tracestate")
MIB = 1 << 20


class Replica:
    """The server of one replica, and a channel to it."""

    def __init__(self, settings: Mapping[str, Any], gpus: float) -> None:
        given = {"default_role": "attribute", "max_per_caller": 0, **settings}
        own = Settings(**{**given, "host": "127.0.0.1", "port": 0, "http": False})
        if 0 < gpus < 1:
            share = max(1, int(own.memory_budget_mib * gpus))
            own = own.model_copy(update={"memory_budget_mib": share})
        self._held = ExitStack()
        metrics = Metrics()
        engine = app.engine_of(own, metrics)
        self._held.callback(engine.close)
        repository = Repository(engine, own.models)
        repository.start(app.log_skipped)
        self.address, self._server = self._held.enter_context(
            app.background(engine, own, repository, metrics=metrics)
        )
        self._most = own.max_request_mib * MIB, int((own.max_response_mib + 1) * MIB)
        self._channel: grpc.aio.Channel | None = None

    def call(self, name: str, request: Any, context: Any) -> Any:
        """The same call to the own server, within the time that it has; `name` is the full one."""
        method = METHODS[name]
        if self._channel is None:  # on the loop that answers
            sent, received = self._most
            options = (("grpc.max_send_message_length", sent), ("grpc.max_receive_message_length", received))
            self._channel = grpc.aio.insecure_channel(self.address, options)
        kind = f"{_kind(method.client_streaming)}_{_kind(method.server_streaming)}"
        response = message_factory.GetMessageClass(method.output_type)
        make = getattr(self._channel, kind)(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=serialised, response_deserializer=response.FromString,
        )  # fmt: skip
        given = dict(context.invocation_metadata())
        metadata = tuple((key, given[key]) for key in PASSED_ON if key in given)
        return make(request, timeout=_seconds(given.get(TIMEOUT)), metadata=metadata)

    def unready(self) -> str:
        """What stands in the way of calls, "" if nothing does."""
        return self._server.unready()

    def close(self) -> None:
        self._held.close()


def _kind(streams: bool) -> str:
    return "stream" if streams else "unary"


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(float(text), 0.0)
    except ValueError:
        return None


def _refused(error: grpc.aio.AioRpcError, name: str, context: Any) -> Any:
    """Puts the status where Ray takes it from, and makes the message that carries it there.

    Ray passes trailing metadata on with messages only, not with exceptions. gRPC leaves out the message of a unary
    call that failed; a stream ends with one that says nothing.
    """
    context.set_code(error.code())
    context.set_details(error.details() or "")
    context.set_trailing_metadata([(key, value) for key, value in error.trailing_metadata() or ()])
    return message_factory.GetMessageClass(METHODS[name].output_type)()


def _unary(name: str) -> Callable[..., Any]:
    async def answer(self: Any, request: Any, grpc_context: Any) -> Any:
        call = await self.begin(name, request, grpc_context)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            return _refused(error, name, grpc_context)
        finally:
            call.cancel()

    return answer


def _stream(name: str) -> Callable[..., Any]:
    async def answers(self: Any, request: Any, grpc_context: Any) -> AsyncIterator[Any]:
        call = await self.begin(name, request, grpc_context)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            yield _refused(error, name, grpc_context)
        finally:
            call.cancel()

    return answers


def deployment(settings: Mapping[str, Any], *, gpus: float = 0, models_each: int = 0) -> type:
    """The class that Ray deploys: a method for each call of the services.

    `settings` are those of `serve`; `gpus` what a replica has of them: of a fraction the memory budget is the same
    fraction. `models_each`: how many models a replica is to hold of those that callers name, so that Ray sends a
    model's calls to where it is loaded; 0: each holds all that it is asked for.
    """
    from ray import serve

    class AttributionDeployment:
        def __init__(self) -> None:
            given = {**settings, **({"most_loaded": models_each} if models_each else {})}
            self._replica = Replica(given, gpus)

        async def begin(self, name: str, request: Any, context: Any) -> Any:
            model = serve.get_multiplexed_model_id()
            if models_each and model:
                await self.hold(model)
            return self._replica.call(name, request, context)

        async def hold(self, model: str) -> str:
            return model

        def check_health(self) -> None:
            if why := self._replica.unready():
                raise RuntimeError(why)

        def __del__(self) -> None:
            self._replica.close()

    if models_each:
        AttributionDeployment.hold = serve.multiplexed(max_num_models_per_replica=models_each)(  # type: ignore[method-assign]
            AttributionDeployment.hold
        )
    for service in SERVICES:
        for method in service.methods:
            make = _stream if method.server_streaming else _unary
            setattr(AttributionDeployment, method.name, make(method.full_name))
    return AttributionDeployment


def serve_ray(
    settings: Mapping[str, Any],
    *,
    port: int = 9000,
    replicas: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    models_each: int = 0,
    name: str = "onnx-attribution",
) -> Any:
    """Deploys on the cluster that this process is connected to, and returns Ray's handle.

    Ray's proxies listen on `port` of every node and every interface, unencrypted. Clients are those of any server:
    `Client("node:9000")`.

    Raises:
        InvalidArgument: Ray Serve is not installed.
    """
    try:
        from ray import serve
        from ray.serve.config import gRPCOptions
    except ModuleNotFoundError:
        raise InvalidArgument("serving on Ray needs ray: pip install 'onnx-attribution[ray]'") from None
    serve.start(
        proxy_location="EveryNode",
        http_options={"host": "127.0.0.1", "port": 0},
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=SERVICER_FUNCTIONS),
    )
    made = serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=256,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        graceful_shutdown_timeout_s=30,
        health_check_period_s=5,
    )(deployment(settings, gpus=gpus, models_each=models_each))
    return serve.run(made.bind(), name=name)
